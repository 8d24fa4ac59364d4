"""How the linears that widen their weights are cut up."""

import math

import pytest

from quantmux.capability.profiles import PROFILES, profile
from quantmux.config import LinearConfig
from quantmux_triton.linear import fp8_w8a16, nvfp4_emulated
from quantmux_triton.linear.nvfp4_w4a16 import kernel
from quantmux_triton.linear.weight_only_config import M_CLASSES, m_class, tile_for
from quantmux_triton.tuned import tuned_rows

GPUS = [name for name, device in PROFILES.items() if device.is_cuda]
SHAPES = [(28672, 4096), (57344, 8192), (8192, 28672), (14336, 4096), (2112, 7168), (33, 17)]


def cut(device, n, k, m, row_bytes=144):
    return tile_for(
        profile(device), "nvfp4_w4a16", "w4a16", n=n, k=k, m=m, row_bytes=row_bytes
    )  # fmt: skip


def test_what_was_measured_on_an_h200_is_taken_there():
    rows = tuned_rows("h200", "nvfp4_w4a16")
    assert {(row.n, row.k) for row in rows} >= {(28672, 4096), (57344, 8192), (8192, 28672)}
    for row in rows:
        tile = cut("h200", row.n, row.k, row.m)
        want = row.config
        assert (tile.block_n, tile.block_m) == (want["block_n"], want["block_m"])
        assert (tile.warps, tile.stages, tile.joined) == (
            want["warps"],
            want["stages"],
            bool(want["joined"]),
        )
        assert tile.shares == want["per_sm"] * 132
        assert tile.whole % 132 == 0


@pytest.mark.parametrize("device", GPUS)
@pytest.mark.parametrize("row_bytes", [144, 256])
@pytest.mark.parametrize("m", M_CLASSES)
def test_a_tile_fits_into_shared_memory_and_no_share_is_empty(device, row_bytes, m):
    for n, k in SHAPES:
        tile = cut(device, n, k, m, row_bytes)
        there = profile(device).smem_kib * 1024
        loads = (tile.stages - 1) * tile.block_n * row_bytes + tile.stages * tile.block_m * 512
        assert loads <= there
        tiles, slabs = math.ceil(n / tile.block_n), math.ceil(k / 256)
        if tile.shares:
            assert 0 < tile.shares <= (tiles - tile.whole) * slabs
            assert 0 <= tile.whole < tiles
        else:
            assert tile.whole == 0
        assert tile.pdl is (profile(device).arch.sm >= 90)


@pytest.mark.parametrize("device", GPUS)
def test_the_number_of_rows_makes_no_more_variants_than_declared(device):
    tiles = {cut(device, 4096, 4096, m) for m in range(1, 600)}
    assert len(tiles) <= len(M_CLASSES)
    assert kernel.declared_variants(None) == len(M_CLASSES)


def test_classes_of_rows_end_at_powers_of_two():
    assert [m_class(m) for m in (1, 16, 17, 32, 33, 64, 65, 5000)] == [
        16,
        16,
        32,
        32,
        64,
        64,
        128,
        128,
    ]


def test_a_few_wide_tiles_are_shared_out_over_all_sms():
    assert cut("h200", 8192, 28672, 1).shares == 264
    assert cut("h100", 8192, 28672, 1).shares == 264
    assert cut("h100", 14336, 4096, 16).shares > 0


@pytest.mark.parametrize("device", GPUS)
@pytest.mark.parametrize(
    ("linear", "scheme"),
    [(kernel, "nvfp4_w4a16"), (nvfp4_emulated.kernel, "nvfp4"), (fp8_w8a16.kernel, "fp8_w8a16")],
)
@pytest.mark.parametrize(("n", "k"), [(57344, 8192), (8192, 28672), (4096, 4096), (6144, 4096)])
def test_partial_sums_of_many_tokens_stay_small_and_their_offsets_below_2_31(
    device, linear, scheme, n, k
):
    config = LinearConfig(in_features=k, out_features=n, scheme=scheme)
    for m in (*M_CLASSES, 8192, 100_000):
        # a bound call asks for the class of m
        tile = linear.tile(config, profile(device), m_class(m))
        floats = -(-m // tile.block_m) * 2 * tile.shares * tile.block_m * tile.block_n
        assert floats < 1 << 24, (m, tile)
