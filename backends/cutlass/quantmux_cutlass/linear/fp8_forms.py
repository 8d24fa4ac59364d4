"""Tiles that `csrc/linear/fp8_tiles.cu` is compiled with, and the times measured for them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class Form(IntEnum):
    """How the two math groups of a thread block work; the number is ``option[2]``."""

    PING_PONG = 0
    TOGETHER = 1
    EXACT = 2
    SPLIT = 3
    SPLIT_EXACT = 4


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile of y and what it costs on an H200.

    Attributes:
        columns: Columns of y.
        rows: Rows of y.
        form: How it is multiplied.
        step_us: Time of 128 of K where every multiprocessor makes a tile.
        tile_us: Time of a tile beyond its steps.
    """

    columns: int
    rows: int
    form: Form
    step_us: float
    tile_us: float


def _estimated(columns: int, rows: int, form: Form) -> Tile:
    return Tile(columns, rows, form, 0.36 * columns * rows / 16384, 1.0)


TILES: Final[tuple[Tile, ...]] = (
    *(
        _estimated(columns, 64, Form.PING_PONG)
        for columns in (32, 48, 64, 80, 96, 112, 128, 144, 160, 192, 224, 256)
    ),
    *(
        _estimated(columns, 128, Form.PING_PONG)
        for columns in (64, 80, 96, 112, 128, 144, 160, 176, 192)
    ),
    *(_estimated(columns, 128, Form.TOGETHER) for columns in (192, 224, 256)),
    *(_estimated(columns, 256, Form.TOGETHER) for columns in (112, 128, 160, 192)),
    *(_estimated(columns, 128, Form.EXACT) for columns in (64, 96, 128, 160, 192)),
    *(_estimated(columns, 256, Form.EXACT) for columns in (64, 96, 128)),
    *(_estimated(columns, 128, Form.SPLIT) for columns in (48, 64, 80, 96, 112, 128, 144, 160)),
    *(_estimated(columns, 128, Form.SPLIT_EXACT) for columns in (64, 96, 128)),
)
