"""QuantizedTensor.check: what no kernel may be given."""

from dataclasses import replace

import pytest
import torch

from quantmux.config import InverseRopeQuantizeConfig, Layout, QuantizeConfig
from quantmux.errors import DtypeError, InputError, LayoutError, ShapeError
from quantmux.ops.inverse_rope_quantize.spec import empty_grouped
from quantmux.ops.quantized import DATA_DTYPES, QuantizedTensor, empty_quantized


def made(operand, layout=None, m=5, n=256, **padding):
    config = QuantizeConfig(operand=operand, n=n, layout=layout, **padding)
    return empty_quantized(config.operand, config.layout, m, n, "cpu")


def grouped(scales="col_major_aligned4", t=5):
    config = InverseRopeQuantizeConfig(heads=4, head_dim=128, rope_dim=64, groups=2, layout=scales)
    return empty_grouped(config, t, "cpu")


def moved(tensor, stride, offset=0):
    """Give a tensor of the same shape and dtype with other strides, on storage of its own."""
    size = offset + 1 + sum((e - 1) * s for e, s in zip(tensor.shape, stride, strict=True))
    return torch.zeros(size, dtype=tensor.dtype).as_strided(tensor.shape, stride, offset)


EVERY = [
    ("fp8_tensor", None),
    ("fp8_token", None),
    ("int8_token", None),
    ("fp8_group128", "row_major"),
    ("fp8_group128", "col_major"),
    ("fp8_group128", "col_major_aligned4"),
    ("fp8_group128_pow2", "packed_pow2"),
    ("nvfp4", "row_major"),
    ("nvfp4", "swizzled_128x4"),
    ("nvfp4", "swizzled_8x4"),
]


@pytest.mark.parametrize(("operand", "layout"), EVERY)
@pytest.mark.parametrize("m", [0, 1, 5, 129])
def test_takes_what_is_allocated_and_what_lies_inside_a_larger_buffer(operand, layout, m):
    q = made(operand, layout, m=m, padded_n=384)
    q.check()
    tail = torch.empty(q.data.numel() + 7, dtype=torch.uint8).view(q.data.dtype)[7:]
    replace(q, data=tail.view(q.data.shape)).check()


@pytest.mark.parametrize("scales", ["col_major_aligned4", "packed_pow2"])
@pytest.mark.parametrize("t", [0, 1, 5])
def test_takes_grouped_ones(scales, t):
    grouped(scales, t).check()


@pytest.mark.parametrize(("operand", "layout"), EVERY)
def test_refuses_column_major_and_strided_data(operand, layout):
    q = made(operand, layout)
    rows, cols = q.data.shape
    for stride in ((1, rows), (2 * cols, 1), (2 * cols, 2), (0, 1)):
        with pytest.raises(LayoutError, match="data has the wrong strides"):
            replace(q, data=moved(q.data, stride)).check()


def test_one_row_may_have_any_row_stride_but_no_other_column_stride():
    q = made("fp8_token", m=1)
    replace(q, data=moved(q.data, (999, 1))).check()
    with pytest.raises(LayoutError, match="data has the wrong strides"):
        replace(q, data=moved(q.data, (256, 2))).check()


def test_refuses_a_row_width_beyond_the_stored_one():
    q = made("fp8_token", n=64)
    with pytest.raises(ShapeError, match="65 is beyond padded_n = 64"):
        replace(q, logical_shape=(5, 65)).check()


@pytest.mark.parametrize("shape", [(5,), (1, 5, 2, 128), ()])
def test_refuses_a_logical_shape_of_no_matrix(shape):
    with pytest.raises(ShapeError):
        replace(made("fp8_token"), logical_shape=shape).check()


@pytest.mark.parametrize("part", ["data", "scales", "global_scale"])
def test_refuses_parts_on_two_devices(part):
    q = made("nvfp4")
    with pytest.raises(InputError, match="is on") as caught:
        replace(q, **{part: getattr(q, part).to("meta")}).check()
    assert caught.value.code == "device"
    group = grouped()
    if part != "global_scale":
        with pytest.raises(InputError, match="is on"):
            replace(group, **{part: getattr(group, part).to("meta")}).check()


@pytest.mark.parametrize("part", ["data", "scales", "global_scale"])
def test_refuses_parts_that_are_no_tensors(part):
    with pytest.raises(InputError, match=f"{part} needs to be a tensor, found float"):
        replace(made("nvfp4"), **{part: 0.5}).check()
    if part != "global_scale":
        with pytest.raises(InputError, match=f"{part} needs to be a tensor, found NoneType"):
            replace(made("fp8_token"), **{part: None}).check()


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (torch.ones(()), ShapeError),
        (torch.ones(2), ShapeError),
        (torch.ones(1, 1), ShapeError),
        (torch.ones(1, dtype=torch.float64), DtypeError),
        (torch.ones(1, dtype=torch.bfloat16), DtypeError),
        (None, LayoutError),
    ],
)
def test_refuses_a_global_scale_other_than_one_fp32(value, error):
    with pytest.raises(error, match=r"global.scale"):
        replace(made("nvfp4"), global_scale=value).check()


def test_refuses_a_global_scale_where_there_is_none():
    for q in (made("fp8_token"), grouped()):
        with pytest.raises(LayoutError, match="has no global scale"):
            replace(q, global_scale=torch.ones(1)).check()


@pytest.mark.parametrize(
    ("operand", "layout"),
    [("fp8_group128", "col_major_aligned4"), ("fp8_group128_pow2", "packed_pow2")],
)
def test_refuses_scales_whose_storage_ends_before_the_pad_rows(operand, layout):
    q = made(operand, layout, m=5, n=640)
    short = moved(q.scales, q.scales.stride())
    assert short.stride() == q.scales.stride()
    with pytest.raises(LayoutError, match="ends before their pad rows"):
        replace(q, scales=short).check()
    # long enough from its start, but not from where the scales begin
    whole = torch.zeros(q.scales.untyped_storage().nbytes() // 4, dtype=q.scales.dtype)
    replace(q, scales=whole.as_strided(q.scales.shape, q.scales.stride())).check()
    late = torch.zeros(whole.numel() + 2, dtype=whole.dtype)
    replace(q, scales=late.as_strided(q.scales.shape, q.scales.stride(), 2)).check()
    with pytest.raises(LayoutError, match="ends before their pad rows"):
        replace(q, scales=late.as_strided(q.scales.shape, q.scales.stride(), 3)).check()


@pytest.mark.parametrize("scales", ["col_major_aligned4", "packed_pow2"])
def test_refuses_grouped_ones_whose_storage_is_short_or_whose_dtype_is_another(scales):
    q = grouped(scales)
    with pytest.raises(LayoutError, match="ends before their pad rows"):
        replace(q, scales=moved(q.scales, q.scales.stride())).check()
    for dtype in (torch.int8, torch.uint8, torch.float8_e5m2):
        with pytest.raises(DtypeError, match="data needs"):
            replace(q, data=q.data.view(dtype)).check()
    with pytest.raises(LayoutError, match="data has the wrong strides"):
        replace(q, data=torch.empty_like(q.data, memory_format=torch.contiguous_format)).check()


def test_a_plugin_s_layout_is_checked_as_far_as_it_is_known():
    layout = Layout(scales="acme:tiles", padded_n=32)
    operand = QuantizeConfig(operand="fp8_token", n=32).operand
    data = torch.empty(3, 32, dtype=DATA_DTYPES[operand.element])
    q = QuantizedTensor(data, torch.empty(7), None, operand, layout, (3, 32))
    q.check()
    with pytest.raises(LayoutError, match="data has the wrong strides"):
        replace(q, data=moved(data, (1, 3))).check()
    with pytest.raises(InputError, match="scales is on meta"):
        replace(q, scales=torch.empty(7, device="meta")).check()
