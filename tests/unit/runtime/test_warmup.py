"""warmup: every kernel with every config once, in threads, with all the M that it will serve."""

import threading
import time

import pytest
import torch

import quantmux as qm
from quantmux.capability.profiles import PROFILES
from quantmux.dispatch.plan import plan
from quantmux.errors import BuildError, ConfigError
from quantmux.layers.linear import Linear
from quantmux.runtime.binding import bind
from quantmux.runtime.warmup import warmup


@pytest.fixture
def faults(shop):
    return {
        "quantize": shop.producer("one/quantize"),
        "small": shop.consumer("one/small", m_max=4),
        "big": shop.consumer("two/big", m_min=5),
    }


def planned(shop, context, names=("a", "b", "c")):
    layers = [(name, shop.config) for name in names]
    return plan(layers, shop.select(context).device, lambda _n, _c: shop.select(context))


def kernel(shop, name):
    return getattr(shop.module, name)


def test_layers_that_are_alike_are_compiled_once(shop, faults):
    context = shop.context()
    report = warmup(planned(shop, context), ms=(1, 4, 5, 64), context=context)
    assert {u.kernel: u.ms for u in report.units} == {
        "one/quantize": (1, 4, 5, 64),
        "one/small": (1, 4),
        "two/big": (5, 64),
    }
    assert faults["small"].calls["warmup"] == [(1, 4)]
    assert faults["big"].calls["warmup"] == [(5, 64)]
    assert (report.layers, report.failed) == (0, ())
    assert faults["big"].calls["run"] == faults["big"].calls["prepare"] == 0


def test_a_range_that_no_m_falls_into_is_compiled_for_its_first(shop, faults):
    context = shop.context()
    warmup(shop.select(context), ms=(2,), context=context)
    assert faults["small"].calls["warmup"] == [(2,)]
    assert faults["big"].calls["warmup"] == [(5,)]


def test_other_configs_are_other_units(shop, faults):
    context = shop.context()
    other = shop.config.replace(out_features=96)
    both = plan(
        [("a", shop.config), ("b", other)],
        shop.select(context).device,
        lambda _n, config: context.select(config, PROFILES["cpu"]),
    )
    report = warmup(both, ms=(1,), context=context)
    assert len(faults["small"].calls["warmup"]) == 2
    # what quantizes x is the same for both
    assert len(faults["quantize"].calls["warmup"]) == 1
    assert len(report.units) == 5


def test_layers_are_bound_and_called_after_their_kernels_are_compiled(shop, faults):
    context = shop.context()
    layer = bind(shop.select(context), shop.weights(), context=context)
    report = warmup([layer, layer], ms=(1, 64), context=context)
    assert report.layers == 2
    assert faults["small"].calls["run"] == faults["big"].calls["run"] == 2
    assert faults["small"].calls["warmup"][0] == (1,)


def test_a_model_is_searched_for_its_layers(shop, faults):
    context = shop.context()
    made = Linear(shop.config, shop.weights(), context=context)
    model = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.ModuleList([made]))
    assert warmup(model, ms=(1,), context=context).layers == 1
    assert made.bound is not None
    assert faults["small"].calls["run"] == 1


def test_a_kernel_that_does_not_compile_is_in_the_report_and_costs_no_other(shop):
    shop.producer("one/quantize")
    shop.consumer("one/bad", warmup=RuntimeError("ptxas said no"))
    shop.consumer("two/good")
    context = shop.context()
    report = warmup(shop.select(context), ms=(1,), context=context)
    assert [(u.kernel, u.error) for u in report.failed] == [
        ("one/bad", "RuntimeError: ptxas said no")
    ]
    layer = bind(shop.select(context), shop.weights(), context=context)
    warmup(layer, ms=(1,), context=context)
    assert layer.pipeline_for(1).main.id == "two/good"


def test_units_run_at_the_same_time_and_progress_is_told_by_the_caller_s_thread(shop, faults):
    context, told = shop.context(), []
    meeting = threading.Barrier(3, timeout=20)
    for name in ("one_quantize", "one_small", "two_big"):
        kernel(shop, name).warmup = lambda _c, _m: meeting.wait()  # passes only if all are there

    def progress(done, of, what):
        told.append((done, of, threading.current_thread() is threading.main_thread()))
        assert what in ("one/quantize", "one/small", "two/big")

    report = warmup(shop.select(context), jobs=3, progress=progress, context=context)
    assert report.failed == ()
    assert told == [(1, 3, True), (2, 3, True), (3, 3, True)]
    del faults


def test_one_job_is_one_thread(shop, faults):
    context, active, most = shop.context(), [], []

    def slowly(_config, _ms):
        active.append(1)
        most.append(len(active))
        time.sleep(0.02)
        active.pop()

    for name in ("one_quantize", "one_small", "two_big"):
        kernel(shop, name).warmup = slowly
    warmup(shop.select(context), jobs=1, context=context)
    assert most == [1, 1, 1]
    del faults


def test_an_interrupt_stops_what_has_not_begun(shop, faults):
    context, begun = shop.context(), []
    for name in ("one_quantize", "one_small", "two_big"):
        kernel(shop, name).warmup = lambda _c, _m: (begun.append(1), time.sleep(0.2))

    def stop(_done, _of, _what):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        warmup(shop.select(context), jobs=1, progress=stop, context=context)
    assert len(begun) < 3
    del faults


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"ms": ()}, "at least 1"),
        ({"ms": (0, 4)}, "at least 1"),
        ({"jobs": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_meant_is_refused(shop, faults, given, said):
    context = shop.context()
    with pytest.raises(ConfigError, match=said):
        warmup(shop.select(context), context=context, **given)
    assert all(f.calls["warmup"] == [] for f in faults.values())


@pytest.mark.parametrize("what", [torch.nn.ReLU(), [], "model", 3])
def test_nothing_to_warm_up_is_an_error_that_says_what_could_be(what):
    with pytest.raises(ConfigError, match="nothing to warm up"):
        warmup(what)


def ahead(shop, context, compile_for=None):
    for name in ("one_quantize", "one_small", "two_big"):
        if compile_for is not None:
            kernel(shop, name).compile_for = compile_for
    return warmup(context.select(shop.config, PROFILES["b200"]), ms=(1,), context=context)


def test_for_a_gpu_that_is_not_here_the_kernels_compile_ahead(shop, faults):
    asked = []
    report = ahead(shop, shop.context(), lambda config, arch: asked.append((config, str(arch))))
    assert {arch for _, arch in asked} == {"sm100"}
    assert len(asked) == 3
    assert all(u.is_ahead and not u.error and not u.skipped for u in report.units)
    assert all(f.calls["warmup"] == [] for f in faults.values())


@pytest.mark.usefixtures("faults")
def test_a_kernel_without_code_of_its_own_is_skipped_with_the_reason(shop):
    report = ahead(shop, shop.context())
    assert {u.skipped for u in report.units} == {"it has no code of its own to compile ahead"}
    assert report.failed == ()


@pytest.mark.usefixtures("faults")
def test_without_a_compiler_nothing_failed(shop):
    def refuse(_config, _arch):
        raise BuildError("no nvcc", code="no_compiler")

    report = ahead(shop, shop.context(), refuse)
    assert {(u.skipped, u.error) for u in report.units} == {("no nvcc", "")}


def test_the_report_is_data(shop, faults):
    context = shop.context()
    data = warmup(shop.select(context), ms=(1,), context=context).to_dict()
    assert set(data) == {"units", "layers", "seconds"}
    unit = data["units"][0]
    assert (unit["kernel"], unit["device"], unit["ms"], unit["error"]) == (
        "one/quantize",
        "cpu",
        [1, 5],
        "",
    )
    del faults


def test_it_is_public():
    assert qm.warmup is warmup
