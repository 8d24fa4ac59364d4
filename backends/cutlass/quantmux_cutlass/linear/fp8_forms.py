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
        step_us: Time of 128 of K where few multiprocessors are busy.
        busy_us: What it takes longer where all of them are.
        tile_us: Time of a tile beyond its steps: first loads, stores.
    """

    columns: int
    rows: int
    form: Form
    step_us: float
    busy_us: float
    tile_us: float


TILES: Final[tuple[Tile, ...]] = (
    Tile(32, 64, Form.PING_PONG, 0.0612, 0.0225, 0.70),
    Tile(48, 64, Form.PING_PONG, 0.0769, 0.0288, 0.70),
    Tile(64, 64, Form.PING_PONG, 0.0925, 0.0350, 0.70),
    Tile(80, 64, Form.PING_PONG, 0.1081, 0.0413, 0.70),
    Tile(96, 64, Form.PING_PONG, 0.1237, 0.0475, 0.70),
    Tile(112, 64, Form.PING_PONG, 0.1394, 0.0538, 0.70),
    Tile(128, 64, Form.PING_PONG, 0.1550, 0.0600, 0.70),
    Tile(144, 64, Form.PING_PONG, 0.1706, 0.0663, 0.70),
    Tile(160, 64, Form.PING_PONG, 0.1862, 0.0725, 0.70),
    Tile(192, 64, Form.PING_PONG, 0.2175, 0.0850, 0.70),
    Tile(224, 64, Form.PING_PONG, 0.2487, 0.0975, 0.70),
    Tile(256, 64, Form.PING_PONG, 0.2800, 0.1100, 0.70),
    Tile(64, 128, Form.PING_PONG, 0.1550, 0.0600, 0.70),
    Tile(80, 128, Form.PING_PONG, 0.1862, 0.0725, 0.70),
    Tile(96, 128, Form.PING_PONG, 0.2175, 0.0850, 0.70),
    Tile(112, 128, Form.PING_PONG, 0.2487, 0.0975, 0.70),
    Tile(128, 128, Form.PING_PONG, 0.2800, 0.1100, 0.70),
    Tile(144, 128, Form.PING_PONG, 0.3113, 0.1225, 0.70),
    Tile(160, 128, Form.PING_PONG, 0.3425, 0.1350, 0.70),
    Tile(176, 128, Form.PING_PONG, 0.3738, 0.1475, 0.70),
    Tile(192, 128, Form.PING_PONG, 0.4050, 0.1600, 0.70),
    Tile(192, 128, Form.TOGETHER, 0.4050, 0.1600, 0.70),
    Tile(224, 128, Form.TOGETHER, 0.4675, 0.1850, 0.70),
    Tile(256, 128, Form.TOGETHER, 0.5300, 0.2100, 0.70),
    Tile(112, 256, Form.TOGETHER, 0.4675, 0.1850, 0.70),
    Tile(128, 256, Form.TOGETHER, 0.5300, 0.2100, 0.70),
    Tile(160, 256, Form.TOGETHER, 0.6550, 0.2600, 0.70),
    Tile(192, 256, Form.TOGETHER, 0.7800, 0.3100, 0.70),
    Tile(64, 128, Form.EXACT, 0.1550, 0.0600, 0.70),
    Tile(96, 128, Form.EXACT, 0.2175, 0.0850, 0.70),
    Tile(128, 128, Form.EXACT, 0.2800, 0.1100, 0.70),
    Tile(160, 128, Form.EXACT, 0.3425, 0.1350, 0.70),
    Tile(192, 128, Form.EXACT, 0.4050, 0.1600, 0.70),
    Tile(64, 256, Form.EXACT, 0.2800, 0.1100, 0.70),
    Tile(96, 256, Form.EXACT, 0.4050, 0.1600, 0.70),
    Tile(128, 256, Form.EXACT, 0.5300, 0.2100, 0.70),
    Tile(48, 128, Form.SPLIT, 0.1237, 0.0475, 0.70),
    Tile(64, 128, Form.SPLIT, 0.1550, 0.0600, 0.70),
    Tile(80, 128, Form.SPLIT, 0.1862, 0.0725, 0.70),
    Tile(96, 128, Form.SPLIT, 0.2175, 0.0850, 0.70),
    Tile(112, 128, Form.SPLIT, 0.2487, 0.0975, 0.70),
    Tile(128, 128, Form.SPLIT, 0.2800, 0.1100, 0.70),
    Tile(144, 128, Form.SPLIT, 0.3113, 0.1225, 0.70),
    Tile(160, 128, Form.SPLIT, 0.3425, 0.1350, 0.70),
    Tile(64, 128, Form.SPLIT_EXACT, 0.1550, 0.0600, 0.70),
    Tile(96, 128, Form.SPLIT_EXACT, 0.2175, 0.0850, 0.70),
    Tile(128, 128, Form.SPLIT_EXACT, 0.2800, 0.1100, 0.70),
)
