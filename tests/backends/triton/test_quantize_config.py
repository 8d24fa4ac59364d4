"""The choice of tiles, where nothing is interpreted: no device code runs here."""

import pytest

from quantmux.capability.arch import Arch
from quantmux.config import QuantizeConfig, operand
from quantmux_triton import arithmetic
from quantmux_triton.arithmetic import arithmetic as chosen
from quantmux_triton.quantize import fp8_group_config
from quantmux_triton.quantize.fp8_group import GroupPlan
from quantmux_triton.quantize.fp8_group_config import Tile, tile_ranges
from quantmux_triton.quantize.tensor_config import matrix_tile
from quantmux_triton.quantize.token_config import HELD, row_tile
from quantmux_triton.tuned import NO_END

SM90 = Arch.parse("90")
LAYOUTS = ("row_major", "col_major", "col_major_aligned4", "packed_pow2")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("width", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("groups", [1, 3, 11, 56, 112, 1000])
def test_tiles_are_powers_of_two_that_packed_words_fit_into(groups, width, layout):
    ranges = tile_ranges(groups, width, layout, "")
    assert [m for m, _ in ranges] == sorted(m for m, _ in ranges)
    assert ranges[-1][0] == NO_END
    for _, tile in ranges:
        assert tile.groups >= 4
        assert all(v & (v - 1) == 0 for v in (tile.rows, tile.groups, tile.num_warps))
        assert 8 <= tile.rows * tile.groups * width / (32 * tile.num_warps) <= 64


def test_few_groups_are_spread_over_small_programs():
    few, many = (tile for _, tile in tile_ranges(56, 128, "row_major", ""))
    assert few.rows * few.groups < many.rows * many.groups
    assert tile_ranges(56, 128, "row_major", "")[0][0] == 20_000 // 56


def test_what_was_measured_comes_before_what_is_computed(monkeypatch):
    asked = []

    def measured(device, stem, kind, *, n):
        asked.append((device, stem, kind, n))
        return ((20, {"rows": 1, "groups": 4, "num_warps": 1}),
                (500, {"rows": 2, "groups": 8, "num_warps": 2}),
                (NO_END, {"rows": 16, "groups": 4, "num_warps": 8}))  # fmt: skip

    monkeypatch.setattr(fp8_group_config, "tuned_ranges", measured)
    assert tile_ranges(56, 128, "col_major", "h200") == (
        (8, Tile(2, 8, 2)),
        (NO_END, Tile(16, 4, 8)),
    )
    assert asked == [("h200", "fp8_group", "group128 by column", 128)]


def test_plans_of_one_config_share_their_launchers():
    config = QuantizeConfig(operand="fp8_group128", n=7168)
    first, second = (GroupPlan(config, SM90, "h200").launchers() for _ in range(2))
    assert list(first) == list(second)
    other = GroupPlan(
        config.replace(operand=operand("fp8_group128").replace(eps=0.5)), SM90, "h200"
    )
    assert list(other.launchers()) == list(first), "eps is no variant"


def test_rows_are_held_up_to_a_width_and_walked_twice_beyond():
    for n in (1, 129, 7168, HELD):
        assert row_tile(n).block >= n
    assert row_tile(HELD + 1).block < HELD


@pytest.mark.parametrize("n", [1, 129, 1368, 7168, 16384])
def test_tiles_of_a_matrix_cover_a_row_with_little_waste(n):
    tile = matrix_tile(n)
    assert -(-n // tile.block) * tile.block - n < max(tile.block, 128)


@pytest.mark.parametrize(
    ("changes", "bits", "how"),
    [
        ({}, 8, "CORRECTED_ONCE"),
        ({}, 11, "CORRECTED_ONCE"),
        ({}, 24, "CORRECTED_TWICE"),
        ({"scale_rounding": "pow2"}, 24, "RECIPROCAL"),
        ({"scale_ub": 1.0}, 8, "GUARDED_ONCE"),
        ({"scale_ub": 1.0}, 24, "GUARDED_TWICE"),
        ({"scale_ub": 1.0, "eps": 1e-30}, 8, "DIVIDE"),
        ({"eps": 1e-30}, 8, "DIVIDE"),
    ],
)
def test_a_division_is_replaced_only_where_its_bits_are_kept(changes, bits, how):
    value = operand("fp8_group128").replace(**changes)
    assert chosen(value, SM90, bits=bits).how == getattr(arithmetic, how)
