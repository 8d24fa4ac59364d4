"""Tiles of the kernels that make NVFP4, on the host."""

import pytest

from quantmux.config import QuantizeConfig
from quantmux_triton.quantize.nvfp4_config import STEM, Tile, amax_tile, kind_of, tile_ranges
from quantmux_triton.tuned import NO_END, tuned_rows

LAYOUTS = ("row_major", "swizzled_128x4", "swizzled_8x4")


def _is_legal(tile: Tile, layout: str) -> bool:
    lanes = tile.rows * tile.quads * 4
    sizes = {tile.rows, tile.quads, tile.num_warps}
    rows = {"row_major": (1,), "swizzled_128x4": (4, 8, 16, 32, 64, 128)}.get(layout, (8, 16, 32))
    return (
        all(size & (size - 1) == 0 for size in sizes)
        and tile.rows in rows
        and lanes >= 32 * tile.num_warps
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("device", ["", "h200", "a100"])
def test_every_width_has_tiles_whose_lanes_all_have_a_block(layout, silu, device):
    for padded_n in (16, 48, 64, 80, 464, 512, 1856, 1920, 7168, 28672, 1 << 20):
        ranges = tile_ranges(padded_n, layout, silu=silu, device=device)
        ends = [m_max for m_max, _ in ranges]
        assert ends == sorted(set(ends))
        assert ends[-1] == NO_END
        assert all(_is_legal(tile, layout) for _, tile in ranges)


def test_measured_tiles_are_legal_and_are_taken():
    rows = tuned_rows("h200", STEM)
    assert {row.kind for row in rows} >= {kind_of(name, silu=False) for name in LAYOUTS[:2]}
    for row in rows:
        layout = row.kind.removeprefix("silu_mul ")
        tile = Tile(**row.config)
        assert _is_legal(tile, layout)
        ranges = tile_ranges(row.n, layout, silu=layout != row.kind, device="h200")
        assert next(t for m_max, t in ranges if row.m <= m_max) == tile


def test_the_search_for_the_largest_takes_as_many_elements_of_narrow_rows_as_of_wide_ones():
    for n in (1, 16, 72, 464, 7168, 1 << 20):
        rows, columns = amax_tile(n)
        assert rows * columns == 16384
        assert columns <= max(1024, n)


def test_variants_that_are_declared_are_those_that_are_warmed(monkeypatch):
    from quantmux.capability.detect import resolve_device
    from quantmux_triton.quantize import nvfp4, nvfp4_host

    monkeypatch.setattr(nvfp4_host, "current_device", lambda: resolve_device("h200"))
    for kernel, operand, searches in (
        (nvfp4.kernel, "nvfp4_static", 0),
        (nvfp4.dynamic, "nvfp4", 2),
    ):
        config = QuantizeConfig(operand=operand, n=7168, layout="swizzled_128x4")
        ranges = tile_ranges(7168, "swizzled_128x4", silu=False, device="h200")
        tiles = {tile for _, tile in ranges}
        assert kernel.declared_variants(config) == len(tiles) + 1 + searches
