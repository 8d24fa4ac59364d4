"""Under torch.compile producers are ops in one graph; dynamo does not look into a bound call."""

import subprocess
import sys

import pytest
import torch

from quantmux.capability.detect import HERE_CPU
from quantmux.config import InverseRopeQuantizeConfig, LinearConfig, QuantizeConfig
from quantmux.errors import ShapeError
from quantmux.ops.inverse_rope_quantize.spec import make_cos_sin_cache
from quantmux.ops.linear.weights import quantize_weight
from quantmux.ops.quantized import empty_quantized
from quantmux.runtime.binding import bind
from quantmux.runtime.context import default_context
from quantmux.runtime.producers import (
    inverse_rope_quantize,
    quantize,
    relayout,
    silu_mul_quantize,
)

BACKENDS = ("eager", "aot_eager")


@pytest.fixture(autouse=True)
def dynamo():
    """Give dynamo's counters, and leave nothing compiled behind."""
    import torch._dynamo
    import torch._dynamo.utils

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield torch._dynamo.utils.counters
    torch._dynamo.reset()


def activations(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=generator) * 10 ** torch.linspace(-4, 4, shape[-1])
    return x.to(torch.bfloat16)


def bound_of(scheme, seed=0):
    generator = torch.Generator().manual_seed(seed)
    config = LinearConfig(in_features=64, out_features=64, scheme=scheme)
    weights = quantize_weight(torch.randn(64, 64, generator=generator), config.scheme)
    context = default_context()
    return bind(context.select(config, HERE_CPU), weights, context=context)


def same_values(a, b):
    return torch.equal(a.dequantize(), b.dequantize())


def same(a, b):
    parts = zip(a.tensors(), b.tensors(), strict=True)
    return a.operand == b.operand and all(
        x.dtype == y.dtype and torch.equal(x.view(torch.uint8), y.view(torch.uint8))
        for x, y in parts
    )


@pytest.mark.parametrize(
    ("backend", "schemes"),
    [
        ("eager", ("int8_channel_token", "fp8_channel_token")),
        ("eager", ("nvfp4_dynamic", "fp8_channel_token")),
        ("aot_eager", ("fp8_channel_token", "int8_channel_token")),
    ],
)
def test_two_operands_of_one_width_stay_apart(backend, schemes):
    first, second = (bound_of(s) for s in schemes)

    def model(x):
        return first.call(torch.relu(second.call(x * 2))), first(x), second(x)

    compiled = torch.compile(model, backend=backend)
    alone = [torch.compile(b.call, backend=backend) for b in (first, second)]
    for m in (6, 3, 0):
        x = activations(m, 64, seed=m)
        for got, want in zip(compiled(x), model(x), strict=True):
            assert torch.equal(got, want)
        for call, bound in zip(alone, (first, second), strict=True):
            assert torch.equal(call(x), bound.call(x))
    assert (first.events, second.events) == ((), ())


def test_twelve_bound_calls_in_one_function_reach_no_recompile_limit(dynamo):
    schemes = ("int8_channel_token", "fp8_channel_token", "fp8_block128")
    bounds = [bound_of(schemes[i % 3], seed=i) for i in range(12)]

    def model(x):
        for bound in bounds:
            x = torch.tanh(bound.call(x))
        return x

    x = activations(5, 64)
    assert torch.equal(torch.compile(model, backend="eager")(x), model(x))
    assert all("torch.compiler.disable" in reason for reason in dynamo["graph_break"])


def test_a_quantized_x_goes_past_dynamo_too(dynamo):
    # it is no tensor to dynamo, which would run the call as it is and trace what that calls
    bounds = [bound_of(s) for s in ("int8_channel_token", "fp8_channel_token")]
    for bound in bounds:
        compiled = torch.compile(bound.call, backend="eager")
        q = quantize(activations(6, 64), bound.input_layout(6))
        assert torch.equal(compiled(q), bound.call(q))
    assert dynamo["stats"]["unique_graphs"] == 0
    assert all("torch.compiler.disable" in reason for reason in dynamo["graph_break"])


def test_ranges_of_m_are_found_past_dynamo(shop):
    shop.producer("one/quantize")
    shop.consumer("one/small", m_max=4)
    shop.consumer("one/big", m_min=5)
    context = shop.context()
    bound = bind(shop.select(context), shop.weights(), context=context)
    assert len(bound.routes) == 2
    compiled = torch.compile(lambda x: bound.call(x) + 1, backend="eager")
    for m in (3, 5, 0, 9):
        assert torch.equal(compiled(shop.x(m)), bound.call(shop.x(m)) + 1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_quantize_of_several_operands_stays_apart(backend):
    compiled = torch.compile(lambda x, c: quantize(x + 1, c), backend=backend, fullgraph=True)
    # each is traced twice, for the first M and for any; dynamo keeps eight graphs of a function
    names = ("int8_token", "fp8_token", "fp8_token_pow2", "nvfp4")
    configs = [QuantizeConfig(operand=name, n=64) for name in names]
    for m in (6, 3):
        x = activations(m, 64, seed=m)
        for config in configs:
            assert same(compiled(x, config), quantize(x + 1, config))


def test_every_producer_is_traced(silu_config, dynamo):
    rope = InverseRopeQuantizeConfig(heads=2, head_dim=128, rope_dim=64, groups=1)
    group = QuantizeConfig(operand="fp8_group64", n=64)
    cache, positions = make_cos_sin_cache(16, 64), torch.arange(3)

    def all_of(x, o):
        q = quantize(x, group)
        return (
            silu_mul_quantize(x, silu_config),
            relayout(q, "col_major_aligned4"),
            inverse_rope_quantize(o, positions, cache, rope),
        )

    x, o = activations(3, 64), activations(3, 2, 128)
    compiled = torch.compile(all_of, backend="aot_eager", fullgraph=True)
    for got, want in zip(compiled(x, o), all_of(x, o), strict=True):
        assert torch.equal(got.dequantize(), want.dequantize())
        assert got.scales.stride() == want.scales.stride()
        got.check()
    assert not dynamo["graph_break"]


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("name", ["int8_token", "nvfp4", "nvfp4_static", "fp8_tensor"])
def test_a_result_in_place_is_written_in_the_graph(backend, name):
    config = QuantizeConfig(operand=name, n=64)
    given = {"global_scale": torch.tensor([0.5])} if name == "nvfp4_static" else {}

    def into(x, out):
        return quantize(x + 1, config, out=out, **given)

    compiled = torch.compile(into, backend=backend, fullgraph=True, dynamic=True)
    for m in (6, 3):
        x = activations(m, 64, seed=m)
        out = empty_quantized(config.operand, config.layout, m, 64, "cpu")
        given_data = out.data.data_ptr()
        result = compiled(x, out)
        assert same(out, quantize(x + 1, config, **given))
        assert result.data.data_ptr() == out.data.data_ptr() == given_data


def test_a_result_in_place_with_pad_rows_is_one_graph_break(dynamo):
    config = QuantizeConfig(operand="fp8_group64", n=64, layout="col_major_aligned4")
    x = activations(3, 64)
    out = empty_quantized(config.operand, config.layout, 3, 64, "cpu")
    torch.compile(lambda x, q: quantize(x, config, out=q), backend="aot_eager")(x, out)
    assert same_values(out, quantize(x, config))
    out.check()
    assert any("torch.compiler.disable" in reason for reason in dynamo["graph_break"])


def test_a_context_of_one_s_own_is_found_in_the_graph(shop):
    shop.producer("one/quantize")
    context = shop.context()
    config = shop.config.scheme.activation
    asked = QuantizeConfig(operand=config, n=shop.config.k)
    compiled = torch.compile(
        lambda x: quantize(x, asked, context=context), backend="eager", fullgraph=True
    )
    x = shop.x(4)
    assert same(compiled(x), quantize(x, asked, context=context))


def test_the_caller_s_mistake_is_typed_under_compile_as_without():
    bound = bound_of("fp8_channel_token")
    compiled = torch.compile(bound.call, backend="eager")
    with pytest.raises(ShapeError):
        compiled(activations(3, 63))
    x = activations(3, 64)
    assert torch.equal(compiled(x), bound(x))
    assert bound.events == ()


def test_a_call_outside_of_compile_does_not_load_dynamo():
    code = (
        "import sys, torch, quantmux as qm;"
        "layer = qm.Linear.from_float(torch.randn(32, 32), 'fp8_channel_token');"
        "layer(torch.randn(2, 32));"
        "qm.quantize(torch.ones(2, 32, dtype=torch.bfloat16),"
        " qm.QuantizeConfig(operand='fp8_token', n=32));"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
