import numpy as np
import pytest

from quantmux.config import OPERANDS, Layout, default_layout, layouts_for, operand, round_up
from quantmux.config.layouts import (
    SCALE_LAYOUTS,
    check_layout,
    data_shape,
    scale_shape,
    scale_storage,
    scale_strides,
    swizzled_8x4_offset,
    swizzled_128x4_offset,
)
from quantmux.errors import ConfigError

SIZES = [(1, 16), (7, 48), (33, 1008), (128, 64), (130, 7168), (257, 272)]


def by_hand_128x4(rows, cols):
    """Row and column at each place of the 128x4 tiles, found by moving axes."""
    r, c = round_up(rows, 128), round_up(cols, 4)
    grid = np.arange(r * c).reshape(r // 128, 4, 32, c // 4, 4)
    flat = grid.transpose(0, 3, 2, 1, 4).reshape(-1)
    return np.stack([flat // c, flat % c], axis=1)


def by_hand_8x4(rows, cols):
    r, c = round_up(rows, 8), round_up(cols, 4)
    flat = np.arange(r * c).reshape(r // 8, 8, c // 4, 4).transpose(0, 2, 1, 3).reshape(-1)
    return np.stack([flat // c, flat % c], axis=1)


@pytest.mark.parametrize(("m", "padded_n"), SIZES)
@pytest.mark.parametrize(
    ("offset", "by_hand"),
    [(swizzled_128x4_offset, by_hand_128x4), (swizzled_8x4_offset, by_hand_8x4)],
)
def test_swizzle_formulas_agree_with_moved_axes(offset, by_hand, m, padded_n):
    order = by_hand(m, padded_n // 16)
    step = max(1, len(order) // 2000) | 1  # odd, so that every residue of the tiles is met
    for position in range(0, len(order), step):
        row, col = (int(v) for v in order[position])
        assert offset(row, col, padded_n) == position


@pytest.mark.parametrize(("m", "padded_n"), SIZES)
@pytest.mark.parametrize("name", ["swizzled_128x4", "swizzled_8x4"])
def test_swizzles_fill_their_storage_exactly_once(name, m, padded_n):
    layout = Layout(scales=name, padded_n=padded_n)
    value = operand("nvfp4")
    rows, cols = scale_shape(value, layout, m)
    offset = swizzled_128x4_offset if name == "swizzled_128x4" else swizzled_8x4_offset
    found = {offset(r, c, padded_n) for r in range(rows) for c in range(cols)}
    assert found == set(range(scale_storage(value, layout, m)))


@pytest.mark.parametrize(
    ("name", "layout", "m", "padded_n", "shape", "strides", "storage"),
    [
        ("fp8_tensor", "scalar", 5, 100, (1,), (1,), 1),
        ("int8_token", "row_major", 5, 112, (5, 1), (1, 1), 5),
        ("fp8_token", "row_major", 0, 112, (0, 1), (1, 1), 0),
        ("fp8_group128", "row_major", 5, 384, (5, 3), (3, 1), 15),
        ("fp8_group128", "col_major", 5, 384, (5, 3), (1, 5), 15),
        ("fp8_group128", "col_major_aligned4", 5, 384, (5, 3), (1, 8), 24),
        ("fp8_group128", "col_major_aligned4", 8, 384, (8, 3), (1, 8), 24),
        ("fp8_group128_pow2", "packed_pow2", 5, 640, (5, 2), (1, 8), 16),
        ("fp8_group64", "row_major", 3, 192, (3, 3), (3, 1), 9),
        ("nvfp4", "row_major", 5, 48, (5, 3), (3, 1), 15),
        ("nvfp4", "swizzled_128x4", 129, 48, (256, 4), (4, 1), 1024),
        ("nvfp4", "swizzled_8x4", 9, 80, (16, 8), (8, 1), 128),
    ],
)
def test_scale_shapes_are_those_of_the_table(name, layout, m, padded_n, shape, strides, storage):
    value, where = operand(name), Layout(scales=layout, padded_n=padded_n)
    assert scale_shape(value, where, m) == shape
    assert scale_strides(value, where, m) == strides
    assert scale_storage(value, where, m) == storage


def test_padded_rows_count_in_data_and_scales():
    where = Layout(scales="col_major", padded_n=256, padded_m_multiple=16)
    assert data_shape(operand("fp8_group128"), where, 5) == (16, 256)
    assert scale_shape(operand("fp8_group128"), where, 5) == (16, 2)
    assert scale_strides(operand("fp8_group128"), where, 5) == (1, 16)


def test_fp4_data_hold_two_elements_in_a_byte():
    assert data_shape(operand("nvfp4"), Layout(scales="row_major", padded_n=48), 3) == (3, 24)


@pytest.mark.parametrize("name", OPERANDS)
def test_the_default_layout_is_legal_and_plain(name):
    value = operand(name)
    for n in (1, 15, 16, 100, 7152):
        layout = default_layout(value, n)
        check_layout(value, layout, n)
        assert layout.scales == ("scalar" if value.block.kind == "tensor" else "row_major")
        assert layout.padded_n == (round_up(n, 16) if value.is_nvfp4 else n)


@pytest.mark.parametrize("name", OPERANDS)
@pytest.mark.parametrize("layout", SCALE_LAYOUTS)
def test_other_layouts_are_undefined(name, layout):
    value = operand(name)
    where = Layout(scales=layout, padded_n=256)
    if layout in layouts_for(value):
        check_layout(value, where, 256)
        return
    with pytest.raises(ConfigError) as caught:
        check_layout(value, where, 256)
    assert caught.value.code == "layout_undefined"
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "n", "padded_n", "hint"),
    [
        ("fp8_group128", 256, 128, "padded_n=256"),
        ("fp8_group128", 256, 300, "padded_n=384"),
        ("fp8_token", 100, 104, "padded_n=112"),
        ("fp8_tensor", 100, 104, "padded_n=112"),
        ("nvfp4", 100, 104, "padded_n=112"),
    ],
)
def test_refuses_a_padding_that_is_no_multiple_of_the_block(name, n, padded_n, hint):
    layout = Layout(scales=layouts_for(operand(name))[0], padded_n=padded_n)
    with pytest.raises(ConfigError) as caught:
        check_layout(operand(name), layout, n)
    assert caught.value.code == "padded_n"
    assert hint in str(caught.value)


def test_nvfp4_never_stores_a_partial_block():
    with pytest.raises(ConfigError, match="whole blocks of 16"):
        check_layout(operand("nvfp4"), Layout(scales="row_major", padded_n=100), 100)


def test_a_misspelt_layout_suggests_the_nearest():
    with pytest.raises(ConfigError, match='did you mean "swizzled_8x4"'):
        Layout(scales="swizzled_8x", padded_n=16)


def test_a_plugins_layout_is_accepted_by_name_and_its_shape_left_to_the_plugin():
    where = Layout(scales="acme:tiles", padded_n=256)
    check_layout(operand("fp8_group128"), where, 256)
    with pytest.raises(ConfigError, match="only the plugin knows"):
        scale_shape(operand("fp8_group128"), where, 5)
