import pytest
import torch

from quantmux.errors import ConfigError, InputError, LaunchError
from quantmux.layers import shared as module
from quantmux.layers.linear import Linear
from quantmux.layers.shared import shared_input


def linear(scheme, n=24, k=32, seed=0, **kwargs):
    weight = torch.randn(n, k, generator=torch.Generator().manual_seed(seed))
    return Linear.from_float(weight, scheme, in_dtype="bf16", **kwargs)


def x(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7)).to(torch.bfloat16)


@pytest.fixture
def count(monkeypatch):
    calls = []

    def counting(*args, **kwargs):
        calls.append(args[1])
        return quantize(*args, **kwargs)

    quantize = module.quantize
    monkeypatch.setattr(module, "quantize", counting)
    return calls


@pytest.mark.parametrize("scheme", ["fp8_channel_token", "nvfp4_dynamic", "fp8_tensor"])
def test_quantizes_once_and_gives_what_each_gives_alone(scheme, count):
    layers = [linear(scheme, n, seed=n) for n in (24, 8, 9)]
    shared = shared_input(layers)
    assert shared.reasons(5) == ()
    for shape in ((5, 32), (2, 3, 32), (32,)):
        count.clear()
        outputs = shared(x(*shape))
        assert len(count) == 1
        for layer, y in zip(layers, outputs, strict=True):
            assert torch.equal(y, layer(x(*shape)))


def test_static_scales_that_are_equal_are_shared(count):
    layers = [linear("nvfp4", seed=i, input_global_scale=0.002) for i in range(2)]
    outputs = shared_input(layers)(x(5, 32))
    assert len(count) == 1
    for layer, y in zip(layers, outputs, strict=True):
        assert torch.equal(y, layer(x(5, 32)))


def test_static_scales_that_differ_are_the_reason_why_not(count):
    a = linear("fp8_tensor_static", input_scale=0.02, layer="q")
    b = linear("fp8_tensor_static", input_scale=0.03, layer="k")
    shared = shared_input([a, b])
    (reason,) = shared.reasons(5)
    assert "input_scale of k" in reason.field
    assert shared(x(5, 32))[1].equal(b(x(5, 32)))
    assert count == []


@pytest.mark.parametrize("place", [0, 1])
def test_a_static_scale_that_is_changed_in_place_is_the_reason_from_then_on(count, place):
    layers = [linear("fp8_tensor_static", seed=i, input_scale=0.02) for i in range(2)]
    shared = shared_input(layers)
    shared(x(5, 32))
    assert len(count) == 1
    layers[place].input_scale.mul_(0.05)
    for layer, y in zip(layers, shared(x(5, 32)), strict=True):
        assert torch.equal(y, layer(x(5, 32)))
    assert len(count) == 1
    (reason,) = shared.reasons(5)
    assert "input_scale" in reason.field
    layers[place].input_scale.fill_(layers[1 - place].input_scale.item())
    assert shared.reasons(5) == ()


def test_a_static_scale_that_is_replaced_is_compared_again():
    layers = [linear("fp8_tensor_static", seed=i, input_scale=0.02) for i in range(2)]
    shared = shared_input(layers)
    assert shared.reasons(5) == ()
    other = linear("fp8_tensor_static", seed=1, input_scale=0.03)
    layers[1].load_state_dict(other.state_dict(), assign=True)
    assert len(shared.reasons(5)) == 1


def test_static_scales_are_read_again_only_when_they_were_changed(monkeypatch):
    layers = [linear("fp8_tensor_static", seed=i, input_scale=0.02) for i in range(2)]
    shared = shared_input(layers)
    read = []
    equal = torch.equal
    monkeypatch.setattr(torch, "equal", lambda a, b: read.append(1) or equal(a, b))
    for _ in range(3):
        shared(x(5, 32))
    assert len(read) == 1
    layers[1].input_scale.mul_(1)
    for _ in range(3):
        shared(x(5, 32))
    assert len(read) == 2


def test_a_changed_static_scale_is_not_read_in_a_capture(monkeypatch):
    layers = [linear("fp8_tensor_static", seed=i, input_scale=0.02) for i in range(2)]
    shared = shared_input(layers)
    shared.warmup([5])
    monkeypatch.setattr(module, "is_capturing", lambda: True)
    assert shared.reasons(5) == ()
    layers[1].input_scale.fill_(0.5)
    with pytest.raises(LaunchError, match="static scales were changed") as caught:
        shared.reasons(5)
    assert caught.value.code == "not_warmed"
    monkeypatch.undo()
    assert len(shared.reasons(5)) == 1


def test_static_scales_without_a_version_are_taken_to_stay(count):
    with torch.inference_mode():
        layers = [linear("fp8_tensor_static", seed=i, input_scale=0.02) for i in range(2)]
        shared = shared_input(layers)
        for _ in range(2):
            for layer, y in zip(layers, shared(x(5, 32)), strict=True):
                assert torch.equal(y, layer(x(5, 32)))
    assert len(count) == 2


def test_different_operands_are_the_reason_why_not(count):
    layers = [linear("fp8_channel_token", layer="q"), linear("int8_channel_token", layer="k")]
    shared = shared_input(layers)
    assert any("element of k" in r.field for r in shared.reasons(5))
    for layer, y in zip(layers, shared(x(5, 32)), strict=True):
        assert torch.equal(y, layer(x(5, 32)))
    assert count == []


def test_weight_only_layers_have_nothing_to_share(count):
    shared = shared_input([linear("fp8_w8a16"), linear("fp8_w8a16")])
    assert shared.reasons(5)
    assert len(shared(x(5, 32))) == 2
    assert count == []


def test_a_quantized_x_is_handed_on():
    layers = [linear("fp8_channel_token", seed=i) for i in range(2)]
    shared = shared_input(layers)
    q = shared.quantize(x(5, 32))
    for layer, y in zip(layers, shared(q), strict=True):
        assert torch.equal(y, layer(x(5, 32)))


def test_what_cannot_share_is_refused():
    with pytest.raises(ConfigError, match="in_features"):
        shared_input([linear("fp8_tensor"), linear("fp8_tensor", k=48)])
    with pytest.raises(ConfigError, match="at least one"):
        shared_input([])


def test_wrong_inputs_are_refused_as_a_linear_does():
    shared = shared_input([linear("fp8_tensor"), linear("fp8_tensor", seed=2)])
    with pytest.raises(InputError):
        shared(x(5, 31))
    with pytest.raises(InputError, match="no_grad"):
        shared(x(5, 32).requires_grad_())
    with pytest.raises(InputError):
        shared(x(5, 32).float())


@pytest.mark.parametrize("given", [[1], None, 1.5])
def test_refuses_what_is_no_tensor(given):
    with pytest.raises(InputError, match="x needs to be a tensor"):
        shared_input([linear("fp8_tensor"), linear("fp8_tensor")])(given)


def test_refuses_what_is_no_quantized_linear():
    with pytest.raises(InputError, match="found Linear"):
        shared_input([linear("fp8_tensor"), torch.nn.Linear(32, 8)])
