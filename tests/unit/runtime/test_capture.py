"""Calls in a capture: what is warm goes through, everything else is refused before it begins."""

from __future__ import annotations

import sys
import threading
import types
from dataclasses import replace

import pytest
import torch

import quantmux as qm
from quantmux.capability.capability import Needs
from quantmux.capability.detect import HERE_CPU
from quantmux.errors import LaunchError
from quantmux.layers import linear as linear_module
from quantmux.layers.linear import Linear
from quantmux.runtime import binding, calls, capture, producers, route
from quantmux.runtime.binding import bind, bind_producer
from quantmux.runtime.capture import WouldCompile, not_warmed, nothing_compiles

LIBRARY = Needs(kind="package", name="pydantic")
"""Of somebody else, and installed here."""


class Recording:
    """A stand-in for a capture; nothing may be prepared, bound or warmed up in it."""

    def __init__(self):
        self.is_on = False
        self.faults = []

    def __call__(self):
        return self.is_on

    def __enter__(self):
        self.is_on = True
        self.before = [(f.calls["prepare"], f.calls["bind"], len(f.calls["warmup"])) for f in self]
        return self

    def __exit__(self, *_):
        self.is_on = False
        after = [(f.calls["prepare"], f.calls["bind"], len(f.calls["warmup"])) for f in self]
        assert after == self.before, "something was prepared, bound or warmed up in a capture"

    def __iter__(self):
        return iter(self.faults)


@pytest.fixture
def recording(monkeypatch):
    made = Recording()
    monkeypatch.setattr(calls, "capture_question", lambda _device: (lambda _: 7, 0, made))
    for module in (binding, calls, capture, linear_module, producers, route):
        if hasattr(module, "is_capturing"):
            monkeypatch.setattr(module, "is_capturing", made)
    return made


@pytest.fixture
def warm(shop, recording):
    """Give a bound linear of good kernels, warmed up for M = 3."""

    def make(warmed=(3,), needs=None, **limits):
        recording.faults = [shop.producer("one/quantize"), shop.consumer("one/good", **limits)]
        if needs:
            last = shop.specs[-1]
            capability = last.capability.replace(needs=needs)
            shop.specs[-1] = replace(last, capability=capability)
        context = shop.context()
        bound = bind(shop.select(context), shop.weights(), context=context, layer="layers.7.q")
        if warmed:
            bound.warmup(warmed)
        return bound

    return make


@pytest.fixture
def runtime(monkeypatch):
    """Triton's knobs, a stand-in."""
    made = types.SimpleNamespace(jit_cache_hook=None)
    knobs = types.SimpleNamespace(runtime=made)
    monkeypatch.setitem(sys.modules, "triton", types.SimpleNamespace(knobs=knobs))
    return made


def refused(error, *parts):
    assert error.value.code == "not_warmed"
    assert not error.value.context_poisoned
    for part in parts:
        assert part in str(error.value), str(error.value)


def test_what_was_warmed_up_is_served_with_the_bits_of_a_call(shop, warm, recording):
    bound = warm()
    x = shop.x(3)
    want = bound(x)
    with recording:
        assert torch.equal(bound(x), want)
        assert bound(x[:0]).shape == (0, 48)


def test_what_was_called_once_needs_no_warmup(shop, warm, recording):
    bound = warm(warmed=())
    want = bound(shop.x(3))
    with recording:
        assert torch.equal(bound(shop.x(3)), want)


def test_bound_and_never_called_is_refused_by_layer_and_rows(shop, warm, recording):
    bound = warm(warmed=())
    with recording, pytest.raises(LaunchError) as caught:
        bound(shop.x(5))
    refused(caught, "layers.7.q", "M = 5", "warmup([5])", "no call and no warmup")
    bound.warmup([5])
    with recording:
        bound(shop.x(5))


def test_a_range_of_rows_that_was_never_used_is_refused(shop, recording):
    recording.faults = [
        shop.producer("one/quantize"),
        shop.consumer("one/few", m_max=8),
        shop.consumer("two/many", m_min=9),
    ]
    context = shop.context(order=("one", "two"))
    bound = bind(shop.select(context), shop.weights(), context=context, layer="layers.7.q")
    bound.warmup([4])
    with recording:
        bound(shop.x(7))
        with pytest.raises(LaunchError) as caught:
            bound(shop.x(9))
    refused(caught, "M = 9", "two/many")


def test_a_quantized_input_is_asked_for_its_rows_too(shop, warm, recording):
    bound = warm(warmed=())
    q = qm.quantize(shop.x(5), bound.input_layout(5), context=bound._place.context)
    with recording, pytest.raises(LaunchError) as caught:
        bound(q)
    refused(caught, "M = 5")


def test_rows_of_a_kernel_that_may_compile_and_does_not_tell_must_have_been_seen(
    shop, warm, recording
):
    bound = warm(warmed=(3,), needs=(LIBRARY,))
    bound(shop.x(6))
    with recording:
        bound(shop.x(3))
        bound(shop.x(6))
        with pytest.raises(LaunchError) as caught:
            bound(shop.x(4))
    refused(caught, "M = 4", "one/good", "may compile")


def test_rows_of_a_kernel_that_tells_what_it_compiles_need_not_have_been_seen(
    shop, warm, recording
):
    bound = warm(warmed=(), needs=(LIBRARY,))
    shop.module.one_good.compiled_variants = lambda: 1
    again = bind(bound.selection, shop.weights(), context=bound._place.context)
    again.warmup([3])
    with recording:
        again(shop.x(4))


def test_the_rows_of_the_first_call_have_been_seen(shop, warm, recording):
    bound = warm(warmed=(), needs=(LIBRARY,))
    bound(shop.x(6))
    with recording:
        bound(shop.x(6))


def test_torch_itself_is_no_library_that_compiles(shop, warm, recording):
    bound = warm(warmed=(3,), needs=(Needs(kind="package", name="torch", version=">=2.4"),))
    with recording:
        bound(shop.x(4))


def test_a_kernel_that_would_compile_is_refused_and_not_taken_out(shop, recording):
    def compiles(m):
        return WouldCompile() if m == 4 and recording.is_on else None

    recording.faults = [
        shop.producer("one/quantize"),
        shop.consumer("one/good", run=compiles),
        shop.consumer("two/other"),
    ]
    context = shop.context(order=("one", "two"))
    bound = bind(shop.select(context), shop.weights(), context=context, layer="layers.7.q")
    bound.warmup([3])
    with recording:
        with pytest.raises(LaunchError) as caught:
            bound(shop.x(4))
        bound(shop.x(3))
    refused(caught, "layers.7.q", "M = 4", "one/good would compile", "warmup([4])")
    assert bound.pipeline_for(4).main.id == "one/good"
    assert bound.events == ()


def test_on_the_default_stream_nobody_asks_any_further(shop, monkeypatch):
    monkeypatch.setattr(calls, "capture_question", lambda _: (lambda _: 0, 0, pytest.fail))
    shop.producer("one/quantize")
    shop.consumer("one/few", m_max=8)
    shop.consumer("two/many", m_min=9)
    context = shop.context(order=("one", "two"))
    bound = bind(shop.select(context), shop.weights(), context=context)
    bound(shop.x(3))
    bound_producer = bind_producer(context.select(bound.input_layout(3), HERE_CPU), context=context)
    bound_producer(shop.x(3))


def test_the_policy_may_let_a_kernel_compile_and_then_it_is_said(shop, recording, runtime, caplog):
    def compiles(_m):
        assert not runtime.jit_cache_hook  # as Triton asks it, before it compiles

    recording.faults = [shop.producer("one/quantize"), shop.consumer("one/good", run=compiles)]
    shop.specs[-1] = replace(
        shop.specs[-1], capability=shop.specs[-1].capability.replace(needs=(LIBRARY,))
    )
    context = shop.context(capture="compile")
    bound = bind(shop.select(context), shop.weights(), context=context, layer="layers.7.q")
    with recording, pytest.raises(LaunchError, match="no call and no warmup"):
        bound(shop.x(4))
    bound.warmup([3])
    with recording:
        bound(shop.x(4))
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    text = record.getMessage()
    assert text.startswith("layers.7.q compiled a kernel while a CUDA graph was captured")
    assert "warmup([4])" in text
    assert runtime.jit_cache_hook is None


def test_what_takes_as_long_as_a_compiler_is_said_and_nothing_else(caplog, monkeypatch):
    ticks = iter([0.0, 0.01, 0.0, 2.5])
    monkeypatch.setattr(capture.time, "perf_counter", lambda: next(ticks))
    with capture.compiles_aloud("layers.7.q", 4):
        pass
    assert not caplog.records
    with capture.compiles_aloud("layers.7.q", 4):
        pass
    assert "layers.7.q compiled something" in caplog.text
    assert "2.5 s" in caplog.text


def test_triton_is_asked_during_a_captured_call(shop, recording, runtime):
    def compiles(_m):
        return RuntimeError("it compiles") if runtime.jit_cache_hook else None

    recording.faults = [shop.producer("one/quantize"), shop.consumer("one/good", run=compiles)]
    context = shop.context()
    bound = bind(shop.select(context), shop.weights(), context=context)
    bound(shop.x(3))
    with recording, pytest.raises(LaunchError) as caught:
        bound(shop.x(3))
    refused(caught, "one/good would compile")
    assert runtime.jit_cache_hook is None


def test_a_producer_of_a_linear_that_would_compile_is_the_one_that_is_named(shop, recording):
    recording.faults = [
        shop.producer("one/quantize", run=lambda _: WouldCompile() if recording.is_on else None),
        shop.consumer("one/good"),
    ]
    context = shop.context()
    bound = bind(shop.select(context), shop.weights(), context=context)
    bound.warmup([3])
    with recording, pytest.raises(LaunchError) as caught:
        bound(shop.x(3))
    refused(caught, "one/quantize would compile", str(shop.config))


def test_a_kernel_that_raises_in_a_capture_is_named_and_nothing_takes_its_place(shop, recording):
    def boom(_m):
        return RuntimeError("no such thing in a capture") if recording.is_on else None

    recording.faults = [
        shop.producer("one/quantize"),
        shop.consumer("one/bad", run=boom),
        shop.consumer("two/other"),
    ]
    context = shop.context(order=("one", "two"), fallback={"run": "silent"})
    bound = bind(shop.select(context), shop.weights(), context=context, layer="layers.7.q")
    bound.warmup([3])
    with recording, pytest.raises(LaunchError, match="one/bad raised while") as caught:
        bound(shop.x(3))
    assert "layers.7.q with M = 3" in str(caught.value)
    assert "does not say that it can be captured" in str(caught.value)
    assert bound.pipeline_for(3).main.id == "one/bad"


def test_out_of_memory_stays_what_it_is(shop, recording):
    def full(_m):
        return torch.OutOfMemoryError("CUDA out of memory") if recording.is_on else None

    recording.faults = [shop.producer("one/quantize"), shop.consumer("one/good", run=full)]
    context = shop.context()
    bound = bind(shop.select(context), shop.weights(), context=context)
    bound.warmup([3])
    with recording, pytest.raises(torch.OutOfMemoryError):
        bound(shop.x(3))


def test_what_took_a_failed_kernels_place_is_captured_and_built_for_no_one(shop, recording):
    def above_four(m):
        return RuntimeError("boom") if m > 4 else None

    recording.faults = [
        shop.producer("one/quantize"),
        shop.consumer("one/bad", run=above_four),
        shop.consumer("two/other", m_max=6),
        shop.consumer("two/last", layout="two:flipped", form="lossless", m_min=7),
    ]
    context = shop.context(order=("one", "two"), fallback={"run": "silent"})
    bound = bind(shop.select(context), shop.weights(), context=context, layer="layers.7.q")
    want = bound(shop.x(5))  # two/other from now on
    with recording:
        assert torch.equal(bound(shop.x(5)), want)
        with pytest.raises(LaunchError) as caught:
            bound(shop.x(8))
    refused(caught, "M = 8", "is not built")
    want = bound(shop.x(8))
    with recording:
        assert torch.equal(bound(shop.x(8)), want)


def test_nothing_is_bound_in_a_capture(shop, recording):
    recording.faults = [shop.producer("one/quantize"), shop.consumer("one/good")]
    context = shop.context()
    selection = shop.select(context)
    with recording, pytest.raises(LaunchError) as caught:
        bind(selection, shop.weights(), context=context, layer="layers.7.q")
    refused(caught, "layers.7.q", "not bound")
    config = bind(selection, shop.weights(), context=context).input_layout(3)
    with recording, pytest.raises(LaunchError) as caught:
        bind_producer(context.select(config, HERE_CPU), context=context)
    refused(caught, "quantize fp8_token", "call it once before the capture")


def test_a_bound_producer_is_captured_after_its_warmup_or_a_call(shop, recording, silu_config):
    recording.faults = [shop.producer("one/silu", op="silu_mul_quantize")]
    context = shop.context()
    selection = context.select(silu_config, HERE_CPU)
    x = torch.ones(3, 64, dtype=torch.bfloat16)
    for make_ready in (lambda bound: bound.warmup([3]), lambda bound: bound(x)):
        bound = bind_producer(selection, context=context)
        with recording, pytest.raises(LaunchError) as caught:
            bound(x)
        refused(caught, "silu_mul_quantize", "M = 3", "no call and no warmup")
        make_ready(bound)
        with recording:
            bound(x)


def test_weights_are_not_restored_in_a_capture(shop, recording, monkeypatch):
    recording.faults = [shop.producer("one/quantize"), shop.consumer("one/good")]
    layer = Linear(shop.config, shop.weights(), context=shop.context())
    monkeypatch.setattr(Linear, "weights", property(lambda _: pytest.fail("restored")))
    with recording, pytest.raises(LaunchError, match="not bound"):
        layer.bind()


def test_an_unbound_layer_is_refused_by_its_name_and_stays_unbound(shop, recording):
    recording.faults = [shop.producer("one/quantize"), shop.consumer("one/good")]
    context = shop.context()
    layer = Linear(shop.config, shop.weights(), layer="layers.7.q", context=context)
    with recording:
        with pytest.raises(LaunchError) as caught:
            layer(shop.x(6).view(2, 3, 32))
        refused(caught, "layers.7.q", "M = 6", "warmup([6])")
        with pytest.raises(LaunchError) as caught:
            layer.bind()
        refused(caught, "layers.7.q")
        with pytest.raises(LaunchError, match="not bound"):
            layer.warmup([6])
    assert layer.bound is None
    layer.warmup([6])
    with recording:
        layer(shop.x(6).view(2, 3, 32))
        with pytest.raises(LaunchError, match="warmed up while"):
            layer.warmup([6])
        with pytest.raises(LaunchError, match="what is given to") as caught:
            qm.warmup(layer, ms=[6], context=context)


def test_a_producer_that_was_never_called_is_refused(shop, recording, silu_config):
    recording.faults = [shop.producer("one/silu", op="silu_mul_quantize")]
    context = shop.context()
    x = torch.ones(3, 64, dtype=torch.bfloat16)
    with recording, pytest.raises(LaunchError) as caught:
        qm.silu_mul_quantize(x, silu_config, context=context)
    refused(caught, "silu_mul_quantize fp8_token n=32", "call it once")
    want = qm.silu_mul_quantize(x, silu_config, context=context)
    with recording:
        q = qm.silu_mul_quantize(x, silu_config, context=context)
    assert torch.equal(q.data.view(torch.uint8), want.data.view(torch.uint8))


def test_what_shares_an_input_is_captured_after_its_warmup(shop, recording):
    recording.faults = [shop.producer("one/quantize"), shop.consumer("one/good")]
    context = shop.context()
    layers = [Linear(shop.config, shop.weights(), layer=n, context=context) for n in ("q", "k")]
    shared = qm.shared_input(layers)
    x = shop.x(3)
    with recording, pytest.raises(LaunchError) as caught:
        shared(x)
    refused(caught, "q is called", "not bound")
    for layer in layers:
        layer.warmup([3])
    with recording, pytest.raises(LaunchError) as caught:
        shared(x)
    refused(caught, "quantize fp8_token", "call it once")
    shared.warmup([3])
    want = shared(x)
    with recording:
        got = shared(x)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_an_error_without_rows_says_what_to_fill_in():
    first, found, then = str(not_warmed("layers.7.q", "it is not bound yet")).splitlines()
    assert first == (
        "layers.7.q is called while a CUDA graph is captured, and is not warmed up for it"
    )
    assert found == "  found: it is not bound yet"
    assert then.startswith(
        "  next: call warmup([…]) of the layer, or quantmux.warmup(model, ms=[…])"
    )


# --- Triton's hook ------------------------------------------------------------------------------


def test_triton_refuses_to_compile_inside_and_has_its_own_hook_back_afterwards(runtime):
    def theirs(**_kwargs):
        return None

    runtime.jit_cache_hook = theirs
    with nothing_compiles():
        with nothing_compiles(), pytest.raises(WouldCompile):
            bool(runtime.jit_cache_hook)
        with pytest.raises(WouldCompile):
            bool(runtime.jit_cache_hook)
    assert runtime.jit_cache_hook is theirs


def test_threads_that_capture_nothing_compile_as_before(runtime):
    seen = []

    def theirs(**kwargs):
        seen.append(kwargs)
        return False

    runtime.jit_cache_hook = theirs

    def compiles():
        hook = runtime.jit_cache_hook
        assert hook
        hook(key=1)

    with nothing_compiles():
        thread = threading.Thread(target=compiles)
        thread.start()
        thread.join()
    assert seen == [{"key": 1}]


def test_no_hook_before_is_no_hook_for_other_threads(runtime):
    answers = []
    with nothing_compiles():
        thread = threading.Thread(target=lambda: answers.append(bool(runtime.jit_cache_hook)))
        thread.start()
        thread.join()
    assert answers == [False]
    assert runtime.jit_cache_hook is None


def test_without_triton_there_is_nothing_to_refuse(monkeypatch):
    monkeypatch.delitem(sys.modules, "triton", raising=False)
    with nothing_compiles():
        assert "triton" not in sys.modules


def test_the_triton_that_is_installed_asks_its_hook_before_it_compiles():
    jit = pytest.importorskip("triton.runtime.jit")
    from triton import knobs

    def compiles():
        # what JITFunction._do_compile calls first; none of the rest may be looked at
        count = jit.JITFunction._call_hook.__code__.co_argcount - 2
        jit.JITFunction._call_hook(None, knobs.runtime.jit_cache_hook, *[None] * count)

    compiles()
    with nothing_compiles(), pytest.raises(WouldCompile):
        compiles()
    names = jit.JITFunction._do_compile.__code__.co_names
    assert names.index("jit_cache_hook") < names.index("compile")
    compiles()
