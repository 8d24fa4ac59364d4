"""How the products for few tokens are cut up: which tile, how many blocks share K, how many stages.

No torch here: selection asks for expected times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from quantmux_cutlass.linear.choice import Choice
from quantmux_cutlass.linear.units_small_m import BLOCK, ROW

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LayerConfig, LinearConfig

M_MAX: Final = 128
"""Most tokens: the widest tile. Beyond, weights would be read once more for each tile of tokens."""

Kind = Literal["row", "exact", "block"]

FORMS: Final = frozenset(
    {(8, 64), (16, 64), (32, 64), (64, 64), (16, 128), (32, 128), (64, 128), (128, 128)}
)
"""Tiles that the libraries hold: tokens, rows of the weights (`FORMS` in stream_library.cuh)."""

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
        splits: Blocks of a cluster that share K.
        stages: Blocks of 128 of K that are on their way at once.
    """

    tokens: int
    rows: int
    splits: int
    stages: int

    def shared_bytes(self, *, block: bool) -> int:
        """Give the shared memory of one block, as ``Shape`` of stream.cuh computes it."""
        consumers = 2 * self.rows
        registers = self.tokens // 2
        vector = 4 if registers >= 32 else 2
        owned = -(-registers // vector // self.splits)
        scales = (self.tokens + 4) * 4 if block else 0
        a_stage = (self.rows + self.tokens) * _K_BLOCK + scales + 16
        inbox = owned * (self.splits - 1) * consumers * vector * 4
        return self.stages * a_stage + inbox + self.tokens * 4 + 8


def choose(config: LinearConfig, device: DeviceProfile, m: int) -> Choice:
    """Give library and options for y [m, N]."""
    weight = config.scheme.weight
    block = weight.block.rows > 1
    exact = config.scheme.accumulation == "exact"
    kind: Kind = "block" if block else "exact" if exact else "row"
    cut = cut_for(kind, n=config.n, k=config.k, m=m, sms=device.sm_count or _SMS)
    options = (cut.tokens, cut.rows, cut.splits, cut.stages, int(exact and not block))
    return Choice(BLOCK if block else ROW, options)


def cut_for(kind: Kind, *, n: int, k: int, m: int, sms: int = _SMS) -> Cut:
    """Give the cut for a product.

    Args:
        kind: ``row`` adds up in the tensor core, ``exact`` and ``block`` promote every 128 of K.
        n: Rows of the weights.
        k: Products of a sum.
        m: Tokens.
        sms: Multiprocessors.
    """
    tokens = next((t for t in (8, 16, 32, 64, 128) if m <= t), M_MAX)
    rows = 128 if tokens == M_MAX else 64
    k_blocks = -(-k // _K_BLOCK)
    tiles = -(-n // rows)
    splits = max(1, min(_MOST_SPLITS, k_blocks, round(2 * sms / tiles)))
    return _with_stages(Cut(tokens, rows, splits, -(-k_blocks // splits)), block=kind == "block")


def _with_stages(cut: Cut, *, block: bool) -> Cut:
    """Give the cut with as many stages as it needs, or as leave room for the next kernel."""
    most = _SHARED_FOR_TWO if cut.tokens < M_MAX else MOST_SHARED
    for stages in range(cut.stages, 1, -1):
        fewer = Cut(cut.tokens, cut.rows, cut.splits, stages)
        if fewer.shared_bytes(block=block) <= most:
            return fewer
    return Cut(cut.tokens, cut.rows, cut.splits, min(cut.stages, 2))


def expected_us(config: LayerConfig, device: DeviceProfile, m: int) -> float:
    """Give µs for an M: a start and the bytes; infinite for another op or a larger M."""
    if config.op != "linear" or m > M_MAX:
        return float("inf")
    moved = config.n * config.k + m * (config.k + 2 * config.n)
    return _STARTED_US + moved / ((device.copy_gb_s or _COPY_GB_S) * _SHARE_OF_COPY * 1e3)


_STARTED_US: Final = 2.0
_COPY_GB_S: Final = 4000.0
_SHARE_OF_COPY: Final = 0.85
