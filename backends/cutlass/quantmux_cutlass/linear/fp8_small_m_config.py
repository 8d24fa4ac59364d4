"""How the products for few tokens are cut up: as measured, or as the nearest measured shape was.

No torch here: selection asks for expected times.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Literal

from quantmux.config.layouts import round_up
from quantmux_cutlass.linear.choice import Choice
from quantmux_cutlass.linear.fp8_small_m_cut import K_BLOCK, Cut, with_stages
from quantmux_cutlass.linear.fp8_small_m_measured import H200
from quantmux_cutlass.linear.units_small_m import BLOCK, ROW

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LayerConfig, LinearConfig

M_MAX: Final = 64
"""Most tokens: the widest tile. Beyond, weights would be read once more for each tile of tokens."""

Kind = Literal["row", "exact", "block"]

_CLASSES: Final = (8, 16, 32, 64)
"""Tokens of a tile."""

_SMS: Final = 132
_MOST_SPLITS: Final = 8
"""Blocks of a cluster that every sm_90 part can place."""

_LEAST_BLOCKS: Final = 2
"""Blocks of K of a split at least: the sums' meeting takes longer than reading one."""

_UPRIGHT_ROWS: Final = (96, 112, 144, 192, 224)


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
    tokens = next(t for t in _CLASSES if m <= t or t == M_MAX)
    measured = H200["block" if kind == "block" else "row", tokens]
    found = measured.get((n, k)) if sms == _SMS else None
    if found is not None:
        return found
    near = min(measured, key=lambda shape: _distance(shape, (n, k)))
    return _adapted(measured[near], near, (n, k), sms, block=kind == "block")


def _distance(one: tuple[int, int], other: tuple[int, int]) -> float:
    return sum(abs(math.log(a / b)) for a, b in zip(one, other, strict=True))


def _adapted(
    cut: Cut, near: tuple[int, int], shape: tuple[int, int], sms: int, *, block: bool
) -> Cut:
    """Give a measured cut with splits and stages for another shape.

    As many blocks a multiprocessor, and as much shared memory for each, as were the fastest there.
    """
    n, k = shape
    k_blocks = -(-k // K_BLOCK)
    blocks = -(-near[0] // cut.rows) * cut.splits / _SMS  # of a multiprocessor
    memory = cut.shared_bytes(block=block)
    if cut.upright:
        cut = replace(cut, rows=_upright_rows(n, sms))
    tiles = round_up(-(-n // cut.rows), cut.share)
    most = min(_MOST_SPLITS // cut.share, k_blocks // _LEAST_BLOCKS)
    splits = max(1, min(most, int(max(blocks, 1.0) * sms / tiles)))
    return with_stages(replace(cut, splits=splits), k_blocks, block=block, most=memory)


def _upright_rows(n: int, sms: int) -> int:
    """Give the rows of a tile with which the fullest multiprocessor has the fewest."""
    return min(_UPRIGHT_ROWS, key=lambda rows: (round_up(-(-n // rows), sms) // sms * rows, -rows))


def expected_us(config: LayerConfig, device: DeviceProfile, m: int) -> float:
    """Give µs for an M: a start and the bytes; infinite for another op or a larger M."""
    if config.op != "linear" or m > M_MAX:
        return float("inf")
    moved = config.n * config.k + m * (config.k + 2 * config.n)
    rate = (device.copy_gb_s or _COPY_GB_S) * _SHARE_OF_COPY * 1e3
    return _STARTED_US + m * _TOKEN_US + moved / rate


_COPY_GB_S: Final = 4000.0
_SHARE_OF_COPY: Final = 0.97
_STARTED_US: Final = 1.9
_TOKEN_US: Final = 0.03
"""`expected_us` gives 0.72 to 1.12 times 42 measured figures of an H200 (M = 1, 16, 64)."""
