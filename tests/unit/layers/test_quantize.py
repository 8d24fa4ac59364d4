import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from quantmux.errors import ConfigError
from quantmux.layers.calibrate import calibrate
from quantmux.layers.linear import Linear
from quantmux.layers.quantize import quantize_


def near(model, before, x, bound):
    with torch.no_grad():
        y = model(x)
    return float((y - before).norm() / before.norm()) < bound


def names(model):
    return sorted(
        n for n, m in model.named_modules(remove_duplicate=False) if isinstance(m, Linear)
    )


def test_swaps_every_linear_and_stays_near(model, batches):
    with torch.no_grad():
        before = model(batches[1])
    report = quantize_(model, "int8_channel_token")
    assert names(model) == ["0.again", "0.head", "0.k", "0.q", "2"]
    assert [s.names for s in report.swapped] == [("0.q",), ("0.k", "0.again"), ("0.head",), ("2",)]
    assert report.skipped == ()
    assert all(s.scheme == "int8_channel_token" and "torch/" in s.kernel for s in report.swapped)
    assert near(model, before, batches[1], 0.1)


def test_a_module_under_two_names_stays_one(model):
    quantize_(model, "fp8_tensor")
    assert model[0].k is model[0].again
    assert model[0].k.layer == "0.k"


def test_include_exclude_and_mappings_choose_by_name(model):
    report = quantize_(
        model, {"*.q": "fp8_tensor", "re:0\\.": "int8_channel_token"}, exclude=["*.head", "nobody"]
    )
    assert {s.names[0]: s.scheme for s in report.swapped} == {
        "0.q": "fp8_tensor",
        "0.k": "int8_channel_token",
    }
    assert {s.name: s.reason for s in report.skipped} == {
        "0.head": "excluded by *.head",
        "2": "no pattern of scheme fits",
    }
    assert report.unmatched == ("nobody",)
    assert isinstance(model[0].head, nn.Linear)


def test_include_takes_only_what_it_names(model):
    report = quantize_(model, "fp8_tensor", include="*.q")
    assert names(model) == ["0.q"]
    assert {s.reason for s in report.skipped} == {"no pattern of include fits"}


@pytest.mark.parametrize(
    ("scheme", "options"),
    [("fp8_tensor", {"include": "*.qq"}), ({"0.qq": "fp8_tensor"}, {})],
)
def test_a_pattern_that_fits_nothing_is_refused_with_the_nearest_name(model, scheme, options):
    with pytest.raises(ConfigError, match=r"did you mean|fits no linear"):
        quantize_(model, scheme, **options)
    assert names(model) == []


@pytest.mark.parametrize("scheme", ["nvfp4", "fp8_tensor_static"])
def test_static_schemes_need_a_calibration(model, batches, scheme):
    with pytest.raises(ConfigError, match=r"quantmux\.calibrate") as caught:
        quantize_(model, scheme)
    assert caught.value.code == "calibration"
    assert names(model) == []
    calibration = calibrate(model, batches)
    with torch.no_grad():
        before = model(batches[2])
    report = quantize_(model, scheme, calibration=calibration)
    assert {s.scheme for s in report.swapped} == {scheme}
    assert near(model, before, batches[2], 0.35)


def test_nothing_is_swapped_if_one_layer_fails(model):
    with torch.no_grad():
        model[2].weight[0, 0] = float("nan")
    with pytest.raises(ConfigError, match="1 of 4") as caught:
        quantize_(model, "fp8_tensor")
    assert "2: a weight to quantize holds NaN or Inf" in str(caught.value)
    assert names(model) == []


def test_one_module_asked_in_two_schemes_is_refused(model):
    with pytest.raises(ConfigError, match="one module"):
        quantize_(model, {"*.again": "fp8_tensor", "*": "int8_channel_token"})
    assert names(model) == []


def test_what_reads_weights_itself_is_skipped_with_the_reason():
    model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    report = quantize_(nn.ModuleDict({"a": model, "b": nn.Linear(16, 16)}), "fp8_tensor")
    assert [s.names for s in report.swapped] == [("b",)]
    reasons = {s.name: s.reason for s in report.skipped}
    assert "reads the weights" in reasons["a.linear1"]
    assert "subclass of nn.Linear" in reasons["a.self_attn.out_proj"]
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 16)).shape == (1, 3, 16)


def test_meta_weights_and_other_dtypes_are_skipped_with_the_reason():
    model = nn.ModuleDict({
        "meta": nn.Linear(16, 16, device="meta"), "wide": nn.Linear(16, 16).double()
    })  # fmt: skip
    report = quantize_(model, "fp8_tensor")
    assert report.swapped == ()
    reasons = {s.name: s.reason for s in report.skipped}
    assert "meta" in reasons["meta"]
    assert "float64" in reasons["wide"]


def test_a_bare_linear_has_no_place_to_be_swapped_in():
    with pytest.raises(ConfigError, match="from_float"):
        quantize_(nn.Linear(4, 4), "fp8_tensor")


def test_the_report_and_the_progress_name_every_layer(model):
    seen = []
    report = quantize_(model, "fp8_tensor", exclude="2", progress=seen.append)
    assert seen == ["0.q", "0.k", "0.head"]
    text = str(report)
    assert "0.k = 0.again" in text
    assert "2  skipped: excluded by 2" in text
    assert report.to_dict()["swapped"][0]["names"] == ("0.q",)


def test_a_policy_reaches_the_layers_with_their_names(model):
    rule = {"layer": "0.q", "force": "torch/linear_reference"}
    quantize_(model, "fp8_tensor", policy={"rules": [rule]})
    assert model[0].q.selection.kernels[-1] == "torch/linear_reference"
    assert model[0].k.selection.kernels[-1] != "torch/linear_reference"


def test_a_quantized_model_saves_and_loads_its_state(model, batches):
    import copy

    float_model = copy.deepcopy(model)
    quantize_(model, "fp8_channel_token")
    with torch.no_grad():
        want = model(batches[1])
        for p in float_model.parameters():
            p.mul_(0.5)
    quantize_(float_model, "fp8_channel_token")
    float_model.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(float_model(batches[1]), want)


def weight_norm(linear):
    with pytest.warns(FutureWarning, match="weight_norm"):
        return nn.utils.weight_norm(linear)


def prune_bias(linear):
    return prune.random_unstructured(linear, "bias", 0.5)


def prune_weight(linear):
    return prune.l1_unstructured(linear, "weight", 0.5)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (weight_norm, "weight"),
        (nn.utils.spectral_norm, "weight"),
        (prune_weight, "weight"),
        (prune_bias, "bias"),
        (nn.utils.parametrizations.weight_norm, "weight"),
        (nn.utils.parametrizations.orthogonal, "weight"),
    ],
)
def test_a_linear_whose_tensors_are_computed_is_skipped(change, what):
    torch.manual_seed(0)
    model = nn.Sequential(change(nn.Linear(16, 16)), nn.Linear(16, 8)).eval()
    before = model[0]
    report = quantize_(model, "fp8_channel_token")
    assert [s.names for s in report.swapped] == [("1",)]
    assert report.skipped[0].name == "0"
    assert f"its {what} is computed from other parameters" in report.skipped[0].reason
    assert model[0] is before


@pytest.mark.parametrize(
    ("register", "what"),
    [
        ("register_forward_hook", "a forward hook"),
        ("register_forward_pre_hook", "a forward pre-hook"),
        ("register_full_backward_hook", "a backward hook"),
        ("register_full_backward_pre_hook", "a backward pre-hook"),
    ],
)
def test_a_linear_with_hooks_is_skipped_and_keeps_them(register, what):
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 8))
    handle = getattr(model[0], register)(lambda *_: None)
    report = quantize_(model, "fp8_tensor")
    assert names(model) == ["1"]
    assert what in report.skipped[0].reason
    handle.remove()
    assert quantize_(model, "fp8_tensor").skipped == ()
    assert names(model) == ["0", "1"]


def test_a_linear_whose_forward_was_replaced_is_skipped():
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 8))
    model[0].forward = lambda x: x
    report = quantize_(model, "fp8_tensor")
    assert names(model) == ["1"]
    assert "its forward was replaced" in report.skipped[0].reason
