"""Tiles of inverse_rope_quantize: tokens and heads of a program, and its warps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from quantmux_triton.interpreter import interpreting
from quantmux_triton.tuned import tuned

STEM: Final = "inverse_rope_quantize"

_TOKENS: Final = 4
_COLUMNS: Final = 512
"""Columns of a token that a program takes, in whole heads.

4 tokens x 1 head of 512 columns with 2 warps: of 7 tiles the fastest from 512 tokens on, and within
14 % for one token (H200, 2026-11-21, 16, 64 and 128 heads, CUDA graph past the L2)."""


@dataclass(frozen=True, slots=True)
class Tile:
    """What one program takes.

    Attributes:
        tokens: Tokens, a power of two.
        heads: Heads of a token, a power of two.
        num_warps: Warps that work on it.
    """

    tokens: int
    heads: int
    num_warps: int


def tile(heads: int, head_dim: int, width: int, layout: str, device: str) -> Tile:
    """Give the one tile of a config: it serves every number of tokens, so that none adds a variant.

    What was measured on the device for the nearest number of heads is taken first.

    Args:
        heads: Heads of a token.
        head_dim: Columns of a head.
        width: Columns that share a scale.
        layout: Scale layout.
        device: Name of the device's profile.
    """
    if interpreting():
        return Tile(32, 1 << (heads - 1).bit_length(), 1)
    measured = tuned(device, STEM, layout, n=heads, k=head_dim, m=1)
    if measured:
        return Tile(**measured)
    across = max(1, min(_power_of_two_below(heads), _COLUMNS // head_dim))
    # 8 elements a thread of each of a head's groups
    warps = max(1, min(8, _power_of_two_below(_TOKENS * across * width // 256)))
    return Tile(_TOKENS, across, warps)


def _power_of_two_below(value: int) -> int:
    return 1 << (max(value, 1).bit_length() - 1)
