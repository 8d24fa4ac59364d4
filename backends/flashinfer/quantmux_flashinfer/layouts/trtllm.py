"""The order of rows in weights for trtllm-gen's GEMMs.

Those kernels compute yᵀ = W · xᵀ, so that W is what they call A, and they want its rows dealt out:
of every 32 rows, which are 8 hands of 4, row 4a + b of the checkpoint becomes row 8b + a. (That is
for epilogues of whole 128 rows; others, which no kernel of ours uses, deal 16 rows.) Scales of
weights go with their rows, before they are laid out in 128x4 tiles, whence N is a whole number of
128 rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux.ops.layouts import swizzle_128x4, unswizzle_128x4

if TYPE_CHECKING:
    import torch

BLOCK: Final = 32
"""Rows that are dealt out among themselves."""

HAND: Final = 4
"""Neighbouring rows that end up BLOCK / HAND rows apart."""


def shuffled_rows(matrix: torch.Tensor) -> torch.Tensor:
    """Give a matrix [N, W] with rows in the order that the kernels read; a copy.

    Args:
        matrix: Any dtype that torch can copy; N is a multiple of 32.
    """
    return _dealt(matrix, BLOCK // HAND, HAND)


def unshuffled_rows(matrix: torch.Tensor) -> torch.Tensor:
    """Undo `shuffled_rows`."""
    return _dealt(matrix, HAND, BLOCK // HAND)


def shuffled_scales(grid: torch.Tensor) -> torch.Tensor:
    """Give the scales of weights, bytes [N, C], in the order of their rows and in 128x4 tiles.

    Args:
        grid: Row-major scales as uint8; N is a multiple of 128, C of 4.
    """
    return swizzle_128x4(shuffled_rows(grid))


def unshuffled_scales(tiles: torch.Tensor) -> torch.Tensor:
    """Undo `shuffled_scales`."""
    return unshuffled_rows(unswizzle_128x4(tiles))


def _dealt(matrix: torch.Tensor, high: int, low: int) -> torch.Tensor:
    rows, width = matrix.shape
    blocks = matrix.reshape(rows // BLOCK, high, low, width)
    return blocks.transpose(1, 2).reshape(rows, width)
