"""Tiles of the CollectiveBuilder: libraries, and which of them is chosen."""

import pytest

from quantmux.capability.profiles import PROFILES
from quantmux.config import LinearConfig
from quantmux_cutlass.linear.fp8_collective_config import M_MIN, choose, expected_us, tile_us
from quantmux_cutlass.linear.units_fp8 import units as all_units
from quantmux_cutlass.linear.units_fp8_collective import TILES, units

H200 = PROFILES["h200"]
SHAPES = [
    (576, 7168),
    (1536, 7168),
    (2112, 7168),
    (4096, 7168),
    (7168, 2048),
    (4096, 4096),
    (24576, 1536),
    (18432, 7168),
    (7168, 16384),
    (28672, 4096),
]
MS = (65, 96, 128, 200, 256, 512, 1000, 1024, 2048, 4096, 8192, 32768)


def config(n, k):
    return LinearConfig(in_features=k, out_features=n, scheme="fp8_channel_token")


@pytest.mark.parametrize(("n", "k"), [*SHAPES, (1, 1), (1000, 1000), (4099, 1368)])
def test_every_m_has_a_library_and_options_that_it_takes(n, k):
    for m in (M_MIN, *MS):
        chosen = choose(config(n, k), H200, m)
        raster, swizzle = chosen.options
        assert chosen.unit in units()
        assert raster in (0, 1, 2)
        assert swizzle in (1, 2, 4, 8)


def test_every_library_is_chosen_somewhere():
    chosen = {choose(config(n, k), H200, m).unit for n, k in SHAPES for m in MS}
    assert chosen == set(units())
    assert chosen <= set(all_units())


def test_a_cluster_makes_whole_pairs_of_tiles():
    # 11 · 12 tiles of 128 x 128 are one wave; an odd number of columns counts as one more
    one = tile_us("128x128", 12 * 128, 7168, H200, 11 * 128)
    two = tile_us("128x128", 13 * 128, 7168, H200, 10 * 128)
    assert two > 1.5 * one
    assert tile_us("128x128", 11 * 128, 7168, H200, 11 * 128) == one


def test_small_n_takes_tiles_that_keep_more_multiprocessors_busy():
    assert choose(config(576, 7168), H200, 1024).unit.name == "fp8_collective_64x96"
    assert choose(config(4096, 7168), H200, 4096).unit.name == "fp8_collective_128x128"


def test_more_rows_are_never_expected_to_take_less_time():
    for n, k in SHAPES:
        times = [expected_us(config(n, k), H200, m) for m in MS]
        assert times == sorted(times)


def test_the_macros_of_a_library_are_those_of_its_tile():
    for (name, tile), unit in zip(TILES.items(), units(), strict=True):
        macros = {key: int(value) for key, value in unit.macros}
        assert unit.name == f"fp8_collective_{name}"
        assert (macros["QM_TM"], macros["QM_TN"]) == (tile.rows, tile.columns)
        assert (macros["QM_CM"], macros["QM_CN"]) == tile.cluster


def test_the_sums_of_a_group_fit_into_its_registers():
    for tile in TILES.values():
        assert tile.rows * tile.columns // 128 <= 200, "of 240 registers"
