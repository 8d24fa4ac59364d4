"""Kernels that are wrong in one way each are found when they are first bound."""

import json
import logging
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
import torch

from quantmux.capability.capability import Capability, OperandOffer, SchemeOffer
from quantmux.capability.detect import HERE_CPU
from quantmux.capability.evidence import EvidenceLevel
from quantmux.capability.ledger import EvidenceRow
from quantmux.config import LinearConfig, QuantizeConfig
from quantmux.config.policy import Policy
from quantmux.ops.linear.reference import linear
from quantmux.ops.linear.weights import quantize_weight
from quantmux.ops.poison import GUARD_BYTES
from quantmux.ops.quantize.reference import quantize
from quantmux.registry.hookspecs import hookimpl
from quantmux.registry.kernel_spec import BackendInfo, KernelSpec
from quantmux.registry.ledger import record_evidence
from quantmux.registry.manager import Registry
from quantmux.registry.protocol import PreparedWeights
from quantmux.registry.user_folder import user_folder
from quantmux.runtime import failures, self_check
from quantmux.runtime.binding import bind, bind_producer
from quantmux.runtime.context import Context
from quantmux.runtime.events import reset_stats
from quantmux.runtime.quarantine import Quarantine
from quantmux.runtime.quarantine_file import QuarantineFile

CONFIG = LinearConfig(in_features=200, out_features=300, scheme="fp8_channel_token", bias=True)
PRODUCED = QuantizeConfig(operand="fp8_token", n=200)


@dataclass
class Toy:
    """A linear and a quantizer by the references, with one fault; remembers what it was given."""

    fault: object = None
    calls: list = field(default_factory=list)
    threads: list = field(default_factory=list)

    def prepare(self, weights, config, _device):
        named = weights.named()
        return PreparedWeights(named, "canonical", config.n, config.k, lambda: weights)

    def bind(self, config, *_prepared_and_device):
        prepared = _prepared_and_device[0]

        def call(x, *, out=None, **scales):
            self.calls.append(x)
            if config.op == "linear":
                weights = prepared.restore()
                right = linear(x, weights, config)
            else:
                right = quantize(x, config, **scales)
            fault = self.fault or right_one
            return fault(right, out, x)

        return call

    def warmup(self, _config, _ms):
        pass


def parts(value):
    return [value] if isinstance(value, torch.Tensor) else [value.data, value.scales]


def put(right, out):
    if out is None:
        return right
    for to, what in zip(parts(out), parts(right), strict=True):
        to.copy_(what)
    return out


def right_one(right, out, _x):
    return put(right, out)


def zeros(right, out, _x):
    for part in parts(right):
        part.view(torch.uint8).zero_() if part.dtype.itemsize == 1 else part.zero_()
    return put(right, out)


def untouched(right, out, _x):
    return right if out is None else out


def ignores_out(right, _out, _x):
    return right


def raises(_right, _out, _x):
    raise RuntimeError("no such instruction")


def refuses(_right, _out, _x):
    from quantmux.errors import ShapeError

    raise ShapeError("K must be 4096")


def beside(right, out, _x):
    result = put(right, out)
    part = parts(result)[0]
    if out is not None:
        raw = torch.empty(0, dtype=torch.uint8).set_(part.untyped_storage())
        raw[-GUARD_BYTES] = 0
    return result


class Stale:
    """Gives the first answer for ever."""

    def __init__(self):
        self.first = None

    def __call__(self, right, out, _x):
        if out is not None:
            return put(right, out)
        if self.first is None:
            self.first = right
        return self.first


class OneBuffer:
    """Right, but every result lies in the same memory."""

    def __init__(self):
        self.buffer = None

    def __call__(self, right, out, _x):
        if out is not None:
            return put(right, out)
        if self.buffer is None:
            self.buffer = right
        return put(right, self.buffer)


def no_tail(right, out, _x):
    """Wrong in the rows behind the last whole tile of eight."""
    first = parts(right)[0]
    whole = first.shape[0] // 8 * 8
    first[whole:].view(torch.uint8).fill_(7)
    return put(right, out)


def no_bias(right, out, x):
    y = put(right, out)
    return y.sub_(1.0) if x is not None else y


FAULTS = {
    "zeros": (zeros, "relative error 1|at \\["),
    "untouched": (untouched, "left its output untouched"),
    "ignores_out": (ignores_out, "left its output untouched"),
    "raises": (raises, "RuntimeError: no such instruction"),
    "refuses": (refuses, "refused its inputs: ShapeError: K must be 4096"),
    "beside": (beside, "wrote beside its output"),
    "stale": (Stale, "same memory for two calls"),
    "one_buffer": (OneBuffer, "same memory for two calls"),
    "no_tail": (no_tail, "needs"),
    "no_bias": (no_bias, "relative error"),
}


class Plugin:
    def __init__(self, name, specs):
        self.name, self.specs = name, specs

    @hookimpl
    def quantmux_backend(self):
        return BackendInfo(self.name, "1")

    @hookimpl
    def quantmux_kernels(self):
        return self.specs


@pytest.fixture(autouse=True)
def _fresh():
    reset_stats()
    yield
    reset_stats()


@pytest.fixture
def market(monkeypatch):
    """Give a context of two backends, ``one`` before ``two``, of which one is faulty."""

    def build(fault=None, version="", policy=None, quarantine=None, **capability):
        kernels, plugins = {}, {}
        scheme = CONFIG.scheme
        reads = OperandOffer.of(scheme.activation, ("row_major",))
        pair = SchemeOffer(weight=OperandOffer.of(scheme.weight, ("row_major",)), activation=reads)
        for name in ("one", "two"):
            toy = Toy(fault if name == "one" else None)
            kernels[name] = toy
            monkeypatch.setattr(self_check, f"toy_{name}", toy, raising=False)
            load = f"quantmux.runtime.self_check:toy_{name}"
            more = {"version": version if name == "one" else "", "load": load}
            offers = {"takes_bias": True, **capability}
            plugins[name] = Plugin(
                name,
                (
                    KernelSpec(
                        f"{name}/linear",
                        "linear",
                        Capability(arch=("any",), schemes=(pair,), **offers),
                        **more,
                    ),
                    KernelSpec(
                        f"{name}/quantize",
                        "quantize",
                        Capability(arch=("any",), produces=(reads,)),
                        **more,
                    ),
                ),
            )
        settings = Policy(order=("one", "two"), **(policy or {}))
        registry = Registry.of(plugins, settings)
        made = Context(registry, quarantine or Quarantine())
        made.toys = kernels
        return made

    return build


def weights_of(config=CONFIG):
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(config.n, config.k, generator=generator)
    bias = torch.randn(config.n, generator=generator)
    return quantize_weight(weight, config.scheme, bias=bias.bfloat16())


def bound_linear(context, config=CONFIG):
    return bind(context.select(config, HERE_CPU), weights_of(config), context=context)


def bound_producer(context):
    return bind_producer(context.select(PRODUCED, HERE_CPU), context=context)


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_linear_is_quarantined_and_the_next_serves(market, name, caplog):
    fault, reason = FAULTS[name]
    fault = fault() if isinstance(fault, type) else fault

    def only_linear(right, out, x):
        return fault(right, out, x) if isinstance(right, torch.Tensor) else put(right, out)

    context = market(only_linear)
    with caplog.at_level(logging.WARNING, "quantmux"):
        bound = bound_linear(context)
    assert bound.selection.kernels[-1] == "two/linear"
    (event,) = bound.events
    assert (event.stage, event.wanted) == ("build", "one/quantize -> one/linear")
    assert event.taken == "one/quantize -> two/linear"
    assert event.reason.startswith("one/linear failed its self-check: ")
    assert re.search(reason, event.reason)
    assert [r.name for r in caplog.records] == ["quantmux.build"]
    (entry,) = context.quarantine.entries()
    assert (entry.kernel, entry.device) == ("one/linear", "cpu")


@pytest.mark.parametrize("name", [name for name in FAULTS if name != "no_bias"])
def test_a_faulty_producer_is_quarantined_and_the_next_serves(market, name):
    fault, _ = FAULTS[name]
    context = market(fault() if isinstance(fault, type) else fault, policy={"fallback": SILENT})
    bound = bound_producer(context)
    assert bound.selection.kernels == ("two/quantize",)
    (event,) = bound.events
    assert "one/quantize failed its self-check" in event.reason
    assert [e.kernel for e in context.quarantine.entries()] == ["one/quantize"]


SILENT = {"build": "silent"}


def test_right_kernels_are_checked_once_for_all_layers_that_shrink_alike(market, caplog):
    context = market()
    with caplog.at_level(logging.INFO, "quantmux.build"):
        first = bound_linear(context)
        checked = len(context.toys["one"].calls)
        wider = CONFIG.replace(in_features=136, out_features=72)
        second = bound_linear(context, wider)
    assert first.events == second.events == ()
    assert checked > 0
    assert len(context.toys["one"].calls) == checked
    agreed = [r.getMessage() for r in caplog.records if "agrees on cpu" in r.getMessage()]
    assert len(agreed) == 2  # the producer and the consumer
    x = torch.randn(3, 136).bfloat16()
    assert second(x).shape == (3, 72)


def test_another_class_of_config_is_checked_anew(market):
    context = market()
    bound_linear(context)
    checked = len(context.toys["one"].calls)
    bound_linear(context, CONFIG.replace(out_dtype="fp16"))
    assert len(context.toys["one"].calls) > checked


def test_never_takes_a_kernel_as_it_is(market):
    context = market(zeros, policy={"self_check": "never"})
    assert bound_linear(context).selection.kernels[-1] == "one/linear"
    assert context.toys["one"].calls == []


def test_a_call_may_say_never_and_explain_shows_where_it_comes_from(market):
    context = market(zeros)
    overrides = {"self_check": "never"}
    selection = context.select(CONFIG, HERE_CPU, call_overrides=overrides)
    assert bind(selection, weights_of(), context=context).events == ()
    settings = selection.settings.to_dict()["self_check"]
    assert settings == {"value": "never", "origin": "call"}


def test_policy_error_raises_the_reason(market):
    from quantmux.errors import BuildError

    context = market(zeros, policy={"fallback": {"build": "error"}})
    with pytest.raises(BuildError, match="failed its self-check"):
        bound_linear(context)


def test_the_reference_is_not_checked_against_itself(market):
    context = market(zeros, is_reference=True, policy={"force": "one"})
    bind(context.select(CONFIG, HERE_CPU), weights_of(), context=context)
    assert all(isinstance(call, torch.Tensor) for call in context.toys["one"].calls)


@pytest.mark.parametrize(
    ("level", "driver", "digest", "is_checked"),
    [
        ("verified", None, None, False),
        ("measured", None, None, False),
        ("compiled", None, None, True),
        ("verified", "580.1", None, True),
        ("verified", None, "0" * 16, True),
    ],
)
def test_only_evidence_of_this_very_kernel_and_driver_spares_it(
    market, level, driver, digest, is_checked
):
    context = market()
    rows = [
        EvidenceRow(
            kernel=kernel,
            digest=digest or context.digest(kernel),
            level=EvidenceLevel(level),
            cases=0 if level == "compiled" else 40,
            driver=driver,
        )
        for kernel in ("one/linear", "one/quantize")
    ]
    if level == "measured":
        record_evidence([r.replace(level=EvidenceLevel.VERIFIED) for r in rows], "cpu", _evidence())
    record_evidence(rows, "cpu", _evidence())
    bound_linear(context)
    assert bool(context.toys["one"].calls) is is_checked


def _evidence():
    return user_folder() / "evidence"


def test_what_agreed_is_remembered_on_disk_where_the_digest_tells_of_the_code(market):
    first = market(version="1.0")
    bound_producer(first)
    (row,) = json.loads((user_folder() / "self_check.json").read_text())["rows"]
    assert (row["kernel"], row["device"]) == ("one/quantize", "cpu")
    assert row["versions"]["torch"]
    again = market(version="1.0")
    bound_producer(again)
    assert again.toys["one"].calls == []
    newer = market(version="1.1")
    bound_producer(newer)
    assert newer.toys["one"].calls


def test_a_kernel_whose_digest_says_nothing_of_its_code_is_checked_in_each_process(market):
    bound_producer(market())
    assert not (user_folder() / "self_check.json").exists()
    again = market()
    bound_producer(again)
    assert again.toys["one"].calls


def test_another_driver_and_other_versions_are_checked_anew(market, monkeypatch):
    bound_producer(market(version="1.0"))
    monkeypatch.setattr("quantmux.runtime.quarantine_ground.__version__", "99.0")
    later = market(version="1.0")
    bound_producer(later)
    assert later.toys["one"].calls


def test_a_record_that_cannot_be_written_costs_one_warning(market, monkeypatch, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QUANTMUX_CACHE_DIR", str(tmp_path / "file"))
    context = market(version="1.0")
    with caplog.at_level(logging.WARNING, "quantmux"):
        bound_producer(context)
        checked = len(context.toys["one"].calls)
        bound_producer(context)
        bind_producer(context.select(PRODUCED.replace(in_dtype="fp16"), HERE_CPU), context=context)
    assert checked
    (record,) = caplog.records
    assert "the record of self-checks is kept in memory only" in record.getMessage()


def test_out_of_memory_is_raised_as_it_is_and_nobody_is_quarantined(market):
    def hungry(_right, _out, _x):
        raise torch.OutOfMemoryError("CUDA out of memory")

    context = market(hungry)
    with pytest.raises(torch.OutOfMemoryError):
        bound_linear(context)
    assert context.quarantine.entries() == ()


def test_a_lost_cuda_context_is_raised_and_nobody_is_quarantined(market):
    from quantmux.errors import LaunchError

    def sticky(_right, _out, _x):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    context = market(sticky)
    with pytest.raises(LaunchError) as caught:
        bound_linear(context)
    assert caught.value.context_poisoned
    assert context.quarantine.entries() == ()


def test_nothing_is_checked_while_a_graph_is_captured(market, monkeypatch):
    context = market(zeros)
    monkeypatch.setattr(self_check, "is_capturing", lambda: True)
    assert bound_linear(context).events == ()
    monkeypatch.setattr(self_check, "is_capturing", failures.is_capturing)
    assert [e.stage for e in bound_linear(context).events] == ["build", "build"]


def test_two_threads_that_bind_one_kernel_check_it_once(market):
    alone = market()
    bound_producer(alone)
    context = market()
    context.inventory(HERE_CPU)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: bound_producer(context), range(4)))
    assert len(context.toys["one"].calls) == len(alone.toys["one"].calls)


def test_nothing_of_the_caller_is_disturbed(market):
    seen = []

    def look(right, out, _x):
        dtype, grad = torch.get_default_dtype(), torch.is_grad_enabled()
        seen.append((dtype, grad, torch.is_inference_mode_enabled(), torch.empty(1).device.type))
        return put(right, out)

    context, weights = market(look), weights_of()
    selection = context.select(CONFIG, HERE_CPU)
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode(), torch.device("meta"), torch.autocast("cpu", torch.bfloat16):
            bound = bind(selection, weights, context=context)
            assert torch.is_inference_mode_enabled()
            assert torch.is_autocast_enabled("cpu")
            assert torch.empty(1).device.type == "meta"
        assert torch.get_default_dtype() is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert bound.events == ()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert set(seen) == {(torch.float64, False, False, "cpu")}


def test_a_changed_digest_tries_a_quarantined_kernel_again(market):
    store = QuarantineFile()
    bad = market(zeros, version="1.0", quarantine=Quarantine(store))
    assert bound_producer(bad).selection.kernels == ("two/quantize",)
    same = market(version="1.0", quarantine=Quarantine(store))
    assert same.select(PRODUCED, HERE_CPU).kernels == ("two/quantize",)
    (rejection,) = same.select(PRODUCED, HERE_CPU).rejected["one/quantize"]
    assert rejection.code == "quarantined"
    assert "failed its self-check" in rejection.actual
    assert rejection.hint == "quantmux quarantine clear one/quantize"
    repaired = market(version="1.1", quarantine=Quarantine(store))
    assert bound_producer(repaired).selection.kernels == ("one/quantize",)
    driver = HERE_CPU.replace(driver="590.1")
    assert same.select(PRODUCED, driver).kernels == ("one/quantize",)


def test_clear_tries_it_again_in_the_same_process(market):
    context = market(zeros, quarantine=Quarantine(QuarantineFile()))
    assert bound_producer(context).events
    context.toys["one"].fault = None
    Quarantine(QuarantineFile()).lift("one/quantize")
    context.quarantine.look()
    assert bound_producer(context).selection.kernels == ("one/quantize",)
