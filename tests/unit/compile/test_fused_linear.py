"""The op gives what its linears give one by one, and serves them so where a kernel fails."""

import gc
import weakref

import pytest
import torch

from quantmux.config.policy import Policy
from quantmux.errors import BuildError, LaunchError, ShapeError
from quantmux.ops.linear.reference import linear as reference_linear
from quantmux.ops.quantized import QuantizedTensor
from quantmux.ops.rmsnorm_quantize.reference import rmsnorm_quantize
from quantmux.ops.silu_mul_quantize.reference import silu_mul_quantize
from quantmux.runtime.traced.fused import Recipe
from quantmux.runtime.traced.linear import expose
from quantmux.runtime.traced.prologue import Prologue

SCHEME = "fp8_channel_token"
NONE = Prologue("none", "bf16")
SILU = Prologue("silu_mul", "bf16")
NORM = Prologue("rmsnorm", "bf16", norm_eps=1e-5)


def fused(prologue, layers, inputs, policy=None):
    exposed = [expose(layer.bind(), layer.context, layer.layer) for layer in layers]
    key = Recipe(prologue, tuple(k for k, _ in exposed), policy).key()
    weights = [w for _, some in exposed for w in some]
    return torch.ops.quantmux.fused_linear(list(inputs), weights, key)


def token(kit, op=None):
    calls = {
        "linear": kit.consumer("a/linear", SCHEME, ("row_major",)),
        "quantize": kit.producer("a/quantize", "fp8_token", ("row_major",)),
    }
    if op is not None:
        calls["fused"] = kit.producer("a/fused", "fp8_token", ("row_major",), op)
    return calls


@pytest.mark.parametrize("m", [0, 1, 5, 300])
def test_shares_one_quantized_x(kit, layer, random, m):
    calls = token(kit)
    context = kit.context()
    layers = [layer(context, SCHEME, n, seed=n) for n in (24, 8, 9)]
    x = random(m, 128)
    want = [one(x) for one in layers]
    calls["quantize"].inputs.clear()
    got = fused(NONE, layers, [x])
    assert len(calls["quantize"].inputs) == 1
    for y, z in zip(got, want, strict=True):
        assert torch.equal(y, z)
        assert y.stride() == z.stride()
        assert y.dtype == z.dtype


@pytest.mark.parametrize("m", [0, 1, 5])
def test_silu_mul_is_quantized_by_one_kernel(kit, layer, random, m):
    calls = token(kit, "silu_mul_quantize")
    one = layer(kit.context(), SCHEME)
    x = random(m, 256)
    (y,) = fused(SILU, [one], [x])
    assert len(calls["fused"].inputs) == 1
    assert calls["quantize"].inputs == []
    config = SILU.producer(one.input_layout(5))
    q = silu_mul_quantize(x, config)
    assert torch.equal(y, reference_linear(q, one.weights, one.config))


def test_a_norm_is_quantized_once_for_several_linears(kit, layer, random):
    calls = token(kit, "rmsnorm_quantize")
    context = kit.context()
    layers = [layer(context, SCHEME, n, seed=n) for n in (24, 8)]
    x, weight = random(5, 128), random(128, seed=3)
    got = fused(NORM, layers, [x, weight])
    assert len(calls["fused"].inputs) == 1
    q = rmsnorm_quantize(x, weight, NORM.producer(layers[0].input_layout(5)))
    for y, one in zip(got, layers, strict=True):
        assert torch.equal(y, reference_linear(q, one.weights, one.config))


def test_static_scales_come_from_the_weights(kit, layer, random):
    kit.consumer("a/linear", "fp8_tensor_static", ("scalar",))
    kit.producer("a/quantize", "fp8_tensor_static", ("scalar",))
    kit.producer("a/fused", "fp8_tensor_static", ("scalar",), "silu_mul_quantize")
    one = layer(kit.context(), "fp8_tensor_static", input_scale=0.25)
    x = random(5, 256)
    (y,) = fused(SILU, [one], [x])
    scale = torch.tensor([0.25])
    q = silu_mul_quantize(x, SILU.producer(one.input_layout(5)), scale=scale)
    assert torch.equal(y, reference_linear(q, one.weights, one.config))


@pytest.mark.parametrize(("second", "count"), [(0.25, 1), (0.5, 2)])
def test_static_scales_that_differ_are_not_shared(kit, layer, random, second, count):
    kit.consumer("a/linear", "fp8_tensor_static", ("scalar",))
    calls = kit.producer("a/quantize", "fp8_tensor_static", ("scalar",))
    context = kit.context()
    layers = [layer(context, "fp8_tensor_static", input_scale=scale) for scale in (0.25, second)]
    x = random(5, 128)
    want = [one(x) for one in layers]
    calls.inputs.clear()
    got = fused(NONE, layers, [x])
    assert len(calls.inputs) == count
    assert all(torch.equal(y, z) for y, z in zip(got, want, strict=True))


@pytest.fixture
def static(kit, layer):
    """Give the calls of a producer and linears with these static scales of x."""
    kit.consumer("a/linear", "fp8_tensor_static", ("scalar",))
    calls = kit.producer("a/quantize", "fp8_tensor_static", ("scalar",))
    context = kit.context()

    def make(*scales):
        return calls, [
            layer(context, "fp8_tensor_static", seed=i, input_scale=scale)
            for i, scale in enumerate(scales)
        ]

    return make


def serves(layers, x, calls):
    """Tell how often the producer was called for all, and whether each is what it is alone."""
    calls.inputs.clear()
    got = fused(NONE, layers, [x])
    count = len(calls.inputs)
    return count, all(torch.equal(y, one(x)) for y, one in zip(got, layers, strict=True))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_static_scale_that_is_changed_in_place_is_used_from_the_next_call_on(
    static, random, place
):
    calls, layers = static(0.25, 0.25, 0.25)
    x = random(5, 128)
    assert serves(layers, x, calls) == (1, True)
    layers[place].input_scale.mul_(2)
    assert serves(layers, x, calls) == (2, True)
    assert serves(layers, x, calls) == (2, True)
    layers[place].input_scale.fill_(0.25)
    assert serves(layers, x, calls) == (1, True)


def test_static_scales_that_are_changed_alike_stay_shared(static, random):
    calls, layers = static(0.25, 0.25)
    x = random(5, 128)
    assert serves(layers, x, calls) == (1, True)
    for one in layers:
        one.input_scale.fill_(0.5)
    assert serves(layers, x, calls) == (1, True)


def test_static_scales_are_read_again_only_when_they_were_changed(static, random, monkeypatch):
    from quantmux.runtime.traced import fused_calls

    calls, layers = static(0.25, 0.25)
    read = []
    is_equal = fused_calls._is_equal
    monkeypatch.setattr(fused_calls, "_is_equal", lambda a, b: read.append(1) or is_equal(a, b))
    for _ in range(3):
        serves(layers, random(5, 128), calls)
    assert len(read) == 1
    layers[1].input_scale.fill_(0.5)
    for _ in range(3):
        serves(layers, random(5, 128), calls)
    assert len(read) == 2


def test_a_changed_static_scale_is_not_read_in_a_capture(static, random, monkeypatch):
    from quantmux.runtime.traced import fused_calls

    calls, layers = static(0.25, 0.25)
    x = random(5, 128)
    serves(layers, x, calls)
    layers[1].input_scale.fill_(0.5)
    monkeypatch.setattr(fused_calls, "is_capturing", lambda: True)
    with pytest.raises(LaunchError, match="changed in place") as caught:
        fused(NONE, layers, [x])
    assert caught.value.code == "not_warmed"
    monkeypatch.undo()
    assert serves(layers, x, calls) == (2, True)
    monkeypatch.setattr(fused_calls, "is_capturing", lambda: True)
    assert serves(layers, x, calls) == (2, True)


def test_static_scales_without_a_version_are_taken_to_stay(static, random):
    with torch.inference_mode():
        calls, layers = static(0.25, 0.25)
        assert layers[0].input_scale.is_inference()
        x = random(5, 128)
        assert [serves(layers, x, calls) for _ in range(2)] == [(1, True)] * 2


def test_rows_outside_are_refused_as_a_linear_does(kit, layer, random):
    kit.consumer("a/linear", SCHEME, ("row_major",), m_max=8)
    kit.producer("a/quantize", "fp8_token", ("row_major",))
    context = kit.context()
    layers = [layer(context, SCHEME, n) for n in (24, 8)]
    with pytest.raises(ShapeError, match="outside what was selected"):
        fused(NONE, layers, [random(9, 128)])


@pytest.mark.filterwarnings("ignore")
def test_a_consumer_that_fails_is_replaced_and_the_op_goes_on(kit, layer, random, caplog):
    calls = token(kit)
    other = kit.consumer("b/linear", SCHEME, ("row_major",))
    context = kit.context()
    layers = [layer(context, SCHEME, n, seed=n) for n in (24, 8)]
    x = random(5, 128)
    want = [one(x) for one in layers]
    calls["linear"].fails = lambda _: RuntimeError("broken")
    for _ in range(2):
        got = fused(NONE, layers, [x])
        assert all(torch.equal(y, z) for y, z in zip(got, want, strict=True))
    tried = len(calls["linear"].inputs)
    calls["quantize"].inputs.clear()
    other.inputs.clear()
    got = fused(NONE, layers, [x])
    assert len(calls["linear"].inputs) == tried  # what failed is not tried again
    assert len(calls["quantize"].inputs) == 1  # and what came reads the shared x
    assert all(isinstance(q, QuantizedTensor) for q in other.inputs)
    assert "broken" in caplog.text


@pytest.mark.filterwarnings("ignore")
def test_a_consumer_that_reads_something_else_after_a_fallback_gets_a_plain_x(kit, layer, random):
    calls = token(kit, "silu_mul_quantize")
    other = kit.consumer("b/plain", SCHEME, None, inside=True)
    one = layer(kit.context(), SCHEME)
    x = random(5, 256)
    (want,) = fused(SILU, [one], [x])
    calls["linear"].fails = lambda _: RuntimeError("broken")
    for _ in range(2):
        (got,) = fused(SILU, [one], [x])
        # the product is rounded to bf16 on the way: not the same bits
        torch.testing.assert_close(got, want, rtol=0.05, atol=0.05 * float(want.abs().max()))
    assert other.inputs
    assert all(isinstance(one, torch.Tensor) for one in other.inputs)


@pytest.mark.filterwarnings("ignore")
def test_a_consumer_that_fails_once_is_fed_plainly_from_then_on(kit, layer, random, caplog):
    calls = token(kit, "silu_mul_quantize")
    one = layer(kit.context(), SCHEME)
    x = random(5, 256)
    fused(SILU, [one], [x])
    errors = [RuntimeError("broken for once")]
    calls["linear"].fails = lambda _: errors.pop() if errors else None
    for _ in range(3):
        (got,) = fused(SILU, [one], [x])
        assert torch.equal(got, one(SILU.plain([x], "bf16")))
    assert "broken for once" in caplog.text


@pytest.mark.filterwarnings("ignore")
def test_a_producer_that_fails_leaves_the_linears_as_they_were(kit, layer, random, caplog):
    calls = token(kit, "silu_mul_quantize")
    one = layer(kit.context(), SCHEME)
    x = random(5, 256)
    plain = SILU.plain([x], "bf16")
    calls["fused"].fails = lambda _: RuntimeError("broken")
    for _ in range(3):
        (got,) = fused(SILU, [one], [x])
        assert torch.equal(got, one(plain))
    assert len(calls["fused"].inputs) == 1  # not tried again
    assert "broken" in caplog.text


def test_where_the_policy_forbids_a_fallback_a_failure_is_raised(kit, layer, random):
    calls = token(kit, "silu_mul_quantize")
    one = layer(kit.context(fallback={"run": "error"}), SCHEME)
    calls["fused"].fails = lambda _: RuntimeError("broken")
    with pytest.raises(Exception, match="broken"):
        fused(SILU, [one], [random(5, 256)])


def test_the_callers_mistake_is_no_failure_of_a_kernel(kit, layer, random):
    calls = token(kit, "silu_mul_quantize")
    one = layer(kit.context(), SCHEME)
    with pytest.raises(ShapeError):
        fused(SILU, [one], [random(5, 128)])
    calls["fused"].inputs.clear()
    fused(SILU, [one], [random(5, 256)])
    assert len(calls["fused"].inputs) == 1


@pytest.mark.filterwarnings("ignore")
def test_a_traded_consumer_is_fed_and_the_selected_one_serves_when_it_fails(kit, layer, random):
    inside = kit.consumer("a/inside", SCHEME, None, inside=True)
    traded = kit.consumer("b/linear", SCHEME, ("row_major",))
    kit.producer("b/quantize", "fp8_token", ("row_major",))
    kit.producer("b/fused", "fp8_token", ("row_major",), "silu_mul_quantize")
    one = layer(kit.context(), SCHEME)
    x = random(5, 256)
    (y,) = fused(SILU, [one], [x])
    assert len(traded.inputs) == 1
    assert inside.inputs == []
    q = silu_mul_quantize(x, SILU.producer(traded.inputs[0] and _reads(one)))
    assert torch.equal(y, reference_linear(q, one.weights, one.config))
    traded.fails = lambda _: RuntimeError("broken")
    for _ in range(2):
        (got,) = fused(SILU, [one], [x])
        assert torch.equal(got, one(SILU.plain([x], "bf16")))
    assert len(traded.inputs) == 2  # not tried again


def _reads(one):
    from quantmux.runtime.traced.legality import reads_of

    (choice,) = one.selection.ranges
    return next(r for r in map(reads_of, choice.candidates) if r is not None)


def test_what_is_not_bound_yet_is_not_bound_in_a_capture(kit, layer, random, monkeypatch):
    from quantmux.runtime.traced import fused_calls

    calls = token(kit)
    context = kit.context()
    layers = [layer(context, SCHEME, n) for n in (24, 8)]
    monkeypatch.setattr(fused_calls, "is_capturing", lambda: True)
    with pytest.raises(LaunchError, match="M = 5 while a CUDA graph is captured") as caught:
        fused(NONE, layers, [random(5, 128)])
    assert caught.value.code == "not_warmed"
    monkeypatch.undo()
    fused(NONE, layers, [random(5, 128)])
    monkeypatch.setattr(fused_calls, "is_capturing", lambda: True)
    calls["quantize"].inputs.clear()
    fused(NONE, layers, [random(5, 128)])  # it is bound now
    assert len(calls["quantize"].inputs) == 1


def test_a_failure_in_a_capture_is_raised(kit, layer, random, monkeypatch):
    from quantmux.runtime.traced import fused_calls

    calls = token(kit, "silu_mul_quantize")
    one = layer(kit.context(), SCHEME)
    x = random(5, 256)
    fused(SILU, [one], [x])
    monkeypatch.setattr(fused_calls, "is_capturing", lambda: True)
    calls["fused"].fails = lambda _: RuntimeError("broken")
    with pytest.raises(LaunchError):
        fused(SILU, [one], [x])


def test_kernels_are_warmed_up_when_a_range_is_first_met(kit, layer, random):
    token(kit, "silu_mul_quantize")
    warmed = []
    kit.module.a_fused.warmup = lambda config, ms: warmed.append((config.op, tuple(ms)))
    fused(SILU, [layer(kit.context(), SCHEME)], [random(5, 256)])
    assert warmed == [("silu_mul_quantize", (1, 16, 64, 256, 1024, 4096))]


def test_layers_of_one_key_keep_their_own_weights(kit, layer, random):
    token(kit)
    context = kit.context()
    a = [layer(context, SCHEME, 24, seed=i) for i in (1, 2)]
    b = [layer(context, SCHEME, 24, seed=i) for i in (3, 4)]
    x = random(5, 128)
    for layers in (a, b, a[::-1]):
        got = fused(NONE, layers, [x])
        assert all(torch.equal(y, one(x)) for y, one in zip(got, layers, strict=True))


@pytest.mark.parametrize("groups", [("ab",), ("ab", "ba"), ("aa",), ("aab", "ba", "b")])
def test_what_was_worked_out_goes_with_the_layers(kit, layer, random, groups):
    token(kit)
    context = kit.context()
    layers = {name: layer(context, SCHEME, n) for name, n in (("a", 24), ("b", 8))}
    for group in groups:
        fused(NONE, [layers[name] for name in group], [random(5, 128)])
    gone = []
    for one in layers.values():
        store = one.bind().store
        weights = [t for form in store.forms.values() for t in form.tensors.values()]
        gone += [weakref.ref(held) for held in (one.bind(), store, *weights)]
    del layers, one, store, weights
    gc.collect()
    assert [ref() for ref in gone] == [None] * len(gone)


def test_rows_lie_as_the_graph_was_told_whichever_kernel_serves(kit, layer, random):
    kit.consumer("a/small", SCHEME, ("row_major",), m_max=8, output_row_multiple=1)
    kit.consumer("b/large", SCHEME, ("row_major",), m_min=9, output_row_multiple=8)
    kit.producer("a/quantize", "fp8_token", ("row_major",))
    context = kit.context()
    layers = [layer(context, SCHEME, 9, seed=n) for n in (1, 2)]
    strides = {y.stride(0) for m in (3, 20) for y in fused(NONE, layers, [random(m, 128)])}
    assert len(strides) == 1


def test_outputs_are_no_views_of_inputs_or_of_each_other(kit, layer, random):
    token(kit)
    one = layer(kit.context(), SCHEME, 128)
    x = random(5, 128)
    got = fused(NONE, [one, one], [x])
    places = {t.untyped_storage().data_ptr() for t in (x, *got)}
    assert len(places) == 3


def test_the_policy_travels_in_the_key(kit, layer, random):
    calls = token(kit)
    other = kit.producer("b/quantize", "fp8_token", ("row_major",))
    context = kit.context()
    layers = [layer(context, SCHEME, n) for n in (24, 8)]
    fused(NONE, layers, [random(5, 128)], Policy(deny=("a/quantize",)))
    assert calls["quantize"].inputs == []
    assert len(other.inputs) == 1


def test_a_key_whose_linears_nobody_bound_says_so():
    key = Recipe(NONE, ("nothing", "bound"), None).key()
    with pytest.raises(BuildError, match="nothing is bound so in this process"):
        torch.ops.quantmux.fused_linear([torch.ones(1, 4)], [torch.ones(1)], key)


@pytest.mark.parametrize("prologue", [NONE, SILU, NORM], ids=["none", "silu_mul", "rmsnorm"])
def test_passes_opcheck(kit, layer, random, prologue):
    token(kit, prologue.op if prologue.kind != "none" else None)
    context = kit.context()
    layers = [layer(context, SCHEME, n, seed=n) for n in (24, 9)]
    exposed = [expose(one.bind(), one.context, one.layer) for one in layers]
    key = Recipe(prologue, tuple(k for k, _ in exposed), None).key()
    weights = [w for _, some in exposed for w in some]
    inputs = [random(5, prologue.width(128))]
    if prologue.kind == "rmsnorm":
        inputs.append(random(128, seed=2))
    op = torch.ops.quantmux.fused_linear.default
    result = torch.library.opcheck(op, (inputs, weights, key))
    assert set(result.values()) == {"SUCCESS"}
