"""The op that fuses a prologue into the model's own quantizer serves unfused where that fails."""

import pytest
import torch

from quantmux.capability.detect import HERE_CPU
from quantmux.config import QuantizeConfig
from quantmux.config.policy import Policy
from quantmux.errors import BuildError, LaunchError, ShapeError
from quantmux.ops.quantize.reference import quantize
from quantmux.ops.quantized import empty_quantized
from quantmux.ops.silu_mul_quantize.reference import silu_mul_quantize
from quantmux.runtime.binding import bind_producer
from quantmux.runtime.events import stats
from quantmux.runtime.traced import fused_calls, fused_quantize
from quantmux.runtime.traced.fused_quantize import quantize_key
from quantmux.runtime.traced.keys import keep_producer
from quantmux.runtime.traced.prologue import Prologue

SILU = Prologue("silu_mul", "bf16")
CONFIG = QuantizeConfig(operand="fp8_token", n=128)


@pytest.fixture
def calls(kit):
    return {
        "quantize": kit.producer("a/quantize", "fp8_token", ("row_major",)),
        "fused": kit.producer("a/fused", "fp8_token", ("row_major",), "silu_mul_quantize"),
    }


def program(context, **policy):
    selection = context.select(CONFIG, HERE_CPU, call_overrides=Policy(**policy))
    return keep_producer(bind_producer(selection, context=context), context)


def run(asked, x, how="functional", policy=None):
    key = quantize_key(SILU, asked.key, policy)
    if how == "functional":
        return torch.ops.quantmux.fused_quantize([x], None, None, key)
    out = empty_quantized(CONFIG.operand, CONFIG.layout, x.shape[0], CONFIG.n, "cpu")
    parts = list(out.tensors())
    torch.ops.quantmux.fused_quantize_out([x], None, None, parts, key)
    return parts


def same(parts, q):
    return all(
        torch.equal(a.view(torch.uint8), b.view(torch.uint8))
        for a, b in zip(parts, q.tensors(), strict=True)
    )


def unfused(x):
    return quantize(SILU.plain([x], "bf16"), CONFIG)


def unfused_events(stage):
    told = [e for e in stats()["events"] if e["taken"] == "the unfused pipeline"]
    return [(e["wanted"], e["count"]) for e in told if e["stage"] == stage]


HOW = pytest.mark.parametrize("how", ["functional", "out"])


@HOW
@pytest.mark.parametrize("m", [0, 1, 5])
def test_it_is_served_by_one_kernel(kit, calls, random, how, m):
    x = random(m, 256)
    got = run(program(kit.context()), x, how)
    assert same(got, silu_mul_quantize(x, SILU.producer(CONFIG)))
    assert len(calls["fused"].inputs) == 1
    assert calls["quantize"].inputs == []


@HOW
@pytest.mark.filterwarnings("ignore")
def test_a_producer_that_does_not_build_leaves_the_quantizer_as_it_was(
    kit, calls, random, how, caplog
):
    asked = program(kit.context())
    calls["fused"].binds = BuildError("it is broken")
    x = random(5, 256)
    for _ in range(3):
        assert same(run(asked, x, how), unfused(x))
    assert len(calls["quantize"].inputs) == 3
    assert unfused_events("build") == [("a/fused", 1)]
    assert "it is broken" in caplog.text


@HOW
@pytest.mark.filterwarnings("ignore")
def test_a_producer_that_fails_in_a_call_leaves_the_quantizer_as_it_was(
    kit, calls, random, how, caplog
):
    asked = program(kit.context())
    calls["fused"].fails = lambda _: RuntimeError("it broke")
    x = random(5, 256)
    for _ in range(3):
        assert same(run(asked, x, how), unfused(x))
    assert len(calls["fused"].inputs) == 1  # not tried again
    assert unfused_events("run") == [("a/fused", 1)]
    assert "it broke" in caplog.text


@pytest.mark.parametrize("stage", ["build", "run"])
@pytest.mark.filterwarnings("ignore")
def test_where_the_quantizers_policy_forbids_a_fallback_a_failure_is_raised(
    kit, calls, random, stage
):
    asked = program(kit.context(), fallback={stage: "error"})
    if stage == "build":
        calls["fused"].binds = BuildError("broken")
    else:
        calls["fused"].fails = lambda _: RuntimeError("broken")
    with pytest.raises(Exception, match="broken"):
        run(asked, random(5, 256))


def test_the_callers_mistake_is_no_failure_of_a_kernel(kit, calls, random):
    asked = program(kit.context())
    with pytest.raises(ShapeError):
        run(asked, random(5, 128))
    calls["fused"].inputs.clear()
    run(asked, random(5, 256))
    assert len(calls["fused"].inputs) == 1


def test_it_is_fused_at_the_rows_at_which_it_can_be(kit, random):
    kit.producer("a/few", "fp8_token", ("row_major",), m_max=16)
    many = kit.producer("b/many", "fp8_token", ("row_major",), m_min=17, is_reference=True)
    fused = kit.producer(
        "b/fused", "fp8_token", ("row_major",), "silu_mul_quantize", is_reference=True
    )
    asked = program(kit.context())
    few, more = random(16, 256), random(17, 256)
    assert same(run(asked, more), silu_mul_quantize(more, SILU.producer(CONFIG)))
    assert (len(fused.inputs), len(many.inputs)) == (1, 0)
    # a reference does not stand for the kernel that quantizes few rows
    assert same(run(asked, few), unfused(few))
    assert len(fused.inputs) == 1


@pytest.mark.filterwarnings("ignore")
def test_in_a_capture_nothing_is_bound_and_nothing_falls_back(kit, calls, random, monkeypatch):
    asked, x = program(kit.context()), random(5, 256)
    monkeypatch.setattr(fused_quantize, "is_capturing", lambda: True)
    with pytest.raises(LaunchError, match="not warmed up"):
        run(asked, x)
    monkeypatch.setattr(fused_quantize, "is_capturing", lambda: False)
    run(asked, x)
    assert len(calls["fused"].inputs) == 1
    monkeypatch.setattr(fused_calls, "is_capturing", lambda: True)
    calls["fused"].fails = lambda _: RuntimeError("broken")
    with pytest.raises(LaunchError, match="broken"):
        run(asked, x)
