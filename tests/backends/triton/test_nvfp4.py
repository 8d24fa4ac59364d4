"""NVFP4 made by the kernels against the definition, in Triton's interpreter."""

import pytest
import torch
import triton
import triton.language as tl

from quantmux.capability.detect import resolve_device
from quantmux.config import QuantizeConfig, SiluMulQuantizeConfig
from quantmux.errors import ConfigError, DtypeError, InputError, LayoutError, ShapeError
from quantmux.ops import numerics
from quantmux.ops.quantize.compare import compare_quantized
from quantmux.ops.quantize.reference import quantize
from quantmux.ops.quantized import QuantizedTensor, empty_quantized
from quantmux.ops.silu_mul_quantize.reference import silu_mul, silu_mul_quantize
from quantmux_triton.e2m1_kernel import PORTABLE, to_e2m1_packed, to_e2m1_word
from quantmux_triton.quantize.nvfp4 import dynamic, kernel
from quantmux_triton.silu_mul_quantize.nvfp4 import dynamic as silu_dynamic
from quantmux_triton.silu_mul_quantize.nvfp4 import kernel as silu_kernel

pytestmark = pytest.mark.interpreter

LAYOUTS = ("row_major", "swizzled_128x4", "swizzled_8x4")
CPU = resolve_device("cpu")


@triton.jit
def _packed(lo, hi, out, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    tl.store(out + at, to_e2m1_packed(tl.load(lo + at), tl.load(hi + at), PORTABLE))


@triton.jit
def _words(x, out, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    v0, v1 = tl.load(x + at * 8), tl.load(x + at * 8 + 1)
    v2, v3 = tl.load(x + at * 8 + 2), tl.load(x + at * 8 + 3)
    v4, v5 = tl.load(x + at * 8 + 4), tl.load(x + at * 8 + 5)
    v6, v7 = tl.load(x + at * 8 + 6), tl.load(x + at * 8 + 7)
    tl.store(out + at, to_e2m1_word(v0, v1, v2, v3, v4, v5, v6, v7, PORTABLE))


def _edges() -> torch.Tensor:
    """Every value, every middle of two, both neighbours of each, and what lies beyond."""
    values = torch.tensor(numerics.E2M1_VALUES)
    middles = (values[1:] + values[:-1]) / 2
    ends = torch.tensor([1e-45, 1e-38, 6.5, 7.0, 8.0, 1e6, 3e38, torch.inf])
    points = torch.cat([values, middles, ends])
    beside = [torch.nextafter(points, points + 1), torch.nextafter(points, points - 1)]
    positive = torch.cat([points, *beside]).abs()
    return torch.cat([positive, -positive])


def _padded(values: torch.Tensor, multiple: int) -> torch.Tensor:
    size = triton.next_power_of_2(-(-values.numel() // multiple)) * multiple
    return torch.nn.functional.pad(values.flatten(), (0, size - values.numel()))


def test_codes_are_right_at_every_boundary_and_beside_it() -> None:
    values = _padded(_edges(), 8)
    codes = numerics.encode_e2m1(values)
    out = torch.empty(values.numel(), dtype=torch.uint8)
    _packed[(1,)](values, values.flip(0).contiguous(), out, SIZE=values.numel())
    assert torch.equal(out, codes | (codes.flip(0) << 4))
    words = torch.empty(values.numel() // 8, dtype=torch.int32)
    _words[(1,)](values, words, SIZE=words.numel())
    assert torch.equal(numerics.unpack_fp4(words.view(torch.uint8)), codes)


def test_codes_are_right_for_random_numbers_of_every_size() -> None:
    torch.manual_seed(1)
    bits = torch.randint(-(2**31), 2**31, (1 << 15,)).to(torch.int32).view(torch.float32)
    near = (torch.rand(1 << 15) * 2 - 1) * 8
    for given in (bits, near):
        values = torch.where(given.isnan(), 0.0, given)
        words = torch.empty(values.numel() // 8, dtype=torch.int32)
        _words[(1,)](values, words, SIZE=words.numel())
        want = numerics.encode_e2m1(values)
        assert torch.equal(numerics.unpack_fp4(words.view(torch.uint8)), want)


def _g(value: float = 2.5 / 2688) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float32)


def _matrix(m: int, n: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    torch.manual_seed(m * 131 + n)
    x = torch.randn(m, n) * torch.exp2(torch.randint(-6, 6, (m, 1)).float())
    x[0, : min(n, 16)] = -0.0
    return x.to(dtype)


def _poisoned(config: QuantizeConfig, m: int) -> QuantizedTensor:
    out = empty_quantized(config.operand, config.layout, m, config.n, "cpu")
    for part in out.tensors():
        part.view(torch.uint8).fill_(0xA5)
    return out


def _require_equal(config, x: torch.Tensor, g: torch.Tensor | None, bound=None) -> None:
    run = bound or (kernel if g is not None else dynamic).bind(config, CPU)
    want = quantize(x, config, global_scale=g)
    for out in (None, _poisoned(config, x.shape[0])):
        got = run(x, global_scale=g, out=out)
        compare_quantized(got, want).require(f"{config}, M = {x.shape[0]}")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("n", "padded_n"), [(464, 464), (464, 512), (440, 576), (17, 32)])
@pytest.mark.parametrize("m", [1, 5, 33, 129])
def test_every_layout_and_padding_is_the_definitions_to_the_bit(
    layout: str, n: int, padded_n: int, m: int
) -> None:
    config = QuantizeConfig(operand="nvfp4_static", n=n, padded_n=padded_n, layout=layout)
    _require_equal(config, _matrix(m, n), _g())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("m", [1, 9, 130])
def test_a_computed_global_scale_is_the_definitions_to_the_bit(layout: str, m: int) -> None:
    config = QuantizeConfig(
        operand="nvfp4", n=88, padded_n=112, layout=layout, padded_m_multiple=16
    )
    _require_equal(config, _matrix(m, 88), None)


def test_a_dynamic_kernel_takes_a_global_scale_that_is_given() -> None:
    config = QuantizeConfig(operand="nvfp4", n=64)
    _require_equal(config, _matrix(7, 64), _g(), dynamic.bind(config, CPU))


@pytest.mark.parametrize("g", [1e-45, 2e-39, 1e-37, 1e-31, 1e-19, 1.0, 1e17, 1e19, 1e30, 3e38])
def test_global_scales_at_both_ends_of_fp32_are_served(g: float) -> None:
    config = QuantizeConfig(operand="nvfp4_static", n=256, in_dtype="fp32")
    torch.manual_seed(3)
    bits = torch.randint(-(2**31), 2**31, (24, 256)).to(torch.int32).view(torch.float32)
    near = torch.randn(24, 256) * torch.tensor(g) * 1000
    near[:, ::5] = 0
    for x in (bits, near):
        _require_equal(config, x, _g(g))


@pytest.mark.parametrize("bad", [torch.nan, -torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("given", [True, False])
def test_a_bad_element_spoils_its_own_block_only(bad: float, given: bool) -> None:
    config = QuantizeConfig(operand="nvfp4_static" if given else "nvfp4", n=80, padded_n=96)
    x = _matrix(6, 80)
    x[3, 37] = bad
    got = (kernel if given else dynamic).bind(config, CPU)(x, global_scale=_g() if given else None)
    codes = got.scales.view(torch.uint8)
    assert codes[3, 2] == 0x7F
    spoiled = (codes & 0x7F) == 0x7F
    assert int(spoiled.sum()) == 1
    compare_quantized(got, quantize(x, config, global_scale=_g() if given else None)).require("x")


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("how", ["gap", "odd gap", "odd start", "columns apart"])
def test_x_of_any_strides_is_read_right(dtype: str, how: str) -> None:
    config = QuantizeConfig(operand="nvfp4_static", n=96, layout="swizzled_128x4", in_dtype=dtype)
    x = _matrix(21, 96, {"bf16": torch.bfloat16, "fp16": torch.float16}.get(dtype, torch.float32))
    if how == "columns apart":
        apart = torch.full((96, 21), torch.nan, dtype=x.dtype).T
    else:
        whole = torch.full((21, 96 + 16 + (how != "gap")), torch.nan, dtype=x.dtype)
        apart = whole[:, 1:97] if how == "odd start" else whole[:, :96]
    _require_equal(config, apart.copy_(x), _g())


@pytest.mark.parametrize("operand", ["nvfp4", "nvfp4_static"])
def test_no_rows_launch_nothing_and_have_a_global_scale(operand: str) -> None:
    config = QuantizeConfig(operand=operand, n=64, layout="swizzled_128x4")
    g = _g() if operand == "nvfp4_static" else None
    _require_equal(config, torch.empty(0, 64, dtype=torch.bfloat16), g)


def test_a_result_has_a_global_scale_of_its_own() -> None:
    config = QuantizeConfig(operand="nvfp4_static", n=64)
    g = _g()
    got = kernel.bind(config, CPU)(_matrix(3, 64), global_scale=g)
    assert got.global_scale is not None
    assert torch.equal(got.global_scale, g)
    got.global_scale.fill_(torch.nan)
    assert torch.equal(g, _g())


def test_wrong_calls_are_refused_with_their_reason() -> None:
    config = QuantizeConfig(operand="nvfp4_static", n=64)
    run, x = kernel.bind(config, CPU), _matrix(3, 64)
    with pytest.raises(InputError, match="needs global_scale"):
        run(x)
    with pytest.raises(InputError, match="computes its scales"):
        run(x, scale=_g(), global_scale=_g())
    with pytest.raises(DtypeError, match="global_scale needs fp32"):
        run(x, global_scale=_g().double())
    with pytest.raises(ShapeError, match="wrong width"):
        run(x[:, :48], global_scale=_g())
    with pytest.raises(DtypeError, match="needs bf16"):
        run(x.float(), global_scale=_g())
    other = QuantizeConfig(operand="nvfp4_static", n=64, layout="swizzled_8x4")
    with pytest.raises(LayoutError, match="another operand or layout"):
        run(x, global_scale=_g(), out=_poisoned(other, 3))
    with pytest.raises(ConfigError, match="a kernel of quantize was given"):
        kernel.bind(SiluMulQuantizeConfig(operand="nvfp4_static", n=64), CPU)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("n", "padded_n"), [(48, 48), (72, 128)])
@pytest.mark.parametrize("operand", ["nvfp4_static", "nvfp4"])
def test_silu_mul_is_quantized_as_the_rule_of_comparison_allows(
    layout: str, n: int, padded_n: int, operand: str
) -> None:
    config = SiluMulQuantizeConfig(operand=operand, n=n, padded_n=padded_n, layout=layout)
    g = _g() if operand == "nvfp4_static" else None
    chosen = silu_kernel if g is not None else silu_dynamic
    for m in (1, 37):
        x = _matrix(m, 2 * n)
        want = silu_mul_quantize(x, config, global_scale=g)
        got = chosen.bind(config, CPU)(x, global_scale=g)
        compare_quantized(got, want, values=silu_mul(x)).require(str(config))
