import pytest
import torch
from torch import nn

from quantmux.errors import ConfigError, InputError
from quantmux.layers.calibrate import Calibration, calibrate
from quantmux.layers.quantize import quantize_


def test_sees_the_largest_input_of_every_linear(model, batches):
    found = calibrate(model, batches)
    assert set(found) == {"0.q", "0.k", "0.head", "2"}
    assert found.batches == 3
    largest = max(float(b.abs().max()) for b in batches)
    assert found["0.q"] == largest  # k's second use, behind a LayerNorm, stays below
    assert found["0.k"] == largest


def test_scales_follow_the_numerics(model, batches):
    found = calibrate(model, batches)
    amax = torch.tensor(found["0.q"])
    assert torch.equal(found.input_scale("0.q", "fp8_tensor_static"), (amax / 448).reshape(1))
    g = found.input_global_scale("0.q", "nvfp4")
    assert torch.equal(g, (amax / torch.tensor(2688.0)).reshape(1))
    assert found.input_scale("0.q", "nvfp4") is None
    assert found.scales("0.q", "fp8_tensor") == {}
    assert found.scales("0.q", "fp8_w8a16") == {}
    assert list(found.scales("0.q", "nvfp4")) == ["input_global_scale"]


def test_batches_are_tensors_tuples_or_mappings(model, batches):
    a = calibrate(model[0], [batches[0]])
    assert dict(calibrate(model[0], [(batches[0], False)])) == dict(a)
    assert dict(calibrate(model[0], [{"x": batches[0], "flip": False}])) == dict(a)
    with pytest.raises(InputError, match="str"):
        calibrate(model, ["abc"])


def test_the_model_is_as_before(model, batches):
    model.train()
    model[0].norm.eval()
    calibrate(model, batches)
    assert model.training
    assert not model[0].norm.training
    assert all(not m._forward_pre_hooks for m in model.modules())
    with pytest.raises(InputError):
        calibrate(model, ["abc"])
    assert model.training
    assert all(not m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_non_finite_input_is_an_error_with_the_name(model, batches, value):
    bad = batches[0].clone()
    bad[1, 2] = value
    with pytest.raises(InputError, match=r"0\.q"):
        calibrate(model, [*batches, bad, batches[0]])


def test_a_module_no_batch_reached_is_an_error(model, batches):
    lonely = nn.ModuleDict({"used": model[0], "never": nn.Linear(4, 4)})
    lonely.forward = lonely["used"].forward
    with pytest.raises(ConfigError, match="not reached") as caught:
        calibrate(lonely, batches)
    assert "never" in str(caught.value)
    assert set(calibrate(lonely, batches, include="used.*")) == {"used.q", "used.k", "used.head"}


def test_no_batch_and_no_linear_are_errors(model, batches):
    with pytest.raises(ConfigError, match="at least one batch"):
        calibrate(model, [])
    with pytest.raises(ConfigError, match="no linear"):
        calibrate(model, batches, include="nothing.*")
    with pytest.raises(ConfigError, match="no linear"):
        calibrate(model, batches, schemes="fp8_tensor")


def test_schemes_limit_what_is_watched(model, batches):
    found = calibrate(model, batches, schemes={"*.head": "nvfp4", "*": "fp8_tensor"})
    assert set(found) == {"0.head"}


def test_an_unseen_module_is_an_error_with_the_nearest_name(model, batches):
    found = calibrate(model, batches)
    with pytest.raises(ConfigError, match=r'did you mean "0\.head"'):
        found.input_scale("0.heat", "fp8_tensor_static")


def test_a_module_that_saw_only_zeros_has_no_scale():
    found = calibrate(nn.Sequential(nn.Linear(4, 4)), [torch.zeros(2, 4)])
    with pytest.raises(ConfigError, match="only zeros"):
        found.scales("0", "nvfp4")


@pytest.mark.parametrize("name", ["a.json", "a.safetensors"])
def test_goes_through_a_file_bit_for_bit(model, batches, tmp_path, name):
    found = calibrate(model, batches)
    file = tmp_path / name
    found.save(file)
    again = Calibration.load(file)
    assert dict(again) == dict(found)
    assert again.batches == 3
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert again.to_json() == found.to_json()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format": "other", "amax": {}, "batches": 1}',
     '{"format": "quantmux.calibration/1", "amax": {"a": -1.0}, "batches": 1}',
     '{"format": "quantmux.calibration/1", "amax": {"a": NaN}, "batches": 1}'],
)  # fmt: skip
def test_a_broken_file_is_refused(tmp_path, text):
    file = tmp_path / "a.json"
    file.write_text(text)
    with pytest.raises(ConfigError):
        Calibration.load(file)
    other = tmp_path / "a.safetensors"
    other.write_text(text)
    with pytest.raises(ConfigError):
        Calibration.load(other)
    with pytest.raises(ConfigError, match="cannot be read"):
        Calibration.load(tmp_path / "none.json")


def test_progress_counts_batches(model, batches):
    seen = []
    calibrate(model, batches, progress=seen.append)
    assert seen == [1, 2, 3]


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.out = nn.Linear(16, 8)

    def forward(self, x):
        return self.out(self.attention(x, x, x, need_weights=False)[0])


def encoder():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    # the head is reached, and the encoder's linears are not: its fast path reads their weights
    return nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Linear(16, 8))


@pytest.mark.parametrize(
    ("make", "want"), [(Attention, {"out"}), (encoder, {"1"})], ids=["attention", "encoder"]
)
def test_watches_what_quantize_would_swap(make, want):
    torch.manual_seed(0)
    model = make().eval()
    found = calibrate(model, [torch.randn(2, 3, 16)])
    assert set(found) == want
    report = quantize_(model, "nvfp4", calibration=found)
    assert {name for s in report.swapped for name in s.names} == want
    with torch.no_grad():
        assert model(torch.randn(2, 3, 16)).isfinite().all()


def test_an_explicit_include_may_name_what_quantize_would_skip():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[0].register_forward_hook(lambda *_: None)
    x = torch.ones(1, 8)
    assert set(calibrate(model, [x])) == {"1"}
    assert set(calibrate(model, [x], include="*")) == {"0", "1"}
    assert calibrate(model, [x], include="0")["0"] == 1
    # one that is named and not reached stops only where nothing else was
    attention = Attention()
    assert set(calibrate(attention, [torch.randn(1, 3, 16)], include="*out*")) == {"out"}
    with pytest.raises(ConfigError, match="1 of 1 linears were not reached"):
        calibrate(attention, [torch.randn(1, 3, 16)], include="attention.out_proj")


def test_says_why_no_linear_is_watched():
    with pytest.raises(ConfigError, match=r"out_proj: NonDynamicallyQuantizableLinear") as caught:
        calibrate(nn.MultiheadAttention(16, 2), [])
    assert "include=" in caught.value.hint


def test_a_second_name_of_a_linear_can_be_named(model, batches):
    found = calibrate(model, batches, include="*.again")
    assert set(found) == {"0.again"}
    report = quantize_(model, "nvfp4", include="*.again", calibration=found)
    assert [s.names for s in report.swapped] == [("0.again",)]


class ByKeyword(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 16)

    def forward(self, x):
        return self.linear(input=x)


def test_a_linear_called_by_keyword_is_seen_and_can_be_swapped():
    torch.manual_seed(0)
    model, x = ByKeyword(), torch.randn(4, 16)
    found = calibrate(model, [x])
    assert found["linear"] == float(x.abs().max())
    with torch.no_grad():
        before = model(x)
        quantize_(model, "fp8_tensor_static", calibration=found)
        assert float((model(x) - before).norm() / before.norm()) < 0.1


def test_a_linear_called_wrongly_raises_what_it_would_raise_alone():
    class Without(ByKeyword):
        def forward(self, x):
            return self.linear(wrong=x)

    with pytest.raises(TypeError, match="wrong"):
        calibrate(Without(), [torch.ones(1, 16)])
