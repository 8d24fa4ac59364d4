"""SiLU·mul into fp8 and int8 in the interpreter: what the conformance suite leaves out."""

import pytest
import torch

from quantmux.capability.profiles import profile
from quantmux.config import QuantizeConfig, SiluMulQuantizeConfig
from quantmux.errors import ConfigError, InputError, LayoutError, ShapeError
from quantmux.ops.quantize.compare import compare_quantized
from quantmux.ops.quantized import empty_quantized
from quantmux.ops.silu_mul_quantize.reference import silu_mul, silu_mul_quantize
from quantmux_triton.silu_mul_quantize import fp8_group, tensor, token

pytestmark = pytest.mark.interpreter

CPU = profile("cpu")
KERNELS = {
    "fp8_group128": fp8_group.kernel,
    "fp8_token": token.kernel,
    "fp8_tensor": tensor.kernel,
}


def _x(m, n, magnitude=1.0, dtype=torch.bfloat16):
    generator = torch.Generator().manual_seed(m + n)
    return (torch.randn(m, 2 * n, generator=generator) * magnitude).to(dtype)


def _config(operand="fp8_group128", n=384, **fields):
    return SiluMulQuantizeConfig.model_validate({"operand": operand, "n": n, **fields})


def _dirty(config, m):
    out = empty_quantized(config.operand, config.layout, m, config.n, "cpu")
    for part in (out.data, out.scales):
        size = part.untyped_storage().nbytes()
        torch.empty(0, dtype=torch.uint8).set_(part.untyped_storage(), 0, (size,)).fill_(0xA5)
    return out


def _agrees(kernel, config, x, **kwargs):
    out = _dirty(config, x.shape[0])
    got = kernel.bind(config, CPU)(x, out=out, **kwargs)
    want = silu_mul_quantize(x, config, **kwargs)
    compare_quantized(got, want, values=silu_mul(x)).require(str(config))
    return got


@pytest.mark.parametrize("layout", ["row_major", "col_major", "col_major_aligned4", "packed_pow2"])
@pytest.mark.parametrize("group", [64, 128])
@pytest.mark.parametrize("m", [1, 5, 70])
def test_every_layout_with_padded_columns_and_rows_over_dirty_memory(layout, group, m):
    name = f"fp8_group{group}" + ("_pow2" if layout == "packed_pow2" else "")
    config = _config(name, n=200, layout=layout, padded_n=512, padded_m_multiple=8)
    _agrees(fp8_group.kernel, config, _x(m, 200, magnitude=4.0))


@pytest.mark.parametrize("name", KERNELS)
def test_a_nan_or_infinity_spoils_its_block_and_no_padding(name):
    config = _config(name, n=200, padded_n=256, padded_m_multiple=4)
    x = _x(6, 200)
    x[1, 3], x[2, 203] = torch.nan, torch.inf
    got = _agrees(KERNELS[name], config, x)
    assert not got.data.view(torch.uint8)[:, 200:].any()


@pytest.mark.parametrize("name", KERNELS)
def test_tiles_wholly_in_the_padding_are_zero_whatever_lies_behind_x(name):
    # whole tiles before and after the end of a row, and NaN behind the last
    n = 32768
    whole = torch.full((2 * 2 * n + 65536,), torch.nan, dtype=torch.bfloat16)
    x = whole[: 2 * 2 * n].view(2, 2 * n).copy_(_x(2, n))
    got = _agrees(KERNELS[name], _config(name, n=n, padded_n=2 * n), x)
    assert not got.data.view(torch.uint8)[:, n:].any()


@pytest.mark.parametrize("name", KERNELS)
def test_gates_beyond_the_range_of_exp(name):
    x = _x(4, 384)
    x[0, :384], x[1, :384], x[2, :384], x[3, :384] = -3e38, 3e38, -100.0, 100.0
    _agrees(KERNELS[name], _config(name), x)


@pytest.mark.parametrize("name", KERNELS)
def test_wide_rows_are_walked_in_blocks(name):
    _agrees(KERNELS[name], _config(name, n=33 * 1024, padded_n=34 * 1024), _x(2, 33 * 1024))


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("rounded", ["", "_pow2"])
def test_eps_and_scale_ub_are_the_operands_own(name, rounded):
    from quantmux.config import operand

    base = operand(name + rounded)
    for changes in ({"eps": 0.5}, {"scale_ub": 0.25}, {"eps": 1e-4, "scale_ub": 0.1}):
        _agrees(KERNELS[name], _config(base.replace(**changes)), _x(3, 384))


def test_a_given_scale_may_be_any_fp32_number():
    x = _x(3, 384)
    x[1] = 0  # by a reciprocal that is Inf it would be NaN
    for value in (1e-40, 1e-30, 0.02, 1e30):
        config = _config("fp8_tensor_static")
        _agrees(tensor.static_kernel, config, x, scale=torch.tensor([value]))


@pytest.mark.parametrize("name", KERNELS)
def test_no_rows_are_no_launch_but_a_whole_result(name):
    config = _config(name)
    got = KERNELS[name].bind(config, CPU)(_x(0, 384))
    got.check()
    assert got.logical_shape == (0, 384)


@pytest.mark.parametrize("name", KERNELS)
def test_rows_and_columns_may_lie_apart_and_begin_anywhere(name):
    x = _x(5, 384)
    config = _config(name)
    want = KERNELS[name].bind(config, CPU)(x)
    wide = torch.full((5, 800), torch.nan, dtype=x.dtype)
    turned = torch.full((768, 5), torch.nan, dtype=x.dtype).T
    for view in (wide[:, :768], wide[:, 7:775], turned):
        view.copy_(x)
        compare_quantized(KERNELS[name].bind(config, CPU)(view), want).require(name)


@pytest.mark.parametrize("name", KERNELS)
def test_what_does_not_fit_is_refused_by_name(name):
    run = KERNELS[name].bind(_config(name), CPU)
    with pytest.raises(ShapeError):
        run(_x(2, 385))
    with pytest.raises(InputError):
        run(_x(2, 384), scale=torch.ones(1))
    with pytest.raises(InputError):
        KERNELS[name].bind(_config(name), profile("h200"))(_x(2, 384))
    with pytest.raises(LayoutError):
        run(_x(2, 384), out=_dirty(_config(name, padded_n=512), 2))
    with pytest.raises(ConfigError):
        KERNELS[name].bind(QuantizeConfig(operand=name, n=384), CPU)


@pytest.mark.parametrize("name", KERNELS)
def test_no_number_of_rows_makes_a_variant(name):
    kernel, config = KERNELS[name], _config(name, n=256)
    run = kernel.bind(config, CPU)
    run(_x(1, 256))
    before = kernel.compiled_variants()
    for m in (2, 3, 15, 16, 17, 64, 100):
        run(_x(m, 256))
    assert kernel.compiled_variants() == before
