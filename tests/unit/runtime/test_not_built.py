"""A kernel whose library is still being compiled: the next serves, nothing is held against it."""

import logging
import threading
from dataclasses import replace

import pytest
import torch

import quantmux as qm
from quantmux.capability.rejection import RejectionCode
from quantmux.errors import BuildError, NotBuiltError
from quantmux.ops.linear.reference import linear
from quantmux.runtime import producers
from quantmux.runtime.binding import bind, bind_producer
from quantmux.runtime.context import Context
from quantmux.runtime.events import stats
from quantmux.runtime.waiting import patiently


class Compiler:
    """Compiles one library in the background, as slowly as the test wants."""

    def __init__(self):
        self.ready = threading.Event()
        self.failure = None
        self.asked = 0

    def __call__(self):
        self.asked += 1
        if not self.ready.is_set():
            raise NotBuiltError(
                "lib is being compiled in the background, about 90 s", ready=self.ready
            )
        if self.failure is not None:
            raise self.failure

    def done(self, failure=None):
        self.failure = failure
        self.ready.set()

    def done_in(self, seconds, failure=None):
        threading.Timer(seconds, self.done, [failure]).start()


@pytest.fixture
def late(shop):
    """one/late is to serve, its library is not there; two/good is next."""
    compiler = Compiler()
    shop.producer("one/quantize")
    fault = shop.consumer("one/late")
    shop.consumer("two/good")
    _need(fault, compiler, "bind")
    return compiler


def _need(fault, compiler, *stages):
    meet, warm = fault.meet, fault.warmup_

    def met(stage):
        if stage in stages:
            compiler()
        meet(stage)

    def warmed(ms):
        if "warmup" in stages:
            compiler()
        warm(ms)

    fault.meet, fault.warmup_ = met, warmed


def bound_of(shop, context, **kwargs):
    return bind(shop.select(context), shop.weights(), context=context, **kwargs)


def layer_of(shop, context):
    return qm.Linear(shop.config, shop.weights(), context=context)


def test_the_next_kernel_serves_with_one_event_and_without_quarantine(shop, late, caplog):
    context = shop.context(order=("one", "two"))
    with caplog.at_level(logging.WARNING, "quantmux"):
        bound = bound_of(shop, context, layer="model.q")
    x = shop.x(3)
    assert torch.equal(bound(x), linear(x, shop.weights(), shop.config))
    assert bound.selection.kernels[-1] == "two/good"
    assert context.quarantine.entries() == ()
    (event,) = bound.events
    assert (event.stage, event.taken) == ("build", "one/quantize -> two/good")
    assert event.reason == "lib is being compiled in the background, about 90 s"
    assert len(caplog.records) == 1
    assert bound.pending == ("one/late",)
    (reason,) = bound.selection.rejected["one/late"]
    assert (reason.code, reason.actual) == (RejectionCode.NOT_BUILT, "being compiled")
    assert late.asked == 1


@pytest.mark.usefixtures("late")
def test_sixty_layers_alike_warn_once(shop, caplog):
    context = shop.context(order=("one", "two"))
    with caplog.at_level(logging.WARNING, "quantmux"):
        for place in range(60):
            bound_of(shop, context, layer=f"model.{place}")
    assert len(caplog.records) == 1
    assert stats()["build"] == 60


def test_later_binds_take_it_when_it_is_ready_and_bound_layers_stay(shop, late):
    context = shop.context(order=("one", "two"), fallback={"build": "silent"})
    before = bound_of(shop, context)
    assert not before.has_news
    late.done()
    assert before.has_news
    before(shop.x(2))
    assert before.pipeline_for(2).main.id == "two/good"
    after = bound_of(shop, context)
    assert after.pipeline_for(2).main.id == "one/late"
    assert (after.pending, after.events) == ((), ())


def test_a_layer_moves_over_when_it_is_asked_to(shop, late):
    context = shop.context(order=("one", "two"), fallback={"build": "silent"})
    layer = layer_of(shop, context)
    assert not layer.rebind()
    x = shop.x(3)
    first = layer(x)
    assert not layer.rebind()
    late.done()
    assert layer.bind().pipeline_for(3).main.id == "two/good"
    assert layer.rebind()
    assert layer.bind().pipeline_for(3).main.id == "one/late"
    assert not layer.rebind()
    assert torch.equal(layer(x), first)
    assert set(layer.state_dict()) == {"weight", "weight_scale"}


def test_warmup_waits_for_the_library_and_takes_it(shop, late, caplog):
    context = shop.context(order=("one", "two"))
    layer = layer_of(shop, context)
    late.done_in(0.2)
    with caplog.at_level(logging.WARNING, "quantmux"):
        report = qm.warmup(layer, ms=(1,), context=context)
    assert report.failed == ()
    assert layer.bind().pipeline_for(1).main.id == "one/late"
    assert caplog.records == []


def test_warmup_moves_a_layer_that_was_bound_without_it(shop, late):
    context = shop.context(order=("one", "two"), fallback={"build": "silent"})
    layer = layer_of(shop, context)
    layer.bind()
    late.done_in(0.2)
    qm.warmup(layer, ms=(1,), context=context)
    assert layer.bind().pipeline_for(1).main.id == "one/late"


def test_warmup_of_a_plan_waits_where_the_kernel_itself_says_so(shop):
    compiler = Compiler()
    shop.producer("one/quantize")
    _need(shop.consumer("one/late"), compiler, "warmup")
    context = shop.context()
    compiler.done_in(0.2)
    report = qm.warmup(shop.select(context), ms=(1,), context=context)
    assert report.failed == ()
    assert compiler.asked == 2


def test_a_library_that_does_not_compile_is_quarantined_then(shop, late):
    context = shop.context(order=("one", "two"), fallback={"build": "silent"})
    layer = layer_of(shop, context)
    layer.bind()
    late.done(BuildError("nvcc refuses"))
    assert layer.rebind()
    bound = layer.bind()
    assert bound.pipeline_for(1).main.id == "two/good"
    assert bound.pending == ()
    (entry,) = context.quarantine.entries()
    assert entry.kernel == "one/late"
    assert "nvcc refuses" in entry.reason


def test_another_compiler_lifts_the_quarantine_of_what_did_not_compile(shop):
    release = {"nvcc": "12.9.1"}
    shop.producer("one/quantize")
    shop.consumer("one/bad", bind=BuildError("nvcc refuses"))
    shop.specs[-1] = replace(shop.specs[-1], versions=lambda: dict(release))
    shop.consumer("two/good")
    context = shop.context(order=("one", "two"), fallback={"build": "silent"})
    bound_of(shop, context)
    assert shop.select(context).kernels[-1] == "two/good"
    release["nvcc"] = "13.0.88"
    later = Context(context.registry, context.quarantine)
    assert shop.select(later).kernels[-1] == "one/bad"


def test_where_nothing_else_serves_the_error_can_be_waited_for(shop, late):
    context = shop.context(order=("one", "two"))
    selection = shop.select(context, call_overrides={"force": "one/late"})
    with pytest.raises(NotBuiltError, match="not compiled yet") as caught:
        bind(selection, shop.weights(), context=context)
    assert context.quarantine.entries() == ()
    late.done_in(0.1)
    assert caught.value.wait(5)
    assert bind(selection, shop.weights(), context=context).pipeline_for(1).main.id == "one/late"


@pytest.mark.usefixtures("late")
def test_policy_error_raises_and_quarantines_nothing(shop):
    context = shop.context(order=("one", "two"), fallback={"build": "error"})
    with pytest.raises(BuildError, match="about 90 s"):
        bound_of(shop, context)
    assert context.quarantine.entries() == ()


def test_a_self_check_that_meets_it_does_not_blame_the_kernel(shop, late):
    context = shop.context(order=("one", "two"), self_check="first_use")
    bound = bound_of(shop, context)
    assert bound.pending == ("one/late",)
    assert bound.events[0].reason.startswith("lib is being compiled")
    assert context.quarantine.entries() == ()
    late.done()
    assert bound_of(shop, context).pipeline_for(1).main.id == "one/late"


def test_two_ranges_with_two_libraries_pass_over_both(shop):
    compilers = Compiler(), Compiler()
    shop.producer("one/quantize")
    _need(shop.consumer("one/small", m_max=4), compilers[0], "bind")
    _need(shop.consumer("one/big", m_min=5), compilers[1], "bind")
    shop.consumer("two/good")
    context = shop.context(order=("one", "two"), fallback={"build": "silent"})
    layer = layer_of(shop, context)
    assert layer.bind().pending == ("one/small", "one/big")
    compilers[1].done()
    assert layer.rebind()
    assert layer.bind().pending == ("one/small",)
    assert layer.bind().pipeline_for(5).main.id == "one/big"
    assert layer.bind().pipeline_for(4).main.id == "two/good"


def test_a_call_that_meets_it_goes_to_the_next(shop):
    compiler = Compiler()
    shop.producer("one/quantize")
    shop.consumer("one/lazy", run=lambda _m: _raised(compiler))
    shop.consumer("two/good")
    context = shop.context(order=("one", "two"), fallback={"build": "silent"})
    bound = bound_of(shop, context)
    x = shop.x(3)
    assert torch.equal(bound(x), linear(x, shop.weights(), shop.config))
    assert bound.pending == ("one/lazy",)
    assert context.quarantine.entries() == ()


def _raised(compiler):
    try:
        compiler()
    except NotBuiltError as error:
        return error
    return None


def test_a_producer_that_is_looked_up_at_every_call_is_taken_from_the_next_call_on(
    shop, monkeypatch
):
    compiler = Compiler()
    _need(shop.producer("one/quantize"), compiler, "bind")
    shop.producer("two/quantize")
    context = shop.context(order=("one", "two"), fallback={"build": "silent"})
    config = qm.QuantizeConfig(operand="fp8_token", n=32)
    served = []

    def spied(selection, **kwargs):
        served.append(bind_producer(selection, **kwargs))
        return served[-1]

    monkeypatch.setattr(producers, "bind_producer", spied)
    x = shop.x(3)
    first = qm.quantize(x, config, context=context)
    qm.quantize(x, config, context=context)
    assert [b.pipeline_for(3).ids for b in served] == [("two/quantize",)]
    compiler.done()
    again = qm.quantize(x, config, context=context)
    qm.quantize(x, config, context=context)
    assert [b.pipeline_for(3).ids for b in served] == [("two/quantize",), ("one/quantize",)]
    assert torch.equal(first.data.view(torch.uint8), again.data.view(torch.uint8))


def test_patience_ends_where_nobody_compiles_and_where_it_never_gets_ready():
    def nobody():
        raise NotBuiltError("never")

    with pytest.raises(NotBuiltError):
        patiently(nobody)
    always = threading.Event()
    always.set()

    def liar():
        raise NotBuiltError("soon", ready=always)

    with pytest.raises(NotBuiltError, match="soon"):
        patiently(liar)
