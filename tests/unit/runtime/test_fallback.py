import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from quantmux.capability.detect import HERE_CPU
from quantmux.errors import BuildError, ForcedKernelError, LaunchError, QuantmuxError
from quantmux.ops.linear.reference import linear
from quantmux.runtime import route
from quantmux.runtime.binding import bind, bind_producer
from quantmux.runtime.events import stats


def boom(_):
    return RuntimeError("boom")


def bound_of(shop, context, **kwargs):
    return bind(shop.select(context), shop.weights(), context=context, **kwargs)


def right(shop, bound, m):
    x = shop.x(m)
    return torch.equal(bound(x), linear(x, shop.weights(), shop.config))


@pytest.mark.parametrize("stage", ["prepare", "bind", "load"])
def test_what_does_not_build_is_quarantined_and_the_next_serves(shop, stage, caplog):
    shop.producer("one/quantize")
    if stage == "load":
        shop.consumer("one/bad", load="quantmux_no_such_module:kernel")
    else:
        shop.consumer("one/bad", **{stage: RuntimeError("no toolchain")})
    shop.consumer("two/good")
    context = shop.context(order=("one", "two"))
    with caplog.at_level(logging.WARNING, "quantmux"):
        bound = bound_of(shop, context, layer="model.q")
    assert right(shop, bound, 3)
    assert bound.selection.kernels[-1] == "two/good"
    (entry,) = context.quarantine.entries()
    assert (entry.kernel, entry.device) == ("one/bad", "cpu")
    (event,) = bound.events
    assert event.stage == "build"
    assert event.wanted == "one/quantize -> one/bad"
    assert event.taken == "one/quantize -> two/good"
    assert event.layer == "model.q"
    assert [r.name for r in caplog.records] == ["quantmux.build"]
    assert shop.plugins[0].heard == [event]
    assert stats()["build"] == 1
    # later selections know of it
    assert shop.select(context).kernels[-1] == "two/good"
    assert bound_of(shop, context).events == ()


def test_a_producer_that_does_not_bind_is_replaced(shop):
    shop.producer("one/quantize", bind=RuntimeError("no"))
    shop.producer("two/quantize")
    shop.consumer("one/linear")
    context = shop.context(order=("one", "two"), fallback={"build": "silent"})
    bound = bound_of(shop, context)
    assert bound.pipeline_for(3).ids == ("two/quantize", "one/linear")
    assert right(shop, bound, 3)
    assert context.quarantine.entries()[0].kernel == "one/quantize"


def test_a_fallback_of_another_weight_form_is_prepared_from_canonical(shop):
    shop.producer("one/quantize")
    shop.consumer("one/bad", layout="one:tiles", form="lossless", bind=RuntimeError("no"))
    shop.consumer("two/good", layout="two:tiles", form="lossless")
    context = shop.context(order=("one", "two"), fallback={"build": "silent"})
    bound = bound_of(shop, context)
    assert right(shop, bound, 3)
    assert bound.store.layouts == ("two:tiles",)
    assert bound.store.kept is None


def test_nothing_left_to_build_is_an_error_with_the_reasons(shop):
    shop.producer("one/quantize")
    shop.consumer("one/bad", prepare=ValueError("too narrow"))
    context = shop.context()
    with pytest.raises(BuildError) as caught:
        bound_of(shop, context)
    assert "too narrow" in str(caught.value)
    assert isinstance(caught.value.__cause__, ValueError)
    assert stats()["build"] == 1


def test_a_forced_kernel_that_does_not_build_is_an_error(shop):
    shop.producer("one/quantize")
    shop.consumer("one/bad", bind=RuntimeError("no"))
    shop.consumer("two/good")
    context = shop.context()
    selection = shop.select(context, call_overrides={"force": "one/bad"})
    with pytest.raises(BuildError):
        bind(selection, shop.weights(), context=context)
    with pytest.raises(ForcedKernelError):
        shop.select(context, call_overrides={"force": "one/bad"})


def test_policy_error_raises_at_build(shop):
    shop.producer("one/quantize")
    shop.consumer("one/bad", bind=RuntimeError("no"))
    shop.consumer("two/good")
    context = shop.context(order=("one", "two"), fallback={"build": "error"})
    with pytest.raises(BuildError, match="one/bad"):
        bound_of(shop, context)


def test_out_of_memory_at_prepare_is_raised_as_it_is_and_nothing_is_quarantined(shop):
    shop.producer("one/quantize")
    shop.consumer("one/hungry", prepare=torch.OutOfMemoryError("CUDA out of memory"))
    shop.consumer("two/good")
    context = shop.context(order=("one", "two"))
    with pytest.raises(torch.OutOfMemoryError):
        bound_of(shop, context)
    assert context.quarantine.entries() == ()
    assert stats()["events"] == []


def test_a_kernel_that_raises_at_run_is_replaced_and_not_tried_again(shop, caplog):
    shop.producer("one/quantize")
    bad = shop.consumer("one/bad", run=lambda m: RuntimeError("boom") if m > 4 else None)
    good = shop.consumer("two/good")
    context = shop.context(order=("one", "two"))
    bound = bound_of(shop, context)
    assert right(shop, bound, 4)
    assert (bad.calls["run"], good.calls["run"]) == (1, 0)
    with caplog.at_level(logging.WARNING, "quantmux"):
        assert right(shop, bound, 5)
        assert right(shop, bound, 5)
        assert right(shop, bound, 6)
    assert (bad.calls["run"], good.calls["run"]) == (2, 3)
    assert [r.name for r in caplog.records] == ["quantmux.run"]
    (event,) = bound.events
    assert (event.stage, event.taken) == ("run", "one/quantize -> two/good")
    assert stats()["run"] == 1
    assert context.quarantine.entries() == ()
    assert bound.pipeline_for(5).main.id == "two/good"
    # the good half of a broken kernel is not worth a second look
    assert right(shop, bound, 4)
    assert bad.calls["run"] == 2


def test_only_the_range_that_failed_is_replaced(shop):
    shop.producer("one/quantize")
    shop.consumer("one/small", m_max=4)
    shop.consumer("one/big", m_min=5, run=boom)
    shop.consumer("two/any", compute="emulated")
    context = shop.context(fallback={"run": "silent"})
    bound = bound_of(shop, context)
    assert right(shop, bound, 9)
    assert bound.pipeline_for(9).main.id == "two/any"
    assert bound.pipeline_for(3).main.id == "one/small"
    assert right(shop, bound, 3)


def test_a_replacement_that_serves_some_m_only_is_used_for_those(shop):
    shop.producer("one/quantize")
    shop.consumer("one/bad", run=boom)
    shop.consumer("two/small", m_max=16)
    shop.consumer("three/any")
    context = shop.context(order=("one", "two", "three"), fallback={"run": "silent"})
    bound = bound_of(shop, context)
    assert right(shop, bound, 8)
    assert bound.pipeline_for(8).main.id == "two/small"
    assert right(shop, bound, 17)
    assert bound.pipeline_for(17).main.id == "three/any"


def test_a_producer_that_raises_at_run_is_the_one_that_is_replaced(shop):
    shop.producer("one/quantize", run=boom)
    shop.producer("two/quantize")
    consumer = shop.consumer("one/linear")
    context = shop.context(order=("one", "two"), fallback={"run": "silent"})
    bound = bound_of(shop, context)
    assert right(shop, bound, 3)
    assert bound.pipeline_for(3).ids == ("two/quantize", "one/linear")
    assert consumer.calls["run"] == 1
    assert "one/quantize raised" in bound.events[0].reason


def test_a_run_fallback_may_need_another_weight_form(shop):
    shop.producer("one/quantize")
    shop.consumer("one/bad", layout="one:tiles", form="lossless", run=boom)
    shop.consumer("two/good", layout="two:tiles", form="lossless")
    context = shop.context(order=("one", "two"), fallback={"run": "silent"})
    bound = bound_of(shop, context)
    assert bound.store.kept is None  # the canonical weights were freed: they are restored
    assert right(shop, bound, 3)
    assert set(bound.store.layouts) == {"one:tiles", "two:tiles"}


def test_weights_that_were_dropped_blame_no_other_kernel(shop):
    shop.producer("one/quantize")
    shop.consumer("one/bad", layout="one:tiles", form="lossy", run=boom)
    shop.consumer("one/worse", layout="one:tiles", form="lossy", bind=RuntimeError("no"))
    shop.consumer("two/other", layout="two:tiles", form="lossless")
    context = shop.context(
        order=("one", "two"), keep_canonical="never", fallback={"run": "silent", "build": "silent"}
    )
    bound = bound_of(shop, context)
    with pytest.raises(LaunchError, match="every kernel failed"):
        bound(shop.x(3))
    assert [e.kernel for e in context.quarantine.entries()] == ["one/worse"]


def test_the_prepared_form_is_preferred_unless_that_costs_a_tier(shop):
    shop.producer("one/quantize")
    shop.consumer("one/bad", layout="one:tiles", form="lossless", run=boom)
    shop.consumer("one/worse", layout="one:tiles", form="lossless", compute="emulated")
    shop.consumer("two/native", layout="two:tiles", form="lossless")
    context = shop.context(order=("one", "two"), fallback={"run": "silent"})
    bound = bound_of(shop, context)
    assert right(shop, bound, 3)
    assert bound.pipeline_for(3).main.id == "two/native"


def test_a_run_fallback_that_does_not_build_is_quarantined_too(shop):
    shop.producer("one/quantize")
    shop.consumer("one/bad", run=boom)
    shop.consumer("two/worse", bind=RuntimeError("no"))
    shop.consumer("three/good")
    context = shop.context(
        order=("one", "two", "three"), fallback={"run": "silent", "build": "silent"}
    )
    bound = bound_of(shop, context)
    assert right(shop, bound, 3)
    assert [e.stage for e in bound.events] == ["build", "run"]
    assert [e.kernel for e in context.quarantine.entries()] == ["two/worse"]


def test_a_kernel_compiled_at_its_first_call_is_quarantined_when_that_fails(shop):
    shop.producer("one/quantize")
    shop.consumer("one/jit", run=lambda _: BuildError("ptxas failed"))
    shop.consumer("two/good")
    context = shop.context(order=("one", "two"), fallback={"build": "silent"})
    bound = bound_of(shop, context)
    assert right(shop, bound, 3)
    assert bound.events[0].stage == "build"
    assert context.quarantine.entries()[0].kernel == "one/jit"


def test_a_warmup_that_raises_is_a_build_failure(shop):
    shop.producer("one/quantize")
    shop.consumer("one/jit", warmup=RuntimeError("ptxas failed"))
    shop.consumer("two/good")
    context = shop.context(order=("one", "two"), fallback={"build": "silent"})
    bound = bound_of(shop, context)
    bound.warmup([1, 8])
    assert bound.pipeline_for(8).main.id == "two/good"
    assert context.quarantine.entries()[0].kernel == "one/jit"
    assert right(shop, bound, 3)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_out_of_memory_at_run_is_raised_as_it_is_and_nothing_is_replaced(shop, error):
    shop.producer("one/quantize")
    bad = shop.consumer("one/hungry", run=lambda _: error)
    shop.consumer("two/good")
    context = shop.context(order=("one", "two"))
    bound = bound_of(shop, context)
    for _ in range(2):
        with pytest.raises(type(error)) as caught:
            bound(shop.x(3))
        assert caught.value is error
    assert bad.calls["run"] == 2
    assert stats()["events"] == []


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        torch.AcceleratorError("CUDA error: unspecified launch failure"),
        RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
    ],
)
def test_a_lost_cuda_context_is_said_so(shop, error):
    shop.producer("one/quantize")
    shop.consumer("one/bad", run=lambda _: error)
    shop.consumer("two/good")
    context = shop.context(order=("one", "two"))
    bound = bound_of(shop, context)
    with pytest.raises(LaunchError) as caught:
        bound(shop.x(3))
    assert caught.value.context_poisoned
    assert caught.value.__cause__ is error
    assert context.quarantine.entries() == ()
    assert bound.pipeline_for(3).main.id == "one/bad"


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: no kernel image is available for execution on the device",
        "CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmulAlgoGetHeuristic( ltH",
    ],
)
def test_a_launch_that_cuda_refused_loses_no_context(shop, text):
    shop.producer("one/quantize")
    shop.consumer("one/bad", run=lambda _: RuntimeError(text))
    shop.consumer("two/good")
    context = shop.context(order=("one", "two"), fallback={"run": "silent"})
    assert right(shop, bound_of(shop, context), 3)


def test_in_capture_nothing_is_replaced(shop, monkeypatch):
    shop.producer("one/quantize")
    shop.consumer("one/bad", run=boom)
    shop.consumer("two/good")
    context = shop.context(order=("one", "two"), fallback={"run": "silent"})
    bound = bound_of(shop, context)
    with monkeypatch.context() as patch:
        patch.setattr(route, "is_capturing", lambda: True)
        with pytest.raises(LaunchError, match="captured"):
            bound(shop.x(3))
    assert bound.pipeline_for(3).main.id == "one/bad"
    assert right(shop, bound, 3)


def test_a_kernel_that_cannot_be_captured_loses_no_context(shop, monkeypatch):
    text = "CUDA error: operation not permitted when stream is capturing"
    shop.producer("one/quantize")
    shop.consumer("one/bad", run=lambda _: RuntimeError(text))
    bound = bound_of(shop, shop.context(fallback={"run": "silent"}))
    monkeypatch.setattr(route, "is_capturing", lambda: True)
    with pytest.raises(LaunchError, match="captured") as caught:
        bound(shop.x(3))
    assert not caught.value.context_poisoned
    assert "warmup" in caught.value.hint


def test_policy_error_raises_at_run_and_replaces_nothing(shop):
    shop.producer("one/quantize")
    bad = shop.consumer("one/bad", run=boom)
    shop.consumer("two/good")
    context = shop.context(order=("one", "two"), fallback={"run": "error"})
    bound = bound_of(shop, context)
    for count in (1, 2):
        with pytest.raises(LaunchError, match="one/bad"):
            bound(shop.x(3))
        assert bad.calls["run"] == count
    assert stats()["run"] == 2


def test_a_bound_producer_falls_back_as_a_linear_does(shop, silu_config):
    shop.producer("one/silu", op="silu_mul_quantize", run=boom)
    shop.producer("two/silu", op="silu_mul_quantize")
    context = shop.context(order=("one", "two"), fallback={"run": "silent"})
    bound = bind_producer(context.select(silu_config, HERE_CPU), context=context)
    assert bound(torch.ones(3, 64, dtype=torch.bfloat16)).logical_shape == (3, 32)
    assert bound.pipeline_for(3).ids == ("two/silu",)


def test_many_threads_meet_a_broken_kernel_and_it_is_replaced_once(shop):
    shop.producer("one/quantize")
    shop.consumer("one/bad", run=boom)
    good = shop.consumer("two/good")
    context = shop.context(order=("one", "two"), fallback={"run": "silent"})
    bound = bound_of(shop, context)
    want = linear(shop.x(3), shop.weights(), shop.config)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: bound(shop.x(3)), range(64)))
    assert all(torch.equal(y, want) for y in results)
    assert good.calls["bind"] == 1
    assert stats()["run"] == 1


def test_weight_only_in_place_of_quantized_activations_is_told(shop, caplog):
    from quantmux.capability.capability import Capability, OperandOffer, SchemeOffer
    from quantmux.registry.kernel_spec import KernelSpec

    shop.consumer("one/template")
    (template,) = shop.specs
    offer = SchemeOffer(weight=OperandOffer.of(shop.config.scheme.weight, ("row_major",)))
    shop.specs[:] = [
        KernelSpec(
            id="one/w8a16",
            op="linear",
            capability=Capability(arch=("any",), schemes=(offer,)),
            load=template.load,
        )
    ]
    context = shop.context()
    with caplog.at_level(logging.WARNING, "quantmux"):
        bound = bound_of(shop, context)
    assert bound.selection.ranges[0].tier == "weight_only"
    assert [r.name for r in caplog.records] == ["quantmux.select"]
    assert bound.events[0].taken == "one/w8a16"
    silent = shop.context(allow_lossy="allow")
    assert bound_of(shop, silent).events == ()
    with pytest.raises(QuantmuxError, match="activations stay in"):
        bound_of(shop, shop.context(fallback={"select": "error"}))
    caplog.clear()
    quiet = bound_of(shop, shop.context(fallback={"select": "silent"}))
    assert quiet.events
    assert caplog.records == []


RUBBISH = [
    lambda _: None,
    lambda _: torch.zeros(1),
    lambda y: y.T,
    lambda y: y.float(),
    lambda y: y[:, :-1],
    lambda y: [y],
]


@pytest.mark.parametrize("gives", RUBBISH)
def test_a_kernel_that_returns_rubbish_is_replaced_at_its_first_call(shop, gives):
    shop.producer("one/quantize")
    bad = shop.consumer("one/bad", gives=gives)
    shop.consumer("two/good")
    context = shop.context(order=("one", "two"), fallback={"run": "silent"})
    bound = bound_of(shop, context)
    for _ in range(3):
        assert right(shop, bound, 5)
    assert bad.calls["run"] == 1
    (event,) = bound.events
    assert event.stage == "run"
    assert "returned" in event.reason


def test_rubbish_with_nobody_behind_it_is_an_error(shop):
    shop.producer("one/quantize")
    shop.consumer("one/bad", gives=lambda _: None)
    with pytest.raises(LaunchError, match="returned a NoneType, needs a tensor"):
        bound_of(shop, shop.context())(shop.x(3))
