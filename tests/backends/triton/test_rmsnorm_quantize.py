"""RMSNorm into fp8 and int8 in the interpreter: what the conformance suite leaves out."""

import pytest
import torch

from quantmux.capability.profiles import profile
from quantmux.config import RmsNormQuantizeConfig, SiluMulQuantizeConfig, operand
from quantmux.errors import ConfigError, DtypeError, InputError, LayoutError, ShapeError
from quantmux.ops.quantize.compare import compare_quantized
from quantmux.ops.quantized import empty_quantized
from quantmux.ops.rmsnorm_quantize.reference import rmsnorm, rmsnorm_quantize
from quantmux_triton.rmsnorm_quantize import fp8_group, row

pytestmark = pytest.mark.interpreter

CPU = profile("cpu")
KERNELS = {
    "fp8_group128": fp8_group.kernel,
    "fp8_token": row.kernel,
    "fp8_tensor_static": row.kernel,
}


def _given(name):
    return {"scale": torch.tensor([0.0137])} if "static" in name else {}


def _x(m, n, magnitude=1.0, dtype=torch.bfloat16):
    generator = torch.Generator().manual_seed(m + n)
    return (torch.randn(m, n, generator=generator) * magnitude).to(dtype)


def _weight(n, dtype=torch.bfloat16):
    generator = torch.Generator().manual_seed(n)
    return (1 + 0.5 * torch.randn(n, generator=generator)).to(dtype)


def _config(name="fp8_group128", n=384, **fields):
    return RmsNormQuantizeConfig.model_validate({"operand": name, "n": n, **fields})


def _dirty(config, m):
    out = empty_quantized(config.operand, config.layout, m, config.n, "cpu")
    for part in (out.data, out.scales):
        size = part.untyped_storage().nbytes()
        torch.empty(0, dtype=torch.uint8).set_(part.untyped_storage(), 0, (size,)).fill_(0xA5)
    return out


def _agrees(kernel, config, x, weight, **kwargs):
    out = _dirty(config, x.shape[0])
    got = kernel.bind(config, CPU)(x, weight, out=out, **kwargs)
    want = rmsnorm_quantize(x, weight, config, **kwargs)
    values = rmsnorm(x, weight, config.norm_eps)
    compare_quantized(got, want, values=values).require(str(config))
    return got


@pytest.mark.parametrize("layout", ["row_major", "col_major", "col_major_aligned4", "packed_pow2"])
@pytest.mark.parametrize("group", [64, 128])
@pytest.mark.parametrize("m", [1, 70])
def test_every_layout_with_padded_columns_and_rows_over_dirty_memory(layout, group, m):
    name = f"fp8_group{group}" + ("_pow2" if layout == "packed_pow2" else "")
    config = _config(name, n=200, layout=layout, padded_n=512, padded_m_multiple=8)
    _agrees(fp8_group.kernel, config, _x(m, 200, magnitude=4.0), _weight(200))


@pytest.mark.parametrize("name", KERNELS)
def test_no_number_in_a_row_spoils_that_row_and_no_padding(name):
    config = _config(name, n=200, padded_n=256)
    x = _x(6, 200)
    x[1, 3], x[2, 150], x[4, 7] = torch.nan, torch.inf, -torch.inf
    got = _agrees(KERNELS[name], config, x, _weight(200), **_given(name))
    assert not got.data.view(torch.uint8)[:, 200:].any()
    clean = x.clone()
    clean[[1, 2, 4]] = 0
    alone = KERNELS[name].bind(config, CPU)(clean, _weight(200), **_given(name))
    others = [0, 3, 5]
    assert torch.equal(got.data.view(torch.uint8)[others], alone.data.view(torch.uint8)[others])


@pytest.mark.parametrize("name", KERNELS)
def test_a_weight_that_is_no_number_does_not_reach_padded_rows_and_columns(name):
    multiple = 1 if "static" in name else 8
    config = _config(name, n=200, padded_n=256, padded_m_multiple=multiple)
    weight = _weight(200)
    weight[5], weight[199] = torch.nan, torch.inf
    got = _agrees(KERNELS[name], config, _x(3, 200), weight, **_given(name))
    assert not got.data.view(torch.uint8)[:, 200:].any()
    assert not got.data.view(torch.uint8)[3:].any()


@pytest.mark.parametrize("name", KERNELS)
def test_nothing_behind_x_or_the_weight_is_taken_for_theirs(name):
    # blocks before, across and after the end of a row, and NaN behind the last
    n = 33 * 1024
    whole = torch.full((2 * n + 65536,), torch.nan, dtype=torch.bfloat16)
    x = whole[: 2 * n].view(2, n).copy_(_x(2, n))
    weight = torch.full((n + 65536,), torch.nan, dtype=torch.bfloat16)[:n].copy_(_weight(n))
    config = _config(name, n=n, padded_n=2 * n)
    got = _agrees(KERNELS[name], config, x, weight, **_given(name))
    assert not got.data.view(torch.uint8)[:, n:].any()


@pytest.mark.parametrize("name", KERNELS)
def test_wide_rows_are_walked_in_blocks(name):
    n = 33 * 1024
    config = _config(name, n=n, padded_n=34 * 1024)
    _agrees(KERNELS[name], config, _x(2, n), _weight(n), **_given(name))


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("magnitude", [1e-3, 1e-20, 1e15])
def test_norm_eps_is_the_layers_own_and_the_size_of_x_cancels(name, magnitude):
    x = _x(3, 384, magnitude, torch.float32)
    for norm_eps in (2.0**-126, 1e-6, 0.5):
        config = _config(name, in_dtype="fp32", norm_eps=norm_eps)
        _agrees(KERNELS[name], config, x, _weight(384, torch.float32), **_given(name))


@pytest.mark.parametrize("name", KERNELS)
def test_a_row_whose_squares_are_beyond_fp32_becomes_zeros(name):
    config = _config(name, in_dtype="fp32")
    x = _x(2, 384, 1e30, torch.float32)
    got = _agrees(KERNELS[name], config, x, _weight(384, torch.float32), **_given(name))
    assert not (got.data.view(torch.uint8) & 0x7F).any()


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("in_dtype", ["bf16", "fp16"])
def test_the_weight_may_be_fp32_beside_an_x_of_16_bit(name, in_dtype):
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[in_dtype]
    config = _config(name, in_dtype=in_dtype, fp32_weight=True)
    weight = _weight(384, torch.float32)
    got = _agrees(KERNELS[name], config, _x(5, 384, dtype=dtype), weight, **_given(name))
    rounded = KERNELS[name].bind(_config(name, in_dtype=in_dtype), CPU)(
        _x(5, 384, dtype=dtype), weight.to(dtype), **_given(name)
    )
    assert not torch.equal(got.data.view(torch.uint8), rounded.data.view(torch.uint8))


@pytest.mark.parametrize(
    "name", ["fp8_group128", "fp8_group128_pow2", "fp8_token", "fp8_token_pow2", "int8_token"]
)
def test_eps_and_scale_ub_are_the_operands_own(name):
    kernel = fp8_group.kernel if "group" in name else row.kernel
    base = operand(name)
    for changes in ({"eps": 0.5}, {"scale_ub": 0.25}, {"eps": 1e-4, "scale_ub": 0.1}):
        config = _config(base.replace(**changes))
        _agrees(kernel, config, _x(3, 384), _weight(384))


def test_a_given_scale_may_be_any_fp32_number():
    x = _x(3, 384)
    x[1] = 0  # by a reciprocal that is Inf it would be NaN
    for value in (1e-40, 1e-30, 0.02, 1e30):
        config = _config("fp8_tensor_static")
        _agrees(row.kernel, config, x, _weight(384), scale=torch.tensor([value]))


@pytest.mark.parametrize("name", KERNELS)
def test_no_rows_are_a_whole_result_with_the_given_scale(name):
    config = _config(name)
    got = KERNELS[name].bind(config, CPU)(_x(0, 384), _weight(384), **_given(name))
    got.check()
    assert got.logical_shape == (0, 384)
    if _given(name):
        assert torch.equal(got.scales, _given(name)["scale"])


@pytest.mark.parametrize("name", KERNELS)
def test_rows_columns_and_weights_may_lie_apart_and_begin_anywhere(name):
    x, weight, config = _x(5, 384), _weight(384), _config(name)
    run = KERNELS[name].bind(config, CPU)
    want = run(x, weight, **_given(name))
    wide = torch.full((5, 800), torch.nan, dtype=x.dtype)
    turned = torch.full((384, 5), torch.nan, dtype=x.dtype).T
    for view in (wide[:, :384], wide[:, 7:391], turned):
        view.copy_(x)
        compare_quantized(run(view, weight, **_given(name)), want).require(name)
    apart = torch.full((384, 3), torch.nan, dtype=x.dtype)[:, 1]
    behind = torch.full((391,), torch.nan, dtype=x.dtype)[7:]
    for view in (apart, behind):
        view.copy_(weight)
        compare_quantized(run(x, view, **_given(name)), want).require(name)
    same = torch.full((1,), 1.5, dtype=x.dtype).expand(384)
    _agrees(KERNELS[name], config, x, same, **_given(name))


@pytest.mark.parametrize("name", KERNELS)
def test_quotients_that_are_tied_by_a_weight_of_ones_go_the_definitions_way(name):
    # x / max(x) · 448 often lies halfway between two codes: the last bits of r, v and s decide
    x, weight, config = _x(64, 1024), torch.ones(1024, dtype=torch.bfloat16), _config(name, n=1024)
    got = KERNELS[name].bind(config, CPU)(x, weight, **_given(name))
    want = rmsnorm_quantize(x, weight, config, **_given(name))
    differs = got.data.view(torch.uint8) != want.data.view(torch.uint8)
    assert int(differs.any(dim=1).sum()) <= 8
    assert int(differs.sum()) <= differs.numel() // 4000


@pytest.mark.parametrize("name", KERNELS)
def test_a_rows_codes_are_the_same_in_any_batch(name):
    x, weight = _x(70, 384), _weight(384)
    run = KERNELS[name].bind(_config(name), CPU)
    whole = run(x, weight, **_given(name)).data.view(torch.uint8)
    for m in (1, 3, 17):
        few = run(x[:m], weight, **_given(name)).data.view(torch.uint8)
        assert torch.equal(few, whole[:m])


@pytest.mark.parametrize("name", KERNELS)
def test_what_does_not_fit_is_refused_by_name(name):
    config, given = _config(name), _given(name)
    run = KERNELS[name].bind(config, CPU)
    x, weight = _x(2, 384), _weight(384)
    with pytest.raises(ShapeError):
        run(_x(2, 385), weight, **given)
    with pytest.raises(ShapeError):
        run(x, _weight(385), **given)
    with pytest.raises(ShapeError):
        run(x, weight[None], **given)
    with pytest.raises(DtypeError):
        run(x, weight.float(), **given)
    with pytest.raises(InputError):
        run(x, weight.to("meta"), **given)
    with pytest.raises(InputError):
        run(x, weight, **({} if given else {"scale": torch.ones(1)}))
    with pytest.raises(InputError):
        KERNELS[name].bind(config, profile("h200"))(x, weight, **given)
    with pytest.raises(LayoutError):
        run(x, weight, out=_dirty(_config(name, padded_n=512), 2), **given)
    with pytest.raises(ConfigError):
        KERNELS[name].bind(SiluMulQuantizeConfig(operand=name, n=384), CPU)


@pytest.mark.parametrize("name", KERNELS)
def test_no_number_of_rows_makes_a_variant(name):
    kernel, config = KERNELS[name], _config(name, n=256)
    run = kernel.bind(config, CPU)
    run(_x(1, 256), _weight(256), **_given(name))
    before = kernel.compiled_variants()
    for m in (2, 3, 15, 16, 17, 64, 100):
        run(_x(m, 256), _weight(256), **_given(name))
    assert kernel.compiled_variants() == before
