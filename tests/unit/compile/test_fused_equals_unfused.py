"""What the pass fuses gives what the model gives without it, whatever is read and however written.

The configs are the op's own cases: every operand, layout, padding, eps, scale_ub and odd width. In
fp32 the two agree as closely as the op says for an exp or a sum in another order. From 16 bit the
fused result is as close to that of the unrounded product, and one rounding of each value off the
model's own. Where the arithmetic is the definition's, SiLU·mul agrees to the bit.
"""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from torch.nn import functional

from quantmux import quantize
from quantmux.compile import fusion_pass
from quantmux.config import QuantizeConfig
from quantmux.config.layouts import layouts_for
from quantmux.config.operands import operand
from quantmux.config.schemes import scheme
from quantmux.ops.dequantize import dequantize
from quantmux.ops.layouts import as_bits
from quantmux.ops.quantize.cases import cases
from quantmux.ops.quantize.compare import compare_quantized
from quantmux.ops.quantized import DTYPES, QuantizedTensor
from quantmux.runtime.traced.producers import HIDDEN_ROWS

EPS = 1e-5
WIDEST = 400


def _configs():
    found = {case.config.replace(in_dtype="fp32"): None for case in cases() if case.is_small}
    by_width = {}
    for config in found:
        if config.n <= WIDEST:
            by_width.setdefault(config.n, []).append(config)
    return by_width


CONFIGS = _configs()
ALL = [config for some in CONFIGS.values() for config in some]


def silu_mul(x, _weight, silu=functional.silu, cast=lambda t: t):
    gate, up = (cast(half) for half in x.chunk(2, -1))
    return (silu(gate) * up).to(x.dtype)


def as_defined(gate):
    return gate / (1.0 + torch.exp(-gate))


def rmsnorm(x, weight):
    return functional.rms_norm(x, weight.shape, weight, EPS)


PROLOGUES = {"silu_mul": (silu_mul, 2), "rmsnorm": (rmsnorm, 1)}


def scales_of(config):
    """Give what a call needs besides x."""
    asked = config.operand
    given = {}
    if not asked.dynamic:
        given["scale"] = torch.tensor([2.0 if asked.scale_rounding == "pow2" else 0.013])
    if asked.global_scale == "static":
        given["global_scale"] = torch.tensor([0.003])
    return given


def same_bits(a, b):
    assert a.shape == b.shape
    assert a.stride() == b.stride()
    assert a.dtype == b.dtype
    return torch.equal(as_bits(a.contiguous()), as_bits(b.contiguous()))


def require_bits(got, want):
    parts = zip(got.tensors(), want.tensors(), strict=True)
    assert all(same_bits(a, b) for a, b in parts), compare_quantized(got, want)


def step(q, values):
    """Give the distance between neighbouring codes at each value, as fp64."""
    asked = q.operand
    largest = dequantize_ones(q)
    share, least = {
        "fp8_e4m3": (2.0**-3, 2.0**-9),
        "fp8_e5m2": (2.0**-2, 2.0**-16),
        "int8": (0.0, 1.0),
        "fp4_e2m1": (0.5, 0.5),
    }[asked.element]
    return torch.maximum(values.abs() * share, largest * least)


def dequantize_ones(q):
    """Give the scale of every element: what a code of 1 stands for."""
    codes = {"fp8_e4m3": 0x38, "fp8_e5m2": 0x3C, "int8": 1, "fp4_e2m1": 0x22}
    ones = torch.full_like(q.data.view(torch.uint8), codes[q.operand.element]).view(q.data.dtype)
    one = QuantizedTensor(ones, q.scales, q.global_scale, q.operand, q.layout, q.logical_shape)
    return dequantize(one).double()


def require_near(got, want):
    """Compare two results whose inputs were rounded differently, by 2^-8 of each at most."""
    a, b = dequantize(got).double(), dequantize(want).double()
    room = torch.maximum(step(got, a), step(want, b)) * 1.01 + 2.0**-7 * torch.maximum(a, b).abs()
    assert (a - b).abs().le(room).all()


@pytest.fixture
def fused(through):
    """Compile with the pass; the report must say that all was fused."""

    def run(model, *args, dynamic=False, taken=True):
        torch._dynamo.reset()  # one model's code serves many examples
        if dynamic:
            torch._dynamo.mark_dynamic(args[0], args[0].ndim - 2)
        passed = fusion_pass()
        with torch.no_grad():
            found = through(model, passed)(*args)
        assert [site.taken for site in passed.sites] == [taken], str(passed.report(quiet=True))
        return found

    return run


def quantized(found, configs, m):
    """Give back the results that a graph returned as tensors."""
    results = []
    for parts, config in zip(found, configs, strict=True):
        glob = parts[2] if len(parts) > 2 else None
        shape = (m, config.n)
        results.append(
            QuantizedTensor(parts[0], parts[1], glob, config.operand, config.layout, shape)
        )
    return results


def tensors(q):
    return tuple(q.tensors())


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("prologue", PROLOGUES)
@pytest.mark.parametrize("n", CONFIGS)
def test_every_operand_layout_and_padding(fused, random, n, prologue, dtype):
    before, halves = PROLOGUES[prologue]
    configs = [config.replace(in_dtype=dtype) for config in CONFIGS[n]]
    given = [scales_of(config) for config in configs]
    x = random(5, halves * n, dtype=DTYPES[dtype])
    weight = random(n, dtype=DTYPES[dtype], seed=1)

    def model(x, weight, given):
        y = before(x, weight)
        return [
            tensors(quantize(y, config, **more))
            for config, more in zip(configs, given, strict=True)
        ]

    got = quantized(fused(model, x, weight, given), configs, 5)
    exact = before(x.float(), weight.float())
    rounded = before(x, weight)
    for q, config, more in zip(got, configs, given, strict=True):
        want = quantize(exact, config.replace(in_dtype="fp32"), **more)
        compare_quantized(q, want, values=exact).require(str(config))
        if prologue == "silu_mul":
            defined = silu_mul(x.float(), None, as_defined)
            require_bits(q, quantize(defined, config.replace(in_dtype="fp32"), **more))
        if dtype == "bf16":
            require_near(q, quantize(rounded, config, **more))


SILU = {
    "silu": functional.silu,
    "x_sigmoid": lambda g: g * torch.sigmoid(g),
    "x_over": lambda g: g / (1 + torch.exp(-g)),
    "in_place": lambda g: functional.silu(g, inplace=True),
}
CASTS = {"none": lambda t: t, "fp32": lambda t: t.float()}
LEADS = {"2d": (6,), "3d": (2, 3), "row": (1,)}


@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # each example is a compilation: a failure is not made smaller
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.sampled_from(ALL),
    st.sampled_from(sorted(SILU)),
    st.sampled_from(sorted(CASTS)),
    st.sampled_from(sorted(LEADS)),
    st.sampled_from(["fp32", "bf16", "fp16"]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_every_spelling_of_it(
    fused, random, config, silu, cast, lead, dtype, up_first, dynamic, into
):
    config = config.replace(in_dtype=dtype)
    into = into and config.layout.scales not in HIDDEN_ROWS  # a graph cannot write these in place
    more, n = scales_of(config), config.n
    x = random(*LEADS[lead], 2 * n, dtype=DTYPES[dtype])
    m = x.numel() // (2 * n)

    def product(x):
        gate, up = (CASTS[cast](half) for half in (x + 0).chunk(2, -1))
        y = up * SILU[silu](gate) if up_first else SILU[silu](gate) * up
        return y.to(DTYPES[dtype]).reshape(-1, n)

    def model(x, more, out):
        y = product(x)
        if not into:
            return tensors(quantize(y, config, **more))
        target = QuantizedTensor(*out, config.operand, config.layout, (m, n))
        return tensors(quantize(y, config, out=target, **more))

    out = _dirty(quantize(product(x), config, **more), more) if into else ()
    is_dynamic = dynamic and m > 1 and not into
    (got,) = quantized([fused(model, x, more, out, dynamic=is_dynamic)], [config], m)
    exact = silu_mul(x.reshape(-1, 2 * n).float(), None, as_defined)
    want = quantize(exact, config.replace(in_dtype="fp32"), **more)
    require_bits(got, want)


def _dirty(q, more):
    """Give tensors like those of a result, full of what no result holds."""
    made = [torch.empty_like(part) for part in q.tensors()]
    for part in made:
        bits = as_bits(part)
        bits.fill_(
            float("nan") if bits.is_floating_point() else -1 if bits.dtype.is_signed else 255
        )
    if len(made) < 3:
        made.append(None)
    elif "global_scale" in more:
        made[2] = more["global_scale"]
    return tuple(made)


def test_the_other_order_of_the_halves_is_left_as_it_is(fused, random):
    config = QuantizeConfig(operand="fp8_group128", n=128, in_dtype="bf16")

    def model(x):
        up, gate = x.chunk(2, -1)
        return tensors(quantize(functional.silu(gate) * up, config))

    x = random(5, 256)
    (got,) = quantized([fused(model, x, taken=False)], [config], 5)
    up, gate = x.chunk(2, -1)
    require_bits(got, quantize(functional.silu(gate) * up, config))


# Scheme, and whether columns or rows are padded.
LINEARS = [
    (name, layout, pads)
    for name in (
        "fp8_tensor",
        "fp8_tensor_static",
        "fp8_channel_token",
        "fp8_block128",
        "fp8_block128_pow2",
        "int8_channel_token",
        "nvfp4",
        "nvfp4_dynamic",
    )
    for layout in layouts_for(scheme(name).activation)
    for pads in ({}, {"pad_k_to": 256}, {"pad_m_to": 4})
]


@pytest.mark.parametrize("prologue", PROLOGUES)
@pytest.mark.parametrize(("name", "layout", "pads"), LINEARS)
def test_every_linear(fused, kit, layer, random, name, layout, pads, prologue):
    before, halves = PROLOGUES[prologue]
    asked = scheme(name).activation
    kit.consumer("a/linear", name, (layout,), **pads)
    kit.producer("a/quantize", asked, (layout,))
    made = kit.producer("a/fused", asked, (layout,), f"{prologue}_quantize")
    given = {"input_scale": 0.5} if not asked.dynamic else {}
    if asked.global_scale == "static":
        given["input_global_scale"] = 0.003
    one = layer(kit.context(), name, in_dtype="fp32", **given)
    reads = one.input_layout(5)
    assert reads.layout.scales == layout
    assert (reads.layout.padded_n == 256) is ("pad_k_to" in pads)
    x, weight = random(5, halves * 128, dtype=torch.float32), torch.randn(128)
    more = (as_defined,) if prologue == "silu_mul" else ()
    got = fused(lambda x, w: one(before(x, w, *more)), x, weight)
    assert len(made.inputs) == 1
    want = one(before(x, weight, *more))
    if prologue == "silu_mul":
        assert same_bits(got, want)
    else:
        near = (got - want).norm() <= 2e-3 * want.norm()  # a code in 2000 may be one step off
        assert near


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # on import
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_inductors_own_kernels_agree_with_the_fused_one(dynamo, random, dtype):  # noqa: ARG001
    config = QuantizeConfig(operand=operand("fp8_group128"), n=256, in_dtype=dtype)

    def model(x):
        return tensors(quantize(silu_mul(x, None, cast=torch.Tensor.float), config))

    x = random(33, 512, dtype=DTYPES[dtype])
    results = []
    for taken in (True, False):
        torch._dynamo.reset()
        passed = fusion_pass({"deny": []} if taken else {"deny": ["*silu_mul*"]})
        options = {"post_grad_custom_pre_pass": passed, "fx_graph_cache": False}
        with torch.no_grad():
            made = torch.compile(model, fullgraph=True, options=options)(x)
        assert [site.taken for site in passed.sites] == [taken]
        results += quantized([made], [config], 33)
    got, want = results
    if dtype == "fp32":
        exact = silu_mul(x, None)
        compare_quantized(got, want, values=exact).require("the fused one")
    else:
        require_near(got, want)
