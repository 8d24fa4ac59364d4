"""Tiles of nvfp4: how many rows and blocks one program takes, and with how many warps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from quantmux_triton.interpreter import interpreting
from quantmux_triton.tuned import NO_END, tuned_ranges

STEM: Final = "nvfp4"

AMAX_PROGRAMS: Final = 256
"""Most programs of the search for the largest magnitude, a power of two: two a multiprocessor.

Every program of the second launch reads what each of them found."""

AMAX_WARPS: Final = 16
"""Warps of such a program: 32 a multiprocessor, each with 64 bytes a lane on the way."""

_AMAX_ELEMENTS: Final = 16384
_AMAX_COLUMNS: Final = 1024

_FEW: Final = 1024 * 448
"""Blocks below which one a thread is better than two: 512 rows of 7168 columns take 4.66 µs with
one and 4.92 with two, 2048 rows 13.7 and 12.7 (128x4; H200, 2026-11-21, CUDA graph, cold L2)."""


@dataclass(frozen=True, slots=True)
class Tile:
    """What one program takes.

    Attributes:
        rows: Rows, a power of two; 4 to 128 in 128x4, a multiple of 8 in 8x4, 1 in row_major.
        quads: Blocks of a row / 4, a power of two. In row_major the blocks may be of two rows.
        num_warps: Warps that work on it.
    """

    rows: int
    quads: int
    num_warps: int


def tile_ranges(
    padded_n: int, layout: str, *, silu: bool, device: str = ""
) -> tuple[tuple[int, Tile], ...]:
    """Give the tiles as (last M, tile), ascending; the last has no end.

    What was measured on the device for the nearest row width is taken first.

    Args:
        padded_n: Stored row width.
        layout: Scale layout.
        silu: Whether silu(gate) times up is quantized.
        device: Name of the device's profile.
    """
    quads = -(-padded_n // 64)
    if interpreting():
        return ((NO_END, _interpreted(quads, layout)),)
    measured = tuned_ranges(device, STEM, kind_of(layout, silu=silu), n=padded_n) if device else ()
    if measured:
        return tuple((m_max, Tile(**config)) for m_max, config in measured)
    few, many = _tile(quads, layout, 1), _tile(quads, layout, 2)
    return ((max(1, _FEW // (padded_n // 16)), few), (NO_END, many))


def kind_of(layout: str, *, silu: bool) -> str:
    """Give the ``kind`` of measured rows: scale layout, and whether SiLU goes before."""
    return f"silu_mul {layout}" if silu else layout


def amax_tile(n: int) -> tuple[int, int]:
    """Give rows and columns of a tile of the search for the largest magnitude in rows of n."""
    most = _AMAX_ELEMENTS if interpreting() else _AMAX_COLUMNS
    columns = min(_power_of_two(n), most)
    return _AMAX_ELEMENTS // columns, columns


def _tile(quads: int, layout: str, blocks: int) -> Tile:
    """Give a tile with some blocks a thread."""
    if layout == "row_major":
        return Tile(1, 32 * blocks, 4)
    across = _across(quads, 4)
    return Tile(8, across, max(1, across // blocks))


def _interpreted(quads: int, layout: str) -> Tile:
    """Give a tile for the interpreter, which pays for a program, not for its elements."""
    if layout == "row_major":
        return Tile(1, 512, 1)
    across = min(_power_of_two(quads), 128)
    return Tile(min(128, max(8, 2048 // across)), across, 1)


def _across(quads: int, most: int) -> int:
    """Give the quads of a tile: ``most``, fewer where a row is short and they waste less."""
    if quads >= 4 * most:
        return most
    sizes = [1 << i for i in range(most.bit_length())]
    return min(sizes, key=lambda size: (-(-quads // size) * size, -size))


def _power_of_two(value: int) -> int:
    return 1 << (value - 1).bit_length()
