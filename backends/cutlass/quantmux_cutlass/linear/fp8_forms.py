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
    Tile(32, 64, Form.PING_PONG, 0.0920, 0.0453, 1.02),
    Tile(48, 64, Form.PING_PONG, 0.1254, 0.0618, 0.85),
    Tile(64, 64, Form.PING_PONG, 0.1369, 0.0570, 1.25),
    Tile(80, 64, Form.PING_PONG, 0.1141, 0.0570, 2.52),
    Tile(96, 64, Form.PING_PONG, 0.1317, 0.0683, 2.04),
    Tile(112, 64, Form.PING_PONG, 0.1768, 0.0130, 2.06),
    Tile(128, 64, Form.PING_PONG, 0.1940, 0.0419, 1.83),
    Tile(144, 64, Form.PING_PONG, 0.2228, 0.0079, 2.24),
    Tile(160, 64, Form.PING_PONG, 0.1696, 0.1540, 1.59),
    Tile(192, 64, Form.PING_PONG, 0.1603, 0.1166, 3.56),
    Tile(224, 64, Form.PING_PONG, 0.3215, 0.0057, 2.14),
    Tile(256, 64, Form.PING_PONG, 0.4240, 0.0085, 0.55),
    Tile(64, 128, Form.PING_PONG, 0.1638, 0.0236, 2.56),
    Tile(80, 128, Form.PING_PONG, 0.1043, 0.1146, 5.47),
    Tile(96, 128, Form.PING_PONG, 0.2633, 0.0088, 0.97),
    Tile(112, 128, Form.PING_PONG, 0.3175, 0.0023, 0.96),
    Tile(128, 128, Form.PING_PONG, 0.3649, 0.0021, 0.60),
    Tile(144, 128, Form.PING_PONG, 0.4029, 0.0030, 0.78),
    Tile(160, 128, Form.PING_PONG, 0.4241, 0.0228, 0.72),
    Tile(176, 128, Form.PING_PONG, 0.4271, 0.0589, 1.21),
    Tile(192, 128, Form.PING_PONG, 0.5108, 0.0261, 1.25),
    Tile(192, 128, Form.TOGETHER, 0.2935, 0.2432, 2.69),
    Tile(224, 128, Form.TOGETHER, 0.6099, 0.0287, 2.72),
    Tile(256, 128, Form.TOGETHER, 0.3808, 0.3218, 3.12),
    Tile(112, 256, Form.TOGETHER, 0.3884, 0.2349, 2.99),
    Tile(128, 256, Form.TOGETHER, 0.3687, 0.3301, 3.15),
    Tile(160, 256, Form.TOGETHER, 0.4237, 0.4699, 3.81),
    Tile(192, 256, Form.TOGETHER, 0.6728, 0.4163, 4.52),
    Tile(64, 128, Form.EXACT, 0.2269, 0.1244, 0.84),
    Tile(96, 128, Form.EXACT, 0.2056, 0.1009, 2.35),
    Tile(128, 128, Form.EXACT, 0.2171, 0.2347, 1.00),
    Tile(160, 128, Form.EXACT, 0.2441, 0.2610, 2.64),
    Tile(192, 128, Form.EXACT, 0.2911, 0.3029, 2.64),
    Tile(64, 256, Form.EXACT, 0.4000, 0.2174, 0.95),
    Tile(96, 256, Form.EXACT, 0.3323, 0.3382, 2.54),
    Tile(128, 256, Form.EXACT, 0.4415, 0.3743, 3.16),
    Tile(48, 128, Form.SPLIT, 0.0959, 0.1114, 2.41),
    Tile(64, 128, Form.SPLIT, 0.1333, 0.1569, 1.82),
    Tile(80, 128, Form.SPLIT, 0.1516, 0.1780, 2.45),
    Tile(96, 128, Form.SPLIT, 0.1725, 0.2037, 2.54),
    Tile(112, 128, Form.SPLIT, 0.1925, 0.2182, 3.47),
    Tile(128, 128, Form.SPLIT, 0.1996, 0.2312, 3.73),
    Tile(144, 128, Form.SPLIT, 0.2792, 0.3097, 4.16),
    Tile(160, 128, Form.SPLIT, 0.2877, 0.3265, 4.37),
    Tile(64, 128, Form.SPLIT_EXACT, 0.1325, 0.1471, 2.10),
    Tile(96, 128, Form.SPLIT_EXACT, 0.1726, 0.1943, 2.76),
    Tile(128, 128, Form.SPLIT_EXACT, 0.2012, 0.2142, 4.00),
)
"""Times: H200 (132 multiprocessors), cold L2, least squares over 54 shapes and M 96 to 8192,
2026-11-21; then 1.2 and 2.5 µs more for two ping-pong tiles (96 x 64, 80 x 128) and 1.4 times the
steps of one exact tile (64 x 256), which were taken where others measured faster. What is chosen
now takes 0.5 % longer than the best of all in the geometric mean, 11 % at most (1536 x 7168,
M = 512). Tiles that no shape came near are scaled from others.
"""
