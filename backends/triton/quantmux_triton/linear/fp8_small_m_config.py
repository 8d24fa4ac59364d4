"""How the products for few tokens are cut up: measured where there are figures, else computed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from quantmux_triton.interpreter import interpreting
from quantmux_triton.tuned import tuned_ranges

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quantmux.capability.device import DeviceProfile

STEM: Final = "fp8_small_m"
"""Name of the measured choices, of all these products."""

M_CLASSES: Final = (16, 32, 64)
"""Most tokens of a tile: the narrow side of Hopper's matrix instruction."""

_FIRST_WITH_WGMMA: Final = 90
_SMS: Final = 132

_LEAST_K: Final = 1024
"""Products of a split at least: below, bringing the sums together takes longer than they do. On the
H200, 576 × 7168 with 16 tokens takes 3.85 µs in 7 splits and 4.53 in 14 (2026-11-21, PDL, cold L2).
"""

_SMEM_KIB: Final = {80: 163.0, 86: 99.0, 89: 99.0, 90: 227.0, 100: 227.0, 103: 227.0, 120: 99.0}
"""Shared memory of a program, by compute capability."""


@dataclass(frozen=True, slots=True)
class Cut:
    """One way to cut up a product.

    Attributes:
        block_n: Channels of a tile.
        block_m: Tokens of a tile.
        block_k: Products between two loads, a multiple of 128.
        warps: Warps of a program.
        stages: Tiles of weights that are on their way at once.
        splits: Parts of K.
        pdl: Start beside the kernel before and wait for it in the device.
        prefetch: Steps whose weights it asks for while it waits.
        hopper: In the form with explicit loads and barriers, for sm_90.
    """

    block_n: int
    block_m: int
    block_k: int
    warps: int
    stages: int
    splits: int
    pdl: bool = False
    prefetch: int = 0
    hopper: bool = False

    @property
    def smem(self) -> int:
        """Bytes of shared memory."""
        return (self.block_n + self.block_m) * self.block_k * self.stages

    @property
    def at_once(self) -> int:
        """Partial sums to be loaded together: up to 64 registers of a thread."""
        return max(2, min(8, 2048 * self.warps // (self.block_m * self.block_n)))

    def scales(self, k: int) -> int:
        """Give the power of two that holds the blocks of 128 of a split."""
        all_steps = -(-k // self.block_k)
        steps = -(-all_steps // self.splits)
        return 1 << (steps * self.block_k // 128 - 1).bit_length()

    def without_tma(self) -> Cut:
        """Give the cut in the form that reads rows at any address."""
        return replace(self, hopper=False, prefetch=self.stages if self.pdl else 0)


def m_class(m: int) -> int:
    """Give the class of a number of tokens; beyond the last one there are several tiles of it."""
    return next((c for c in M_CLASSES if m <= c), M_CLASSES[-1])


def cut_for(device: DeviceProfile, kind: str, *, n: int, k: int, m: int) -> Cut:
    """Give the cut for a product on a device.

    Args:
        device: Where it runs.
        kind: ``row``, ``row_exact`` (promoted every 128 products) or ``block``.
        n: Channels.
        k: Products of a sum.
        m: Tokens, the greatest of their class.
    """
    if interpreting():
        return _interpreted(kind, n=n, k=k, m=m)
    pdl = (device.arch.sm or 0) >= _FIRST_WITH_WGMMA
    for m_max, row in tuned_ranges(device.name, STEM, kind, n=n, k=k):
        if m <= m_max:
            return _measured(row, device, n=n, k=k, pdl=pdl)
    return _computed(device, kind, n=n, k=k, m=m, pdl=pdl)


def _measured(row: Mapping[str, int], device: DeviceProfile, *, n: int, k: int, pdl: bool) -> Cut:
    """Give the measured cut; where it is of another shape, with splits for this one."""
    splits, prefetch = row["splits"], row["prefetch"]
    if (row["n"], row["k"]) != (n, k):
        # all weights of a larger layer would push those of the kernel before out of the cache
        prefetch = min(prefetch, row["stages"])
        tiles = -(-row["n"] // row["block_n"])
        per_sm = max(1, round(tiles * splits / _SMS))
        splits = _splits(device, row["block_n"], row["block_k"], per_sm, n=n, k=k)
    return Cut(
        block_n=row["block_n"],
        block_m=row["block_m"],
        block_k=row["block_k"],
        warps=row["warps"],
        stages=row["stages"],
        splits=splits,
        pdl=pdl and bool(row["pdl"]),
        prefetch=prefetch if pdl else 0,
        hopper=bool(row["hopper"]) and device.arch.sm == _FIRST_WITH_WGMMA,
    )


def _computed(device: DeviceProfile, kind: str, *, n: int, k: int, m: int, pdl: bool) -> Cut:
    """Give one program an SM, with as many loads under way as fit beside the next kernel's.

    What was best on the H200 over six shapes (2026-11-21): steps of 512 and three stages for 16
    tokens, else steps of 256. Sums of blocks for 64 tokens are better off as two tiles of 32.
    """
    block_n, warps = 64, 4
    block_m = 32 if kind == "block" and m > 32 else m_class(m)
    smem_kib = device.smem_kib or _SMEM_KIB.get(device.arch.sm or 0, 99.0)
    room = int(smem_kib * 1024) - 4096
    block_k = 128 if kind == "row_exact" else 256
    if kind != "row_exact" and block_m == 16 and room >= 3 * (block_n + block_m) * 512:
        block_k = 512
    wanted = {128: 8, 256: 4, 512: 3}[block_k]
    stages = max(2, min(wanted, room // ((block_n + block_m) * block_k)))
    splits = _splits(device, block_n, block_k, 1, n=n, k=k)
    return Cut(
        block_n, block_m, block_k, warps, stages, splits, pdl=pdl, prefetch=stages if pdl else 0
    )


def _splits(
    device: DeviceProfile, block_n: int, block_k: int, per_sm: int, *, n: int, k: int
) -> int:
    """Give parts of K so that ``per_sm`` programs run on every SM, each with work for some time."""
    tiles, least = -(-n // block_n), max(block_k, _LEAST_K)
    wanted = per_sm * (device.sm_count or _SMS) // tiles
    return max(1, min(wanted, k // least))


def _interpreted(kind: str, *, n: int, k: int, m: int) -> Cut:
    """Give few programs, since the interpreter pays for each, and two splits where K allows."""
    block_k = 128 if kind == "row_exact" else 512
    steps = -(-k // block_k)
    block_n = 128 if kind == "block" or n <= 128 else 256
    return Cut(block_n, m_class(m), block_k, 4, 1, min(2, steps))
