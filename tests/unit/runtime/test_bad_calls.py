"""A call that no kernel serves is the call's fault: nothing is taken out for it."""

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch._dynamo import exc as dynamo

from quantmux.capability.detect import HERE_CPU
from quantmux.config import InverseRopeQuantizeConfig, LinearConfig, QuantizeConfig
from quantmux.errors import BuildError, DtypeError, InputError, LaunchError, LayoutError, ShapeError
from quantmux.ops.inverse_rope_quantize.spec import make_cos_sin_cache
from quantmux.ops.linear.reference import linear
from quantmux.ops.linear.weights import quantize_weight
from quantmux.ops.quantize.reference import quantize as reference
from quantmux.runtime.binding import bind, bind_producer
from quantmux.runtime.context import default_context
from quantmux.runtime.events import reset_stats, stats
from quantmux.runtime.inputs import check_call
from quantmux.runtime.producers import (
    inverse_rope_quantize,
    quantize,
    relayout,
    silu_mul_quantize,
)

STATIC = QuantizeConfig(operand="fp8_tensor_static", n=32)
TOKEN = QuantizeConfig(operand="fp8_token", n=32)
ROPE = InverseRopeQuantizeConfig(heads=2, head_dim=128, rope_dim=64, groups=1)


def beyond(limit):
    return lambda m: RuntimeError("boom") if m > limit else None


def bound_of(shop, context):
    return bind(shop.select(context), shop.weights(), context=context)


def right(shop, bound, m):
    x = shop.x(m)
    return torch.equal(bound(x), linear(x, shop.weights(), shop.config))


def test_a_call_that_every_kernel_refuses_takes_none_out(shop, caplog):
    shop.producer("one/quantize")
    shop.consumer("one/first", run=beyond(4))
    shop.consumer("two/second", run=beyond(4))
    context = shop.context(order=("one", "two"))
    bound = bound_of(shop, context)
    with caplog.at_level(logging.WARNING, "quantmux"):
        for _ in range(2):
            with pytest.raises(LaunchError, match="every kernel failed") as caught:
                bound(shop.x(5))
    assert "one/first raised" in str(caught.value)
    assert "two/second raised" in str(caught.value)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert right(shop, bound, 4)
    assert bound.pipeline_for(4).main.id == "one/first"
    assert (bound.events, caplog.records, stats()["events"]) == ((), [], [])
    assert context.quarantine.entries() == ()


def test_what_an_earlier_call_took_out_stays_out(shop):
    shop.producer("one/quantize")
    first = shop.consumer("one/first", run=beyond(4))
    shop.consumer("two/second", run=beyond(8))
    context = shop.context(order=("one", "two"), fallback={"run": "silent"})
    bound = bound_of(shop, context)
    assert right(shop, bound, 5)
    for _ in range(2):
        with pytest.raises(LaunchError, match="every kernel failed"):
            bound(shop.x(9))
    assert first.calls["run"] == 1
    assert right(shop, bound, 5)
    assert right(shop, bound, 3)
    assert bound.pipeline_for(3).main.id == "two/second"
    assert [e.wanted for e in bound.events] == ["one/quantize -> one/first"]


def test_a_passing_failure_of_the_only_producer_passes(shop, silu_config):
    errors = [RuntimeError("hiccup")]
    shop.producer(
        "one/silu", op="silu_mul_quantize", run=lambda _: errors.pop() if errors else None
    )
    context = shop.context()
    bound = bind_producer(context.select(silu_config, HERE_CPU), context=context)
    x = torch.ones(3, 64, dtype=torch.bfloat16)
    with pytest.raises(LaunchError, match="hiccup"):
        bound(x)
    assert bound(x).logical_shape == (3, 32)
    assert bound.events == ()


def test_what_does_not_build_stays_out_though_the_call_failed(shop):
    shop.producer("one/quantize")
    shop.consumer("one/jit", run=lambda _: BuildError("ptxas failed"))
    shop.consumer("two/second", run=beyond(4))
    context = shop.context(order=("one", "two"), fallback={"run": "silent", "build": "silent"})
    bound = bound_of(shop, context)
    with pytest.raises(LaunchError, match="every kernel failed"):
        bound(shop.x(5))
    assert [e.stage for e in bound.events] == ["build"]
    assert [e.kernel for e in context.quarantine.entries()] == ["one/jit"]
    assert right(shop, bound, 4)
    assert bound.pipeline_for(4).main.id == "two/second"


def test_bad_calls_of_other_threads_do_not_disturb_good_ones(shop):
    shop.producer("one/quantize")
    shop.consumer("one/first", run=beyond(4))
    second = shop.consumer("two/second", run=beyond(4))
    context = shop.context(order=("one", "two"))
    bound = bound_of(shop, context)

    def call(m):
        try:
            return torch.equal(bound(shop.x(m)), linear(shop.x(m), shop.weights(), shop.config))
        except LaunchError:
            return m

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(call, [3, 5] * 32))
    assert results == [True, 5] * 32
    assert second.calls["bind"] == 1
    assert bound.events == ()


@pytest.mark.parametrize(
    "error",
    [
        dynamo.TorchRuntimeError("fake tensors disagree"),
        dynamo.InternalTorchDynamoError("a bug of dynamo"),
        dynamo.Unsupported("not traced", ""),
    ],
    ids=lambda e: type(e).__name__,
)
def test_an_error_of_the_compiler_is_raised_as_it_is_and_blames_no_kernel(shop, error):
    shop.producer("one/quantize")
    shop.consumer("one/first", run=lambda m: error if m > 4 else None)
    shop.consumer("two/second")
    context = shop.context(order=("one", "two"))
    bound = bound_of(shop, context)
    with pytest.raises(type(error)) as caught:
        bound(shop.x(5))
    assert caught.value is error
    assert bound.events == ()
    assert bound.pipeline_for(5).main.id == "one/first"


def test_vmap_over_a_bound_call_does_not_kill_it():
    config = LinearConfig(in_features=32, out_features=48, scheme="fp8_channel_token")
    context = default_context()
    weights = quantize_weight(torch.randn(48, 32), config.scheme)
    bound = bind(context.select(config, HERE_CPU), weights, context=context)
    x = torch.randn(6, 32).to(torch.bfloat16)
    want = bound(x)
    with pytest.raises(LaunchError, match="vmap"):
        torch.vmap(bound.call)(x.view(2, 3, 32))
    assert torch.equal(bound(x), want)


@pytest.fixture
def good():
    """Give what is right for each op: a call with some arguments replaced."""
    reset_stats()
    x = torch.randn(3, 32).to(torch.bfloat16)
    wide = torch.randn(3, 64).to(torch.bfloat16)
    o = torch.randn(3, 2, 128).to(torch.bfloat16)
    nvfp4 = QuantizeConfig(operand="nvfp4_static", n=32)

    def of_quantize(**given):
        return quantize(x, STATIC, **{"scale": torch.tensor([0.5]), **given})

    def of_nvfp4(**given):
        return quantize(x, nvfp4, **{"global_scale": torch.tensor([0.5]), **given})

    def of_silu(config, **given):
        return silu_mul_quantize(wide, config, **given)

    def of_rope(positions=None, cache=None, **given):
        positions = torch.arange(3) if positions is None else positions
        cache = make_cos_sin_cache(8, 64) if cache is None else cache
        return inverse_rope_quantize(o, positions, cache, ROPE, **given)

    yield {"quantize": of_quantize, "nvfp4": of_nvfp4, "silu": of_silu, "rope": of_rope}
    reset_stats()


BAD_SCALES = [
    (0.5, InputError, "needs to be a tensor, found float"),
    (torch.ones(2), ShapeError, "one element"),
    (torch.ones(1, dtype=torch.float64), DtypeError, "fp32"),
    (torch.ones(1, device="meta"), InputError, "meta"),
]


@pytest.mark.parametrize(("scale", "error", "text"), BAD_SCALES)
@pytest.mark.parametrize("name", ["scale", "global_scale"])
def test_a_bad_scale_is_a_typed_error_and_the_next_call_is_served(good, name, scale, error, text):
    call = good["quantize" if name == "scale" else "nvfp4"]
    with pytest.raises(error, match=text) as caught:
        call(**{name: scale})
    assert name in str(caught.value)
    assert call().logical_shape == (3, 32)
    assert stats()["events"] == []


@pytest.mark.parametrize("number", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_is_no_multiplier_is_blamed_before_a_kernel(number):
    given = {"scale": torch.tensor([number])}
    x = torch.ones(3, 32, dtype=torch.bfloat16)
    with pytest.raises(InputError, match="scale needs to be finite and above 0"):
        check_call(STATIC, HERE_CPU, (x,), given)
    check_call(STATIC, HERE_CPU, (x,), {"scale": torch.tensor([1e-4])})


def test_a_bad_out_is_a_typed_error_and_the_next_call_is_served(good, silu_config):
    x = torch.zeros(3, 32, dtype=torch.bfloat16)
    int8 = reference(x, QuantizeConfig(operand="int8_token", n=32))
    calls = [
        (lambda **kw: good["silu"](silu_config, **kw), x, InputError, "QuantizedTensor"),
        (lambda **kw: good["silu"](silu_config, **kw), int8, LayoutError, "another operand"),
        (good["quantize"], x, InputError, "QuantizedTensor"),
        (good["rope"], x, InputError, "QuantizedTensor"),
    ]
    for call, out, error, text in calls:
        with pytest.raises(error, match=text):
            call(out=out)
        assert call().m == 3
    q = reference(x, TOKEN)
    with pytest.raises(InputError, match="QuantizedTensor"):
        relayout(q, "row_major", out=x)
    with pytest.raises(InputError, match="QuantizedTensor"):
        relayout(x, "row_major")
    assert torch.equal(relayout(q, "row_major", out=reference(x, TOKEN)).data, q.data)
    assert stats()["events"] == []


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"positions": [0, 1, 2]}, InputError, "positions needs to be a tensor, found list"),
        ({"positions": torch.arange(4)}, ShapeError, "positions"),
        ({"positions": torch.arange(3.0)}, DtypeError, "positions needs int64"),
        ({"positions": torch.arange(6, 9)}, InputError, "outside cos_sin_cache"),
        ({"positions": torch.arange(3, device="meta")}, InputError, "positions is on meta"),
        ({"cache": "cos"}, InputError, "cos_sin_cache needs to be a tensor, found str"),
        ({"cache": torch.ones(8, 32)}, ShapeError, "cos_sin_cache"),
        ({"cache": torch.ones(8, 64).half()}, DtypeError, "cos_sin_cache needs fp32"),
    ],
)
def test_bad_positions_are_typed_errors_and_the_next_call_is_served(good, given, error, text):
    with pytest.raises(error, match=text):
        good["rope"](**given)
    assert good["rope"]().logical_shape == (3, 1, 256)
    assert stats()["events"] == []


def test_arguments_that_an_op_does_not_have_are_named(shop):
    shop.producer("one/quantize")
    shop.consumer("one/linear")
    context = shop.context()
    bound = bind_producer(context.select(TOKEN, HERE_CPU), context=context)
    with pytest.raises(InputError, match='no argument "scales"'):
        bound(shop.x(3), scales=torch.ones(1))
    with pytest.raises(InputError, match="takes 1 arguments"):
        bound(shop.x(3), torch.ones(1))
    assert bound(shop.x(3)).m == 3
    assert bound.events == ()


def test_an_x_without_rows_is_a_typed_error_where_m_decides(shop):
    shop.producer("one/quantize")
    shop.consumer("one/small", m_max=4)
    shop.consumer("one/big", m_min=5)
    bound = bound_of(shop, shop.context())
    with pytest.raises(ShapeError, match="needs rows"):
        bound(torch.tensor(1.0))
    with pytest.raises(InputError, match="found list"):
        bound([1.0])
    assert right(shop, bound, 3)


def test_an_x_without_rows_is_a_typed_error_after_a_fallback_too(shop):
    shop.producer("one/quantize")
    shop.consumer("one/first", run=beyond(0))
    shop.consumer("two/second")
    bound = bound_of(shop, shop.context(order=("one", "two"), fallback={"run": "silent"}))
    assert right(shop, bound, 3)
    with pytest.raises(ShapeError, match="needs rows"):
        bound(torch.tensor(1.0))
    with pytest.raises(InputError, match="found list"):
        bound([1.0])


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("scales", torch.ones(3, 1, device="meta")),
        ("scales", None),
        ("data", [1]),
    ],
)
def test_a_quantized_x_with_a_part_elsewhere_is_named_and_replaces_nothing(shop, part, value):
    shop.producer("one/quantize")
    shop.consumer("one/linear")
    bound = bound_of(shop, shop.context())
    q = reference(shop.x(3), TOKEN)
    want = bound(q)
    with pytest.raises(InputError):
        bound(replace(q, **{part: value}))
    assert torch.equal(bound(q), want)
    assert bound.events == ()


def test_an_out_elsewhere_is_named(shop):
    shop.producer("one/quantize")
    shop.consumer("one/linear")
    bound = bound_of(shop, shop.context())
    with pytest.raises(InputError, match="out is on meta"):
        bound(shop.x(3), torch.empty(3, 48, dtype=torch.bfloat16, device="meta"))
    assert right(shop, bound, 3)
