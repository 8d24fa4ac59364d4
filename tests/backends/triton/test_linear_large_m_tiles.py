"""Tile sizes of the products for many tokens: what is offered where, and what is chosen."""

import pytest

from quantmux.capability.profiles import PROFILES
from quantmux.config import LinearConfig
from quantmux_triton.linear import fp8, fp8_block, fp8_config, int8
from quantmux_triton.linear.fp8_config import (
    M_CLASSES,
    Tile,
    best_tile,
    description,
    fitting,
    is_described,
    m_class,
    shared_bytes,
    tile_microseconds,
)
from quantmux_triton.linear.fp8_tiles import block_tiles, int8_tiles, scaled_tiles
from quantmux_triton.tuned import tuned_rows

H200 = PROFILES["h200"]
SHARED = {80: 166912, 89: 101376, 90: 232448, 100: 232448, 103: 232448, 120: 101376}
LISTS = {
    "fast": lambda sm, aligned: scaled_tiles(sm, aligned=aligned, exact=False),
    "exact": lambda sm, aligned: scaled_tiles(sm, aligned=aligned, exact=True),
    "block": lambda sm, aligned: block_tiles(sm, aligned=aligned),
    "int8": lambda sm, aligned: int8_tiles(sm, aligned=aligned),
}


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("sm", SHARED)
@pytest.mark.parametrize("out_bytes", [2, 4])
def test_all_programs_of_a_multiprocessor_fit_into_its_shared_memory(kind, sm, out_bytes):
    for tile in LISTS[kind](sm, True):
        if tile.form != "pointer":
            made = fitting(tile, sm, out_bytes)
            assert 2 <= made.stages <= tile.stages
            assert (shared_bytes(made, out_bytes) + 1024) * made.per_sm <= SHARED[sm] + 1024


@pytest.mark.parametrize("sm", SHARED)
def test_every_part_of_a_block_tile_lies_in_one_row_of_weight_blocks(sm):
    for aligned in (True, False):
        for tile in block_tiles(sm, aligned=aligned):
            assert tile.widest_part <= 128
            if tile.form == "divided" and tile.second not in (0, tile.block_n - tile.second):
                # the kernel puts the narrow part first in every second tile
                assert (tile.block_n, tile.second) == (192, 64)


@pytest.mark.parametrize("kind", LISTS)
def test_only_hopper_divides_warps_and_only_with_gluon(kind):
    for sm in SHARED:
        has_divided = any(tile.form == "divided" for tile in LISTS[kind](sm, True))
        assert has_divided == (sm == 90)
    without = scaled_tiles(90, aligned=True, exact=kind == "exact", divided=False)
    assert {tile.form for tile in without} == {"tma"}


@pytest.mark.parametrize("sm", SHARED)
def test_rows_off_16_bytes_never_meet_tma(sm):
    for tiles in LISTS.values():
        assert {tile.form for tile in tiles(sm, False)} == {"pointer"}


def test_a_class_holds_every_m():
    assert [m_class(m) for m in (1, 16, 17, 4096, 4097, 9000)] == [16, 16, 32, 4096, 8192, 12288]


def test_more_rows_never_take_less_time():
    tile = Tile(128, 256)
    times = [tile_microseconds(tile, m=m, n=4096, k=7168, device=H200) for m in M_CLASSES]
    assert times == sorted(times)


def test_a_gpu_of_half_the_rate_is_expected_to_take_twice_the_time():
    half = H200.replace(fp8_tflops=H200.fp8_tflops / 2)
    tile = Tile(128, 256)
    full, slow = (
        tile_microseconds(tile, m=4096, n=4096, k=7168, device=d) - 2.0 for d in (H200, half)
    )
    assert slow == pytest.approx(2 * full)


WIDE = Tile(128, 256, "divided", step_us=0.665, tile_us=3.2)
EVEN = Tile(128, 192, "divided", 64, step_us=0.506, tile_us=3.3)


def choice(n, device=H200, kind=("nothing", "")):
    return best_tile((WIDE, EVEN), kind=kind, m=4096, n=n, k=7168, device=device)


def test_the_tile_that_fills_the_last_wave_is_chosen():
    # 2112 = 11 x 192: three waves of 128 x 192 instead of three of 128 x 256
    assert choice(2112) is EVEN
    assert choice(4096) is WIDE


def test_a_measured_choice_holds_for_its_own_layer_only(monkeypatch):
    def measured(device, stem, kind, **shape):
        assert (device, stem, kind) == ("h200", "fp8", "exact")
        assert shape["m"] == 4096
        return description(WIDE, 2112, 7168)

    monkeypatch.setattr(fp8_config, "tuned", measured)
    assert choice(2112, kind=("fp8", "exact")) is WIDE
    assert choice(2112 + 64, kind=("fp8", "exact")) is EVEN


@pytest.mark.parametrize(
    ("kernel", "scheme"),
    [
        (fp8.kernel, "fp8_channel_token"),
        (fp8.kernel, "fp8_tensor+exact"),
        (fp8_block.kernel, "fp8_block128"),
        (int8.kernel, "int8_channel_token"),
    ],
)
@pytest.mark.parametrize("device", ["l40s", "h200", "b200", "rtx_pro_6000"])
def test_all_m_together_need_no_more_variants_than_declared(kernel, scheme, device):
    for n, k in ((4096, 7168), (2112, 7168), (576, 7168), (24576, 1536), (577, 1000)):
        config = LinearConfig(in_features=k, out_features=n, scheme=scheme)
        found = kernel.variants(config, PROFILES[device], range(1, 9000, 7))
        assert 1 <= len(found) <= kernel.declared_variants(config)


@pytest.mark.parametrize(
    ("stem", "kind", "tiles"),
    [("fp8", "fast", LISTS["fast"]), ("fp8_block", "block128", LISTS["block"])],
)
def test_every_measured_choice_is_one_of_the_tiles_on_offer(stem, kind, tiles):
    rows = tuned_rows("h200", stem)
    assert rows
    for row in rows:
        assert row.kind == kind
        assert any(is_described(tile, row.config) for tile in tiles(90, True))
        found = best_tile(
            tiles(90, True), kind=(stem, kind), m=row.m, n=row.n, k=row.k, device=H200
        )
        assert is_described(found, row.config)
