"""The FP8 and INT8 products for many tokens, in the interpreter: values, strides, errors."""

import pytest
import torch

from quantmux.capability.arch import Arch
from quantmux.capability.device import DeviceProfile
from quantmux.config import LinearConfig
from quantmux.dispatch.join import required_input
from quantmux.errors import DtypeError, LayoutError, ShapeError
from quantmux.ops.linear.reference import linear_exact
from quantmux.ops.linear.spec import make_weights, make_x, with_input_scales
from quantmux.ops.linear.tolerance import compare, linear_magnitude
from quantmux.ops.quantize.reference import quantize
from quantmux.ops.spec import Case
from quantmux_triton.linear import fp8, fp8_block, int8

pytestmark = pytest.mark.interpreter

CPU = DeviceProfile(name="cpu", title="host", arch=Arch.parse("cpu"), is_present=True)
KERNELS = {
    "fp8_tensor": fp8,
    "fp8_tensor_static": fp8,
    "fp8_tensor_token": fp8,
    "fp8_channel_token": fp8,
    "fp8_channel_token+exact": fp8,
    "fp8_block128": fp8_block,
    "fp8_block128_pow2": fp8_block,
    "int8_channel_token": int8,
}


def layer(scheme, n, k, m, *, scales=None, padded_k=1, padded_m=1, **changes):
    """Give config, canonical weights and a quantized x."""
    config = LinearConfig.model_validate(
        {"in_features": k, "out_features": n, "scheme": scheme, **changes}
    )
    case = Case(config, m)
    x = make_x(case, "cpu", 3)
    weights = with_input_scales(make_weights(case, "cpu", 3), config, x)
    operand = config.scheme.activation
    name = scales or ("scalar" if operand.block.kind == "tensor" else "row_major")
    source = required_input(operand, k, name, padded_k, padded_m, config.in_dtype)
    return config, weights, quantize(x, source, scale=weights.input_scale)


def bound(config, weights):
    kernel = KERNELS[str(config.scheme)].kernel
    return kernel.bind(config, kernel.prepare(weights, config, CPU), CPU)


def agree(y, q, weights, config):
    found = compare(
        y,
        linear_exact(q, weights, config),
        config=config,
        magnitude=linear_magnitude(q, weights, config),
    )
    found.require("y")


@pytest.mark.parametrize("scheme", KERNELS)
def test_every_scheme_agrees_where_no_tile_divides_anything(scheme):
    config, weights, q = layer(scheme, 259, 200, 67, bias=True)
    agree(bound(config, weights)(q), q, weights, config)


@pytest.mark.parametrize("scheme", ["fp8_channel_token", "fp8_block128", "int8_channel_token"])
@pytest.mark.parametrize("out_dtype", ["bf16", "fp16", "fp32"])
def test_every_output_format_is_rounded_once(scheme, out_dtype):
    config, weights, q = layer(scheme, 130, 256, 9, out_dtype=out_dtype, bias=True)
    y = bound(config, weights)(q)
    assert y.is_contiguous()
    agree(y, q, weights, config)


@pytest.mark.parametrize("scales", ["row_major", "col_major", "col_major_aligned4"])
def test_block_scales_of_x_are_read_in_every_layout(scales):
    config, weights, q = layer("fp8_block128", 72, 384, 5, scales=scales)
    agree(bound(config, weights)(q), q, weights, config)


@pytest.mark.parametrize("scheme", ["fp8_channel_token", "fp8_block128", "int8_channel_token"])
def test_rows_and_columns_that_pad_x_are_left_alone(scheme):
    config, weights, q = layer(scheme, 40, 200, 5, padded_k=128, padded_m=8)
    assert tuple(q.data.shape) == (8, 256)
    agree(bound(config, weights)(q), q, weights, config)


def test_out_may_have_rows_apart_and_what_lies_between_stays():
    config, weights, q = layer("fp8_channel_token", 33, 128, 7)
    whole = torch.full((7, 50), 7.0, dtype=torch.bfloat16)
    y = bound(config, weights)(q, out=whole[:, 3:36])
    assert y.data_ptr() == whole[:, 3:].data_ptr()
    agree(y, q, weights, config)
    assert bool((whole[:, :3] == 7).all())
    assert bool((whole[:, 36:] == 7).all())


def test_no_rows_launch_nothing():
    config, weights, q = layer("fp8_block128", 64, 128, 0)
    assert tuple(bound(config, weights)(q).shape) == (0, 64)


@pytest.mark.parametrize(
    ("out", "error"),
    [
        (torch.empty(5, 63, dtype=torch.bfloat16), ShapeError),
        (torch.empty(5, 64, dtype=torch.float16), DtypeError),
        (torch.empty(64, 5, dtype=torch.bfloat16).T, LayoutError),
    ],
)
def test_an_out_that_does_not_fit_is_refused(out, error):
    config, weights, q = layer("fp8_channel_token", 64, 128, 5)
    with pytest.raises(error):
        bound(config, weights)(q, out=out)


def test_weights_with_gaps_between_rows_are_refused():
    config, weights, _ = layer("fp8_channel_token", 64, 128, 5)
    wide = torch.zeros(64, 256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    prepared = fp8.kernel.prepare(weights, config, CPU)
    tensors = {**prepared.tensors, "data": wide[:, :128]}
    with pytest.raises(LayoutError, match="without gaps"):
        fp8.kernel.bind(config, type(prepared)(tensors, "canonical", 64, 128), CPU)


def test_preparing_shares_the_checkpoints_tensors():
    config, weights, _ = layer("fp8_channel_token", 64, 128, 5, bias=True)
    prepared = fp8.kernel.prepare(weights, config, CPU)
    assert all(prepared.tensors[name] is tensor for name, tensor in weights.named().items())
    assert prepared.restore() is weights
