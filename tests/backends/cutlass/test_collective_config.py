"""Tiles of the FP8 linear for many tokens: which are offered, and what is chosen for a layer."""

import pytest

from quantmux.capability.profiles import PROFILES
from quantmux.config import LinearConfig
from quantmux_cutlass.linear.fp8_config import (
    best_tile,
    choose,
    choose_direct,
    expected_us,
    tile_us,
)
from quantmux_cutlass.linear.units_fp8 import TILES, units

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
MS = (1, 3, 64, 65, 128, 200, 256, 512, 1000, 1024, 2048, 4096, 8192, 32768)


def config(n, k, scheme="fp8_channel_token"):
    return LinearConfig(in_features=k, out_features=n, scheme=scheme)


@pytest.mark.parametrize(("n", "k"), [*SHAPES, (1, 1), (1000, 1000), (4099, 1368)])
@pytest.mark.parametrize("scheme", ["fp8_tensor", "fp8_channel_token", "fp8_channel_token+exact"])
def test_every_m_has_a_library_with_options_that_it_has(n, k, scheme):
    for m in MS:
        for chosen in (choose(config(n, k, scheme), H200, m), choose_direct(config(n, k), H200, m)):
            raster, swizzle = chosen.options
            assert chosen.unit in units()
            assert raster in (0, 1, 2)
            assert swizzle in (1, 2, 4, 8)


def test_exact_accumulation_is_served_by_the_tile_that_promotes():
    for n, k in SHAPES:
        for m in MS:
            assert choose(config(n, k, "fp8_channel_token+exact"), H200, m).unit.name == "fp8_exact"
            assert choose(config(n, k), H200, m).unit.name != "fp8_exact"


def test_only_the_kernel_for_odd_widths_takes_the_tile_that_stores_elements():
    for n, k in SHAPES:
        for m in MS:
            assert choose(config(n, k), H200, m).unit.name != "fp8_direct"
            assert choose_direct(config(n, k), H200, m).unit.name == "fp8_direct"


def test_every_library_is_chosen_somewhere():
    fast = {choose(config(n, k), H200, m).unit.name for n, k in SHAPES for m in MS}
    assert fast | {"fp8_exact", "fp8_direct"} == {unit.name for unit in units()}


def test_a_tile_costs_what_its_waves_cost():
    # 132 multiprocessors make 132 tiles of 128 × 128 at once: 12 × 11 of them, and not 12 × 12
    one = tile_us("128x128", 11 * 128, 7168, H200, 12 * 128)
    two = tile_us("128x128", 12 * 128, 7168, H200, 12 * 128)
    assert two - 2.5 == pytest.approx(2 * (one - 2.5), rel=0.01)


def test_small_n_and_middle_m_take_tiles_that_keep_more_multiprocessors_busy():
    names = [name for name in TILES if name not in ("exact", "direct")]
    rows = TILES[best_tile(names, 576, 7168, H200, 1024)].rows
    assert rows < 128


def test_more_work_is_never_expected_to_take_less_time():
    for n, k in SHAPES:
        times = [expected_us(config(n, k), H200, m) for m in MS]
        assert times == sorted(times)


def test_the_macros_of_a_library_are_those_of_its_tile():
    for (name, tile), unit in zip(TILES.items(), units(), strict=True):
        macros = dict(unit.macros)
        assert unit.name == f"fp8_{name}"
        assert (macros["QM_TM"], macros["QM_TN"]) == (str(tile.rows), str(tile.columns))
        assert (macros["QM_CM"], macros["QM_CN"]) == tuple(map(str, tile.cluster))
        assert macros["QM_EXACT"] == str(int(tile.exact))
        assert macros["QM_DIRECT"] == str(int(tile.direct))


def test_a_tile_fits_into_registers_and_shared_memory():
    for tile in TILES.values():
        groups = 2 if tile.cooperative else 1
        sums = tile.rows * tile.columns // (128 * groups) * (2 if tile.exact else 1)
        assert sums <= 200, "accumulators of one thread, of 240 registers"
        assert 4 * 128 * (tile.rows + tile.columns) <= 232448 - 34000, "four stages"
