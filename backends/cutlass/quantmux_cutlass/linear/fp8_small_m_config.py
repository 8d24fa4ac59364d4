"""How the products for few tokens are cut up: which tile, how many blocks share K, how many stages.

No torch here: selection asks for expected times.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from quantmux_cutlass.linear.choice import Choice
from quantmux_cutlass.linear.units_small_m import BLOCK, ROW

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LayerConfig, LinearConfig

M_MAX: Final = 64
"""Most tokens: the widest tile. Beyond, weights would be read once more for each tile of tokens."""

Kind = Literal["row", "exact", "block"]

FORMS: Final = frozenset(
    {
        *((tokens, 64, teams) for tokens in (8, 16, 32, 64) for teams in (1, 2)),
        *((tokens, 128, 1) for tokens in (16, 32, 64)),
        (64, 128, 2),
    }
)
"""Tiles that the libraries hold: tokens, rows of the weights, teams; as in stream_library.cuh."""

MOST_SHARED: Final = 227 * 1024
"""Bytes of shared memory that one block of sm_90 may have."""

_SHARED_FOR_TWO: Final = 113 * 1024
"""Bytes with which a block of the next kernel fits beside it and may begin its stream."""

_K_BLOCK: Final = 128
_SMS: Final = 132
_MOST_SPLITS: Final = 8
"""Blocks of a cluster that every sm_90 part can place."""


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

    def shared_bytes(self, *, block: bool) -> int:
        """Give the shared memory of one block, as ``Shape`` of stream.cuh computes it."""
        registers = self.tokens // 2
        vector = 4 if registers >= 32 else 2
        groups = registers // vector
        owned = -(-groups // self.teams // self.splits)
        scales = (self.tokens + 4) * 4 if block else 0
        a_stage = (self.rows + self.tokens) * _K_BLOCK + scales + 16
        inbox = self.teams * owned * (self.splits - 1) * 2 * self.rows * vector * 4
        return self.stages * a_stage + inbox + self.tokens * 4 + 8

    @property
    def least_stages(self) -> int:
        """Stages in whose memory the sums of the teams can meet."""
        if self.teams == 1:
            return 1
        sums = self.teams * self.rows * self.tokens * 4
        return max(self.teams, -(-sums // ((self.rows + self.tokens) * _K_BLOCK)))


def choose(config: LinearConfig, device: DeviceProfile, m: int) -> Choice:
    """Give library and options for y [m, N]."""
    weight = config.scheme.weight
    block = weight.block.rows > 1
    exact = config.scheme.accumulation == "exact"
    kind: Kind = "block" if block else "exact" if exact else "row"
    cut = cut_for(kind, n=config.n, k=config.k, m=m, sms=device.sm_count or _SMS)
    mode = int(exact and not block)
    options = (cut.tokens, cut.rows, cut.splits, cut.stages, mode, cut.teams, cut.share)
    return Choice(BLOCK if block else ROW, options, cut.pdl)


def cut_for(kind: Kind, *, n: int, k: int, m: int, sms: int = _SMS) -> Cut:
    """Give the cut for a product.

    Args:
        kind: ``row`` adds up in the tensor core, ``exact`` and ``block`` promote every 128 of K.
        n: Rows of the weights.
        k: Products of a sum.
        m: Tokens.
        sms: Multiprocessors.
    """
    tokens = next((t for t in (8, 16, 32) if m <= t), M_MAX)
    rows = 64
    k_blocks = -(-k // _K_BLOCK)
    tiles = -(-n // rows)
    splits = max(1, min(_MOST_SPLITS, k_blocks, sms // tiles))
    return _with_stages(Cut(tokens, rows, splits, -(-k_blocks // splits)), block=kind == "block")


def _with_stages(cut: Cut, *, block: bool) -> Cut:
    """Give the cut with as many stages as it needs, or as leave room for the next kernel."""
    for stages in range(cut.stages, cut.least_stages, -1):
        fewer = replace(cut, stages=stages)
        if fewer.shared_bytes(block=block) <= _SHARED_FOR_TWO:
            return fewer
    return replace(cut, stages=cut.least_stages)


def expected_us(config: LayerConfig, device: DeviceProfile, m: int) -> float:
    """Give µs for an M: a start and the bytes; infinite for another op or a larger M."""
    if config.op != "linear" or m > M_MAX:
        return float("inf")
    moved = config.n * config.k + m * (config.k + 2 * config.n)
    return _STARTED_US + moved / ((device.copy_gb_s or _COPY_GB_S) * _SHARE_OF_COPY * 1e3)


_STARTED_US: Final = 2.0
_COPY_GB_S: Final = 4000.0
_SHARE_OF_COPY: Final = 0.85
