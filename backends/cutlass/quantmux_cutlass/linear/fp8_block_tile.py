"""A tile of the block-scaled FP8 linear, as its library is told of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ALONE: Final = 0
SHARE_W: Final = 1
SHARE_X: Final = 2
SPLIT_K: Final = 3
"""What a cluster does: ``Sharing`` of ``csrc/linear/block_order.cuh``."""

ROWS: Final = (64, 128, 256)
"""Rows that a tile can have, in the order of the library's option."""


@dataclass(frozen=True, slots=True)
class Tile:
    """What a CTA computes, and what it has in common with its cluster.

    Attributes:
        rows: Rows of y: 64, 128 or 256.
        columns: Columns of y.
        sharing: `ALONE`, `SHARE_W`, `SHARE_X` or `SPLIT_K`.
        cluster: CTAs of a cluster.
        ahead: The next K block is started before the last one is promoted.
    """

    rows: int
    columns: int
    sharing: int = ALONE
    cluster: int = 1
    ahead: bool = False

    def options(self, *, width: int, along_m: bool) -> tuple[int, ...]:
        """Give what ``qm_plan`` is told: the tile, and the bands that tiles are taken in."""
        rows = ROWS.index(self.rows)
        return (
            self.columns,
            rows,
            self.sharing,
            self.cluster,
            width,
            int(along_m),
            int(self.ahead),
        )
