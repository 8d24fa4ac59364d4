"""Conventions of FlashInfer against ours: every translation against its definition, and undone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantmux.config import Layout, operand
from quantmux.config.layouts import (
    round_up,
    scale_shape,
    swizzled_8x4_offset,
    swizzled_128x4_offset,
)
from quantmux.ops.layouts import place_scales
from quantmux.ops.quantized import empty_quantized
from quantmux_flashinfer.layouts import (
    fp8_blocks,
    global_scales,
    matrices,
    scale_bytes,
    trtllm,
)

NVFP4 = operand("nvfp4")
positive = st.floats(min_value=2.0**-60, max_value=2.0**60, width=32)


def scalar(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float32)


def some_bytes(rows: int, columns: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows * 1000 + columns)
    return torch.randint(0, 256, (rows, columns), dtype=torch.uint8, generator=generator)


# global scales


@given(positive)
def test_the_encode_scale_is_one_over_g_rounded_once(g: float):
    want = np.float32(1.0) / np.float32(g)
    assert global_scales.encode_scale(scalar(g)).numpy()[0] == want


@given(positive)
def test_the_decode_scale_of_an_encode_scale_is_g_within_one_unit_in_the_last_place(g: float):
    back = global_scales.decode_scale(global_scales.encode_scale(scalar(g))).numpy()[0]
    assert abs(back - np.float32(g)) <= np.spacing(np.float32(g))


def test_two_roundings_do_not_always_give_g_back():
    g = torch.linspace(1.5, 2.0, 1000)
    back = global_scales.decode_scale(global_scales.encode_scale(g))
    assert 0 < int((back != g).sum()) < 1000


@given(positive, positive)
def test_alpha_is_the_product_rounded_once(g_x: float, g_w: float):
    with np.errstate(over="ignore"):
        want = np.float32(g_x) * np.float32(g_w)
    assert global_scales.alpha_of(scalar(g_x), scalar(g_w)).numpy()[0] == want


# scales as bytes


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 9), st.sampled_from(sorted(scale_bytes.TILE_ROWS)))
def test_scales_seen_as_bytes_and_flat_are_the_same_memory_and_come_back(m, groups, layout):
    padded_n = groups * 16
    q = empty_quantized(NVFP4, Layout(scales=layout, padded_n=padded_n), m, padded_n, "cpu")
    seen = scale_bytes.flat(scale_bytes.as_bytes(q.scales))
    seen.copy_(torch.arange(seen.numel()) % 251)
    assert seen.data_ptr() == q.scales.data_ptr()
    assert seen.shape == (q.scales.numel(),)
    back = scale_bytes.as_e4m3(scale_bytes.unflat(seen, layout, m, padded_n))
    assert back.data_ptr() == q.scales.data_ptr()
    assert back.shape == q.scales.shape
    assert back.stride() == q.scales.stride()
    assert back.dtype is torch.float8_e4m3fn


@given(st.integers(0, 300), st.integers(1, 20), st.sampled_from(sorted(scale_bytes.TILE_ROWS)))
def test_stored_shapes_are_those_of_the_layouts_own_definition(m, groups, layout):
    lies = Layout(scales=layout, padded_n=groups * 16)
    assert scale_bytes.stored_shape(layout, m, groups * 16) == scale_shape(NVFP4, lies, m)


def test_scales_that_do_not_lie_in_one_piece_are_not_flattened_by_a_copy():
    with pytest.raises(RuntimeError):
        scale_bytes.flat(some_bytes(8, 8)[:, :4])


# matrices


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 20), st.integers(0, 20))
def test_padding_adds_zeros_and_is_undone_bit_for_bit(rows, columns, more_rows, more_columns):
    matrix = some_bytes(rows, columns)
    before = matrix.clone()
    made = matrices.padded(matrix, rows + more_rows, columns + more_columns)
    assert made.is_contiguous()
    assert torch.equal(made[:rows, :columns], matrix)
    assert int(made.sum()) == int(matrix.sum())
    assert torch.equal(matrices.unpadded(made, rows, columns), before)
    assert torch.equal(matrix, before)


def test_padding_takes_what_fits_as_it_is_and_keeps_the_dtype():
    matrix = some_bytes(4, 8).view(torch.float8_e4m3fn)
    assert matrices.padded(matrix, 4, 8) is matrix
    assert matrices.unpadded(matrix, 4, 8) is matrix
    wider = matrices.padded(matrix, 5, 8)
    assert wider.dtype is torch.float8_e4m3fn
    assert matrices.unpadded(wider, 4, 8).dtype is torch.float8_e4m3fn


def test_a_column_major_view_is_the_same_memory_seen_the_other_way():
    weight = some_bytes(6, 4)
    view = matrices.column_major(weight)
    assert view.shape == (4, 6)
    assert view.stride() == (1, 4)
    assert view.data_ptr() == weight.data_ptr()
    assert torch.equal(matrices.column_major(view), weight)
    assert matrices.column_major(view).is_contiguous()


def test_a_tensor_that_begins_between_multiples_is_copied_and_others_are_not():
    storage = torch.arange(256, dtype=torch.uint8)
    begins = -storage.data_ptr() % 32
    there, off = storage[begins : begins + 64], storage[begins + 1 : begins + 65]
    assert matrices.aligned(there, 32) is there
    copy = matrices.aligned(off, 32)
    assert copy.data_ptr() % 32 == 0
    assert torch.equal(copy, off)
    assert matrices.aligned(some_bytes(4, 8).T, 32).is_contiguous()


# trtllm-gen's order


@given(st.integers(1, 8), st.integers(1, 5))
def test_shuffled_rows_come_back(blocks, width):
    rows = some_bytes(blocks * 32, width)
    assert torch.equal(trtllm.unshuffled_rows(trtllm.shuffled_rows(rows)), rows)
    assert torch.equal(trtllm.shuffled_rows(trtllm.unshuffled_rows(rows)), rows)


def test_row_4a_plus_b_of_every_32_becomes_row_8b_plus_a():
    rows = torch.arange(96).reshape(96, 1)
    shuffled = trtllm.shuffled_rows(rows)
    for i in range(96):
        block, (a, b) = i // 32, divmod(i % 32, 4)
        assert int(shuffled[32 * block + 8 * b + a]) == i


@settings(deadline=None)
@given(st.integers(1, 3), st.integers(1, 4))
def test_shuffled_scales_come_back(blocks, groups):
    grid = some_bytes(blocks * 128, groups * 4)
    assert torch.equal(trtllm.unshuffled_scales(trtllm.shuffled_scales(grid)), grid)


def test_scales_go_with_their_rows():
    grid = torch.arange(128, dtype=torch.uint8).reshape(128, 1).expand(128, 4).contiguous()
    tiles = trtllm.shuffled_scales(grid).reshape(-1)
    order = trtllm.shuffled_rows(grid)[:, 0]
    for row in range(128):
        assert int(tiles[swizzled_128x4_offset(row, 2, 64)]) == int(order[row])


# 8x4 and 128x4 as flat buffers


@pytest.mark.parametrize(
    ("layout", "offset"),
    [("swizzled_128x4", swizzled_128x4_offset), ("swizzled_8x4", swizzled_8x4_offset)],
)
def test_a_flat_buffer_holds_every_scale_at_the_place_that_the_library_documents(layout, offset):
    m, groups = 21, 6
    grid = (torch.arange(m * groups) % 120 + 1).to(torch.uint8).reshape(m, groups)
    lies = Layout(scales=layout, padded_n=groups * 16)
    placed = place_scales(grid.view(torch.float8_e4m3fn), NVFP4, lies, m)
    flat = scale_bytes.flat(scale_bytes.as_bytes(placed))
    for row in range(m):
        for column in range(groups):
            assert int(flat[offset(row, column, groups * 16)]) == int(grid[row, column])
    assert int(flat.sum()) == int(grid.sum()), "padding is zero"


# FP8 groups


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 6))
def test_the_buffer_behind_scales_of_groups_is_columns_by_padded_rows(m, columns):
    group = operand("fp8_group128")
    lies = Layout(scales="col_major_aligned4", padded_n=columns * 128)
    grid = torch.rand(m, columns) + 0.5
    scales = place_scales(grid, group, lies, m)
    buffer = fp8_blocks.mn_buffer(scales)
    assert buffer.shape == (columns, round_up(m, 4))
    assert buffer.is_contiguous()
    assert torch.equal(buffer[:, :m], grid.T)
    assert float(buffer[:, m:].sum()) == 0.0
    assert torch.equal(fp8_blocks.mn_major(scales), buffer[:, :m])
    assert fp8_blocks.mn_major(scales).data_ptr() == scales.data_ptr()
    back = fp8_blocks.from_mn_major(buffer, m)
    assert back.data_ptr() == scales.data_ptr()
    assert torch.equal(back, scales)
    assert back.stride() == scales.stride()


def test_a_buffer_of_another_width_is_refused():
    with pytest.raises(ValueError, match=r"\[C, 8\]"):
        fp8_blocks.from_mn_major(torch.zeros(3, 5), 5)
