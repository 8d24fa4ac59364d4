"""Tiles of inverse_rope_quantize: tokens and heads of a program, and its warps."""

from __future__ import annotations

from dataclasses import dataclass

from quantmux_triton.interpreter import interpreting


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


def tile(heads: int, head_dim: int) -> Tile:
    """Give the one tile of a config: it serves every number of tokens, so that none adds a variant.

    Args:
        heads: Heads of a token.
        head_dim: Columns of a head.
    """
    if interpreting():
        return Tile(32, 1 << (heads - 1).bit_length(), 1)
    across = max(1, min(_power_of_two_below(heads), 1024 // head_dim))
    return Tile(4, across, 4)


def _power_of_two_below(value: int) -> int:
    return 1 << (value.bit_length() - 1)
