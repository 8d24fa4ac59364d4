import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import quantmux_torch.plugin
from quantmux.config.policy_context import use_policy
from quantmux.registry.default import set_default_registry
from quantmux.registry.manager import Registry


@pytest.mark.parametrize(
    "scheme",
    [
        "fp8_block128",
        "fp8_channel_token",
        "fp8_tensor",
        "nvfp4",
        "nvfp4_w4a16",
        "int8_channel_token",
    ],
)
def test_every_layer_agrees_with_its_reference(cli, quantized, scheme):
    answer = cli("run", quantized(scheme), "--tokens", "1,5", "--device", "cpu", "--json")
    data = answer.json
    assert answer.code == 0, answer.err
    assert data["ok"] is True
    assert data["device"] == "cpu"
    assert len(data["layers"]) == 12
    for row in data["layers"]:
        assert set(row) >= {
            "name",
            "n",
            "k",
            "m",
            "scheme",
            "pipeline",
            "tier",
            "rel_error",
            "tolerance",
            "scheme_distance",
            "us",
            "fallbacks",
        }
        assert row["scheme"] == scheme
        assert 0 < row["rel_error"] <= row["tolerance"] < 0.05
        assert row["scheme_distance"] == 0.0
        assert row["us"] > 0
        assert row["fallbacks"] == []


def test_no_rows_at_all_is_legal(cli, quantized):
    data = cli("run", quantized("nvfp4"), "--tokens", "0", "--device", "cpu", "--json").json
    assert data["ok"] is True
    assert {row["rel_error"] for row in data["layers"]} == {0.0}


def test_the_same_seed_gives_the_same_errors(cli, quantized):
    def errors(seed):
        args = ("--tokens", "3", "--device", "cpu", "--seed", seed, "--json")
        rows = cli("run", quantized("fp8_tensor"), *args).json["layers"]
        return [row["rel_error"] for row in rows]

    assert errors(1) == errors(1)
    assert errors(1) != errors(2)


def test_layers_and_force_narrow_it(cli, quantized):
    args = ("--layers", "*.down_proj", "--force-kernel", "torch/linear_reference")
    data = cli("run", quantized("nvfp4"), *args, "--device", "cpu", "--tokens", "2", "--json").json
    assert [row["name"].rpartition(".")[2] for row in data["layers"]] == ["down_proj"] * 2
    assert {row["tier"] for row in data["layers"]} == {"reference"}
    assert {tuple(row["pipeline"]) for row in data["layers"]} == {
        ("torch/quantize", "torch/linear_reference")
    }


def test_many_layers_are_summarised_by_groups(cli, quantized, monkeypatch):
    monkeypatch.setattr("quantmux.cli._run_view._MANY", 4)
    args = ("run", quantized("nvfp4"), "--tokens", "2", "--device", "cpu")
    short, full = cli(*args).out, cli(*args, "--all").out
    assert "(2)" in short
    assert "model.layers.*" in short
    assert "model.layers.1" not in short
    assert "model.layers.1" in full
    assert "6 layers of nvfp4, 6 runs: all within tolerance" in short
    assert max(len(line) for line in full.splitlines()) <= 100


@pytest.fixture
def use(acme):
    """Put a backend beside torch whose kernel is the class of that name in acme.py."""

    def put(kernel, scheme, *, reads_plain):
        made = acme.plugin(getattr(acme, kernel)(), scheme, reads_plain=reads_plain)
        set_default_registry(Registry.of({"torch": quantmux_torch.plugin, "acme": made}))

    return put


def run_one(cli, checkpoint, *flags):
    args = ("--tokens", "4", "--device", "cpu", "--layers", "*.0.mlp.down_proj")
    return cli("run", checkpoint, *args, *flags)


def test_weight_only_is_judged_by_its_own_reference(cli, quantized, use):
    use("WeightOnly", "nvfp4", reads_plain=True)
    answer = run_one(cli, quantized("nvfp4"), "--force-kernel", "acme", "--json")
    (row,) = answer.json["layers"]
    assert answer.code == 0, answer.err
    assert row["tier"] == "weight_only"
    assert row["pipeline"] == ["acme/gemm"]
    assert row["rel_error"] <= row["tolerance"]
    # quantizing x to NVFP4 costs some percent: far more than rounding, far less than nonsense
    assert 0.02 < row["scheme_distance"] < 0.3
    assert "activations stay in bf16" in answer.err
    assert "from scheme" in run_one(cli, quantized("nvfp4"), "--force-kernel", "acme").out


def test_a_wrong_kernel_is_found_and_exit_1(cli, quantized, use):
    use("Wrong", "nvfp4", reads_plain=False)
    with use_policy(self_check="never"):
        answer = run_one(cli, quantized("nvfp4"), "--json")
        shown = run_one(cli, quantized("nvfp4")).out
    (row,) = answer.json["layers"]
    assert answer.code == 1
    assert answer.json["ok"] is False
    assert row["pipeline"] == ["torch/quantize", "acme/gemm"]
    assert row["rel_error"] == pytest.approx(0.1, rel=0.1)
    assert row["ok"] is False
    assert "out of tolerance" in answer.err
    assert "model.layers.0.mlp.down_proj at M = 4" in answer.err
    assert "wrong" in shown


def test_a_wrong_kernel_does_not_get_past_the_self_check(cli, quantized, use):
    use("Wrong", "nvfp4", reads_plain=False)
    answer = run_one(cli, quantized("nvfp4"), "--json")
    (row,) = answer.json["layers"]
    assert answer.code == 0, answer.err
    assert row["pipeline"] == ["torch/quantize", "torch/linear_emulated"]
    assert "acme/gemm failed its self-check: relative error 0.1" in row["fallbacks"][0]["reason"]
    # the next command knows of it, and does not fall back anew
    (row,) = run_one(cli, quantized("nvfp4"), "--json").json["layers"]
    assert row["pipeline"] == ["torch/quantize", "torch/linear_emulated"]
    assert row["fallbacks"] == []


def test_a_kernel_that_does_not_build_is_a_counted_fallback(cli, quantized, use):
    use("Unbuildable", "nvfp4", reads_plain=False)
    answer = run_one(cli, quantized("nvfp4"), "--json")
    (row,) = answer.json["layers"]
    assert answer.code == 0, answer.err
    assert row["pipeline"][-1].startswith("torch/")
    (event,) = row["fallbacks"]
    assert event["stage"] == "build"
    assert "no compiler here" in event["reason"]
    assert "warning: " in answer.err
    assert "no compiler here" in answer.err


def damage(checkpoint, out, change):
    """Copy a checkpoint with its tensors changed."""
    with safe_open(checkpoint / "model.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(tensors)
    out.mkdir()
    save_file(tensors, out / "model.safetensors")
    (out / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    return out


@pytest.mark.parametrize("value", [float("nan"), 0.0, -1.0, float("inf")])
def test_a_broken_scale_is_an_error_naming_the_layer(cli, quantized, tmp_path, value):
    name = "model.layers.1.self_attn.q_proj.weight_scale_inv"

    def change(tensors):
        tensors[name][0, 0] = value

    broken = damage(quantized("fp8_block128"), tmp_path / "broken", change)
    answer = cli("run", broken, "--tokens", "1", "--device", "cpu", "--json")
    assert answer.code == 1
    assert answer.json["ok"] is False
    (failed,) = answer.json["failed"]
    assert failed["name"] == "model.layers.1.self_attn.q_proj"
    assert failed["error"]["code"] == "scale_value"
    assert len(answer.json["layers"]) == 5
    assert name in answer.err


def test_a_missing_scale_is_an_error_naming_the_layer(cli, quantized, tmp_path):
    def change(tensors):
        del tensors["model.layers.1.self_attn.q_proj.weight_scale_inv"]

    broken = damage(quantized("fp8_block128"), tmp_path / "broken", change)
    answer = cli("run", broken, "--tokens", "1", "--device", "cpu", "--json")
    assert answer.code == 1
    assert "model.layers.1.self_attn.q_proj" in answer.json["error"]["message"]


def test_a_force_that_fits_no_layer_is_told_once(cli, quantized):
    answer = cli(
        "run", quantized("nvfp4"), "--tokens", "1", "--device", "cpu", "--json",
        "--force-kernel", "torch/linear_int_mm_cpu",
    )  # fmt: skip
    assert answer.code == 1
    assert answer.json["layers"] == []
    assert len(answer.json["failed"]) == 6
    assert {f["error"]["code"] for f in answer.json["failed"]} == {"forced_kernel"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--tokens", "x"), "--tokens is a list"),
        (("--tokens", ""), "--tokens is a list"),
        (("--tokens", "-1"), "--tokens is a list"),
        (("--layers", "*.nope"), "no quantized linear fits"),
        (("--layers", "re:("), "regular expression"),
        (("--device", "b200"), "needs a device that is here"),
        (("--device", "cuda:99"), "there is no device"),
    ],
)
def test_refuses_a_wrong_request(cli, quantized, args, message):
    answer = cli("run", quantized("nvfp4"), *args, "--json")
    assert answer.code == 2
    assert message in answer.err
    assert json.loads(answer.out)["error"]["type"] == "ConfigError"


def test_activations_are_as_large_as_a_static_scale_expects(quantized):
    from quantmux.checkpoint import load_linear, open_checkpoint
    from quantmux.cli._measure import Runner

    checkpoint = open_checkpoint(quantized("nvfp4"))
    entry = checkpoint.layers()[0]
    weights = load_linear(checkpoint, entry)
    x = Runner(None, checkpoint, _cpu(), tokens=(64,), seed=0)._activations(entry, weights, 64)
    assert x.dtype == torch.bfloat16
    # the checkpoint was calibrated to an amax of 4
    assert float(x.float().std()) == pytest.approx(1.0, rel=0.05)


def _cpu():
    from quantmux.capability.detect import HERE_CPU

    return HERE_CPU


def test_rules_of_the_policy_file_hold_for_layers(cli, quantized, policy):
    file = policy('[[rule]]\nlayer = "*.down_proj"\nforce = "torch/linear_reference"')
    args = ("--tokens", "2", "--device", "cpu", "--plugins", file, "--json")
    for row in cli("run", quantized("nvfp4"), *args).json["layers"]:
        forced = row["name"].endswith("down_proj")
        assert (row["pipeline"][-1] == "torch/linear_reference") == forced


def test_a_device_here_is_found_by_its_model_name(cli, quantized, monkeypatch):
    from quantmux.capability.profiles import PROFILES

    here = PROFILES["h200"].replace(is_present=True, index=0)
    seen = []

    class Seen:
        def __init__(self, *args, **_):
            seen.append(args[2])

        def run(self, _):
            return []

    monkeypatch.setattr("quantmux.capability.detect.detect_devices", lambda: (here,))
    monkeypatch.setattr("quantmux.cli._measure.Runner", Seen)
    assert cli("run", quantized("nvfp4"), "--device", "h200", "--json").code == 0
    assert seen == [here]


def test_the_reference_is_that_of_what_the_producer_makes():
    from quantmux.capability.capability import Capability, OperandOffer, SchemeOffer
    from quantmux.cli._measure import reference_config
    from quantmux.config import LinearConfig, QuantizeConfig, operand
    from quantmux.dispatch import Pipeline, Step, Tier
    from quantmux.registry.kernel_spec import KernelSpec

    config = LinearConfig(in_features=256, out_features=8, scheme="fp8_block128")
    weight = OperandOffer.of(config.scheme.weight, ("row_major",))
    capability = Capability(arch="any", schemes=(SchemeOffer(weight=weight),))
    gemm = Step(KernelSpec("acme/gemm", "linear", capability, "acme:kernel"), config)

    def pipeline(made, tier=Tier.NATIVE):
        producer = QuantizeConfig(operand=made, n=256)
        spec = KernelSpec("acme/quantize", "quantize", capability, "acme:kernel")
        return Pipeline((Step(spec, producer), gemm), tier)

    assert reference_config(config, pipeline("fp8_group128")) is config
    stricter = reference_config(config, pipeline("fp8_group128_pow2"))
    assert stricter.scheme.activation == operand("fp8_group128_pow2")
    assert stricter.scheme.weight == config.scheme.weight
    plain = reference_config(config, Pipeline((gemm,), Tier.WEIGHT_ONLY))
    assert plain.scheme.activation is None
