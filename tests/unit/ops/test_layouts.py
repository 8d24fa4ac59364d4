"""Every layout against its address formula, element by element, and back."""

import itertools

import pytest
import torch

from quantmux.config import Layout, default_layout, layouts_for, operand, round_up
from quantmux.config.layouts import scale_storage
from quantmux.errors import LayoutError
from quantmux.ops.layouts import (
    canonical_scales,
    pack_pow2,
    place_grouped_scales,
    place_scales,
    unpack_pow2,
)
from quantmux.ops.quantized import empty_quantized

ROWS = (0, 1, 7, 8, 9, 31, 32, 33, 127, 128, 129)


def storage_of(scales, size):
    return scales.as_strided((size,), (1,), 0)


def e4m3_grid(rows, cols, seed=0):
    """Distinct-looking non-zero bytes, so that a misplaced one is seen."""
    generator = torch.Generator().manual_seed(seed)
    bits = torch.randint(1, 127, (rows, cols), generator=generator).to(torch.uint8)
    return bits.view(torch.float8_e4m3fn)


def pow2_grid(rows, cols, seed=0):
    generator = torch.Generator().manual_seed(seed)
    exponents = torch.randint(-127, 128, (rows, cols), generator=generator)
    return torch.exp2(exponents.to(torch.float64)).to(torch.float32)


def widths(n):
    return sorted({n, n + 16, round_up(n, 32), round_up(n, 64), round_up(n, 128)})


def address_128x4(m, k, columns):
    """Tile row, tile column, then 32 lanes of 16 bytes, each 4 rows 32 apart by 4 columns."""
    tiles = (columns + 3) // 4
    tile = (m // 128) * tiles + k // 4
    return tile * 512 + (m % 32) * 16 + ((m % 128) // 32) * 4 + k % 4


def address_8x4(m, k, columns):
    tiles = (columns + 3) // 4
    return ((m // 8) * tiles + k // 4) * 32 + (m % 8) * 4 + k % 4


@pytest.mark.parametrize("n", [16, 32, 48, 64, 112])  # K/16 % 4 = 1, 2, 3, 0, 3
@pytest.mark.parametrize(
    ("name", "address", "tile_rows"),
    [("swizzled_128x4", address_128x4, 128), ("swizzled_8x4", address_8x4, 8)],
)
def test_swizzled_scales_lie_where_the_formula_says_and_all_else_is_zero(
    name, address, tile_rows, n
):
    value = operand("nvfp4")
    for m, padded_n in itertools.product(ROWS, widths(n)):
        layout = Layout(scales=name, padded_n=padded_n)
        grid = e4m3_grid(m, n // 16)
        placed = place_scales(grid, value, layout, m)
        columns = padded_n // 16
        assert placed.shape == (round_up(m, tile_rows), round_up(columns, 4))
        want = [0] * placed.numel()
        for i, row in enumerate(grid.view(torch.uint8).tolist()):
            for k, byte in enumerate(row):
                want[address(i, k, columns)] = byte
        assert storage_of(placed.view(torch.uint8), len(want)).tolist() == want


@pytest.mark.parametrize("m", ROWS)
def test_row_major_nvfp4_scales_pad_columns_with_zero(m):
    value = operand("nvfp4")
    for padded_n in widths(48):
        layout = Layout(scales="row_major", padded_n=padded_n)
        grid = e4m3_grid(m, 3)
        placed = place_scales(grid, value, layout, m).view(torch.uint8).tolist()
        pad = [0] * (padded_n // 16 - 3)
        assert placed == [[*row, *pad] for row in grid.view(torch.uint8).tolist()]


@pytest.mark.parametrize("layout_name", ["row_major", "col_major", "col_major_aligned4"])
@pytest.mark.parametrize("padded_n", [384, 512, 1024])
def test_group_scales_lie_where_their_strides_say_and_pad_rows_are_zero(layout_name, padded_n):
    value = operand("fp8_group128")
    layout = Layout(scales=layout_name, padded_n=padded_n)
    columns = padded_n // 128
    for m in ROWS:
        grid = torch.rand(m, 3) + 1.0
        placed = place_scales(grid, value, layout, m)
        stride = {"row_major": 0, "col_major": m, "col_major_aligned4": round_up(m, 4)}[layout_name]
        size = scale_storage(value, layout, m)
        assert size == (m * columns if layout_name != "col_major_aligned4" else stride * columns)
        want = [0.0] * size
        for i in range(m):
            for k in range(3):
                at = i * columns + k if layout_name == "row_major" else k * stride + i
                want[at] = float(grid[i, k])
        assert storage_of(placed, size).tolist() == want


@pytest.mark.parametrize("columns", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("extra", [0, 1, 4])
def test_packed_scales_hold_exponent_bytes_little_endian_along_k(columns, extra):
    value = operand("fp8_group128_pow2")
    layout = Layout(scales="packed_pow2", padded_n=128 * (columns + extra))
    words = -(-(columns + extra) // 4)
    for m in ROWS:
        grid = pow2_grid(m, columns)
        placed = place_scales(grid, value, layout, m)
        rows = round_up(m, 4)
        assert placed.dtype == torch.int32
        assert placed.shape == (m, words)
        want = [0] * (rows * words * 4)  # bytes
        for i in range(m):
            for k in range(columns):
                exponent = torch.frexp(grid[i, k])[1].item() - 1 + 127
                want[((k // 4) * rows + i) * 4 + k % 4] = exponent
        storage = storage_of(placed, rows * words)
        assert storage.view(torch.uint8).tolist() == want


def test_a_nan_scale_packs_to_0xff():
    words = pack_pow2(torch.tensor([[1.0, torch.nan, 2.0**-127, 2.0**127]]))
    assert [int(words[0, 0]) >> s & 0xFF for s in (0, 8, 16, 24)] == [127, 255, 0, 254]
    assert unpack_pow2(words, 4)[0].isnan().tolist() == [False, True, False, False]


EVERY_LAYOUT = [
    (name, layout)
    for name in (
        "fp8_tensor",
        "fp8_token",
        "fp8_group128",
        "fp8_group64_pow2",
        "int8_token",
        "nvfp4",
    )
    for layout in layouts_for(operand(name))
]


@pytest.mark.parametrize(("name", "layout_name"), EVERY_LAYOUT)
@pytest.mark.parametrize("multiple", [1, 16])
def test_scales_come_back_from_every_layout(name, layout_name, multiple):
    value = operand(name)
    width = 16 if value.block.cols == -1 else value.block.cols
    for m, columns, extra in itertools.product(ROWS, (1, 2, 3, 4), (0, 1, 4)):
        n = width * columns
        layout = Layout(scales=layout_name, padded_n=n + width * extra, padded_m_multiple=multiple)
        shape = value.block.grid(m, n)
        if value.is_nvfp4:
            grid = e4m3_grid(*shape)
        elif value.scale_rounding == "pow2":
            grid = pow2_grid(*shape)
        else:
            grid = torch.rand(shape) + 1.0
        q = empty_quantized(value, layout, m, n, "cpu")
        place_scales(grid, value, layout, m, into=q.scales)
        back = canonical_scales(q)
        assert back.is_contiguous()
        assert back.dtype == grid.dtype
        assert torch.equal(back.float(), grid.float())


@pytest.mark.parametrize(("name", "layout_name"), EVERY_LAYOUT)
def test_placing_into_a_dirty_buffer_leaves_no_old_byte(name, layout_name):
    value = operand(name)
    n = 16 if value.block.cols == -1 else value.block.cols * 3
    layout = Layout(scales=layout_name, padded_n=n * 4, padded_m_multiple=2)
    for m in (0, 1, 5):
        shape = value.block.grid(m, n)
        grid = e4m3_grid(*shape) if value.is_nvfp4 else pow2_grid(*shape)
        clean = place_scales(grid, value, layout, m)
        dirty = empty_quantized(value, layout, m, n, "cpu").scales
        size = scale_storage(value, layout, m)
        storage_of(dirty, size).view(torch.uint8).fill_(0xA5)
        place_scales(grid, value, layout, m, into=dirty)
        assert torch.equal(
            storage_of(dirty, size).view(torch.uint8), storage_of(clean, size).view(torch.uint8)
        )


@pytest.mark.parametrize("layout_name", ["col_major_aligned4", "packed_pow2"])
@pytest.mark.parametrize("cols", [1, 3, 4, 6])
@pytest.mark.parametrize("groups", [1, 3])
def test_grouped_scales_lie_per_group_and_column_with_zero_pad_rows(layout_name, cols, groups):
    layout = Layout(scales=layout_name, padded_n=128)
    for t in (0, 1, 3, 4, 5, 17):
        grid = torch.stack([pow2_grid(t, cols, seed=g) for g in range(groups)])
        placed = place_grouped_scales(grid, layout)
        rows = round_up(t, 4)
        packed = layout_name == "packed_pow2"
        stored = -(-cols // 4) if packed else cols
        assert placed.shape == (t, groups, stored)
        storage = storage_of(placed, groups * stored * rows)
        size = groups * stored * rows
        want = [0] * (4 * size) if packed else [0.0] * size
        for g, i, k in itertools.product(range(groups), range(t), range(cols)):
            if packed:
                exponent = torch.frexp(grid[g, i, k])[1].item() - 1 + 127
                want[((g * stored + k // 4) * rows + i) * 4 + k % 4] = exponent
            else:
                want[(g * stored + k) * rows + i] = float(grid[g, i, k])
        found = storage.view(torch.uint8) if packed else storage
        assert found.tolist() == want


def test_a_layout_of_a_plugin_is_refused():
    layout = Layout(scales="acme:tiled", padded_n=128)
    with pytest.raises(LayoutError, match="acme:tiled") as error:
        place_scales(torch.ones(1, 1), operand("fp8_group128"), layout, 1)
    assert error.value.code == "layout_undefined"


def test_a_scale_buffer_without_room_for_the_pad_rows_is_refused():
    value = operand("fp8_group128")
    layout = default_layout(value, 128).replace(scales="col_major_aligned4")
    with pytest.raises(LayoutError, match="pad rows"):
        place_scales(torch.ones(5, 1), value, layout, 5, into=torch.empty(5, 1))
