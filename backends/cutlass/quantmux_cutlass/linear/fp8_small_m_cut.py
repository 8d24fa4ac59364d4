"""One way to cut up a product for few tokens, and what of it fits a multiprocessor."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

FORMS: Final = frozenset(
    {
        *((tokens, 64, teams) for tokens in (8, 16, 32, 64) for teams in (1, 2)),
        *((tokens, 128, 1) for tokens in (16, 32, 64)),
        (64, 128, 2),
        *((64, rows, 1) for rows in (96, 112, 144, 192, 224)),
    }
)
"""Tiles that the libraries hold: tokens, rows of the weights, teams; as in stream_library.cuh."""

MOST_SHARED: Final = 227 * 1024
"""Bytes of shared memory that one block of sm_90 may have."""

SHARED_FOR_TWO: Final = 113 * 1024
"""Bytes with which a block of the next kernel fits beside it and may begin its stream."""

K_BLOCK: Final = 128
_MOST_TALL_ROWS: Final = 128
_REGISTERS_BY_FOUR: Final = 24


@dataclass(frozen=True, slots=True)
class Cut:
    """One way to cut up a product.

    Attributes:
        tokens: Tokens of a tile.
        rows: Rows of the weights of a tile.
        splits: Blocks of a cluster that share a tile's K.
        stages: Blocks of 128 of K that are on their way at once.
        teams: Teams of consumers of a block, which take blocks of K in turn.
        share: Neighbouring tiles that get x together.
        pdl: Start beside the kernel before.
    """

    tokens: int
    rows: int
    splits: int
    stages: int
    teams: int = 1
    share: int = 1
    pdl: bool = True

    @property
    def upright(self) -> bool:
        """Whether tokens are the tall side of the matrix instruction, not rows of the weights."""
        return self.rows % 64 != 0 or self.rows > _MOST_TALL_ROWS

    @property
    def _registers(self) -> int:
        """Accumulators of a thread."""
        return self.rows // 4 if self.upright else self.tokens // 2

    @property
    def _threads(self) -> int:
        """Threads of a team: a warp group, or two beside each other."""
        return 256 if self.upright else 2 * self.rows

    def shared_bytes(self, *, block: bool) -> int:
        """Give the shared memory of one block, as ``Shape`` of stream.cuh computes it."""
        vector = 4 if self._registers >= _REGISTERS_BY_FOUR else 2
        owned = -(-(self._registers // vector // self.teams) // self.splits)
        inbox = self.teams * owned * (self.splits - 1) * self._threads * vector * 4
        scales = (self.tokens + 4) * 4 if block else 0
        a_stage = (self.rows + self.tokens) * K_BLOCK + scales + 16
        of_rows = 2 * self.rows * 4 if self.upright else 0
        return self.stages * a_stage + inbox + self.tokens * 4 + of_rows + 8

    def holds(self, stages: int, k_blocks: int) -> bool:
        """Tell whether the tile can work with so many stages, whatever their size."""
        sums = self.teams * self._threads * self._registers * 4 if self.teams > 1 else 0
        if stages < self.teams or stages * (self.rows + self.tokens) * K_BLOCK < sums:
            return False
        # a stage that is filled again must come back to its team, which holds one and waits for one
        again = stages < -(-k_blocks // self.splits)
        return not again or (stages % self.teams == 0 and stages >= 2 * self.teams)


def with_stages(cut: Cut, k_blocks: int, *, block: bool, most: int = SHARED_FOR_TWO) -> Cut:
    """Give the cut with as many stages as it needs, or as ``most`` bytes of shared memory hold."""
    needed = -(-k_blocks // cut.splits)
    possible = [s for s in range(1, 65) if cut.holds(s, k_blocks)]
    enough = next(s for s in possible if s >= needed or s == possible[-1])
    fits = [
        stages
        for stages in possible
        if stages <= enough and replace(cut, stages=stages).shared_bytes(block=block) <= most
    ]
    return replace(cut, stages=fits[-1] if fits else possible[0])
