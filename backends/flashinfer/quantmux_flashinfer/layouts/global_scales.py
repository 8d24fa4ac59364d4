"""Global scales of NVFP4: we store the multiplier g, FlashInfer's quantizers take G = 1 / g.

Its GEMMs take multipliers: alpha = RN(g_x · g_w). One rounding is all that may happen on the way,
so that G is the very number that the definition quantizes with (docs/numerics.md).
"""

from __future__ import annotations

import torch


def encode_scale(g: torch.Tensor) -> torch.Tensor:
    """Give G = RN(1 / g), fp32 [1], for fp32 [1] multipliers; one launch on a GPU."""
    return torch.reciprocal(g)


def decode_scale(encode: torch.Tensor) -> torch.Tensor:
    """Give RN(1 / G), fp32 [1]: within one unit in the last place of the g that G came from.

    Two roundings do not undo each other: who has g keeps it.
    """
    return torch.reciprocal(encode)


def alpha_of(g_x: torch.Tensor, g_w: torch.Tensor) -> torch.Tensor:
    """Give alpha = RN(g_x · g_w), fp32 [1], of two multipliers fp32 [1]; one launch on a GPU."""
    return torch.mul(g_x, g_w)
