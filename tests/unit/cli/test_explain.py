import json

import pytest

B200 = ("explain", "linear", "--scheme", "nvfp4", "--n", "4096", "--k", "14336", "--device", "b200")


def test_gives_the_keys_of_the_interface(cli):
    answer = cli(*B200, "--m", "8", "--json")
    data = answer.json
    assert answer.code == 0
    assert answer.err == ""
    assert set(data) >= {
        "config",
        "device",
        "assumptions",
        "ranges",
        "rejected",
        "nearest_miss",
        "settings",
    }
    assert data["device"] == "b200"
    assert (data["ranges"][0]["m_min"], data["ranges"][0]["m_max"]) == (8, 8)
    assert set(data["ranges"][0]) >= {"m_min", "m_max", "pipeline", "tier"}
    for reasons in data["rejected"].values():
        for reason in reasons:
            assert set(reason) >= {
                "code",
                "field",
                "required",
                "actual",
                "hint",
                "m_min",
                "m_max",
            }
    assert data["settings"]["order"]["origin"].startswith("plugins.toml line")


def test_every_kernel_of_the_op_is_taken_or_rejected(cli):
    data = cli(*B200, "--json").json
    registered = {
        k["id"]
        for k in cli("plugins", "show", "torch", "--json").json["kernel_specs"]
        if k["op"] == "linear"
    }
    taken = {kernel for choice in data["ranges"] for kernel in choice["pipeline"]}
    assert registered <= taken | set(data["rejected"])


def test_text_names_every_kernel_and_fits_100_columns(cli):
    data = cli(*B200, "--json").json
    text = cli(*B200).out
    for name in data["rejected"]:
        assert name in text
    assert max(len(line) for line in text.splitlines()) <= 100


def test_call_settings_show_as_their_own_origin(cli):
    settings = cli(*B200, "--order", "torch,triton", "--deny", "cutlass", "--json").json["settings"]
    assert settings["order"] == {"value": ["torch", "triton"], "origin": "call"}
    assert settings["deny"] == {"value": ["cutlass"], "origin": "call"}


def test_rule_of_the_policy_file_matches_the_layer(cli, policy):
    file = policy('[[rule]]\nlayer = "*.down_proj"\nforce = "torch/linear_reference"')
    data = cli(*B200, "--layer", "a.down_proj", "--plugins", file, "--json").json
    assert data["ranges"][0]["pipeline"][-1] == "torch/linear_reference"
    assert "line 4" in data["settings"]["force"]["origin"]
    other = cli(*B200, "--layer", "a.up_proj", "--plugins", file, "--json").json
    assert other["settings"]["force"]["value"] is None


def test_nothing_serving_is_exit_1_with_the_answer(cli):
    answer = cli(*B200, "--deny", "*", "--json")
    assert answer.code == 1
    assert answer.json["ranges"] == []
    assert "no kernel for linear nvfp4" in answer.err


def test_forcing_what_cannot_serve_is_exit_1(cli):
    answer = cli(*B200, "--force", "torch/linear_int_mm", "--json")
    assert answer.code == 1
    assert answer.json["rejected"]["torch/linear_int_mm"]
    assert "torch/linear_int_mm was forced" in answer.err


def test_forcing_an_unknown_kernel_names_the_nearest(cli):
    answer = cli(*B200, "--force", "torch/linear_referense")
    assert answer.code == 1
    assert 'did you mean "torch/linear_reference"?' in answer.err


def test_nearest_miss_is_printed(cli, policy):
    others = ("cutlass", "flashinfer", "triton")
    only_torch = policy("\n".join(f"[plugins.{name}]\nenabled = false" for name in others))
    text = cli(*B200, "--deny", "torch/linear_emulated", "--plugins", only_torch).out
    assert "nearest miss" in text
    assert "torch/linear_emulated fits" in text


@pytest.mark.parametrize(
    ("args", "shown"),
    [
        (
            "quantize --operand nvfp4 --n 7152 --padded-n 7168 --layout swizzled_8x4",
            "quantize nvfp4 n=7152 swizzled_8x4 padded_n=7168 from bf16",
        ),
        (
            "silu-mul-quantize --operand fp8_group128 --n 2048 --in-dtype fp16",
            "silu_mul_quantize fp8_group128 n=2048 row_major padded_n=2048 from fp16",
        ),
        (
            "inverse_rope_quantize --heads 16 --head-dim 256 --rope-dim 64 --groups 4",
            "inverse_rope_quantize fp8_group128_pow2 heads=16",
        ),
        (
            "rmsnorm-quantize --operand fp8_token --n 2048 --norm-eps 1e-5 --fp32-weight",
            "rmsnorm_quantize fp8_token n=2048 row_major padded_n=2048 norm_eps=1e-05 fp32_weight",
        ),
        (
            "rope_quantize --heads 8 --head-dim 96 --rope-dim 64 --rope-at last --static-scale 0.5",
            "rope_quantize fp8_tensor_static heads=8 head_dim=96 rope_dim=64 last halves scale=0.5",
        ),
        (
            "relayout --operand nvfp4 --n 64 --source row_major --target swizzled_8x4",
            "relayout nvfp4 n=64 row_major padded_n=64 -> swizzled_8x4 padded_n=64",
        ),
        (
            "linear --scheme fp8_tensor+exact --n 8 --k 16 --bias",
            "linear fp8_tensor+exact N=8 K=16 bf16->bf16 bias",
        ),
    ],
    ids=lambda value: value.split()[0],
)
def test_every_op_has_options(cli, args, shown):
    answer = cli("explain", *args.split(), "--device", "cpu")
    assert answer.code == 0
    assert shown in answer.out


def test_takes_the_config_as_json_text_or_file(cli, tmp_path):
    config = {"op": "linear", "in_features": 64, "out_features": 32, "scheme": "fp8_tensor"}
    text = json.dumps(config)
    file = tmp_path / "layer.json"
    file.write_text(text)
    by_text = cli("explain", "--config", text, "--device", "cpu", "--json").json
    by_file = cli("explain", "linear", "--config", file, "--device", "cpu", "--json").json
    assert by_text == by_file
    assert by_text["config"]["in_features"] == 64


def test_the_config_of_an_answer_can_be_asked_again(cli):
    first = cli(*B200, "--json").json
    again = cli("explain", "--config", json.dumps(first["config"]), "-d", "b200", "--json").json
    assert again == first


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "explain needs an op"),
        (("lineer",), 'did you mean "linear"?'),
        (("linear", "--scheme", "nvfp4", "--n", "8"), "explain linear needs --k"),
        (("linear", "--operand", "nvfp4"), "explain linear takes no --operand"),
        (("quantize", "--operand", "nvfp4"), "explain quantize needs --n"),
        (("linear", "--scheme", "nvfp5", "--n", "8", "--k", "8"), 'did you mean "nvfp4"?'),
        (("linear", "--scheme", "nvfp4", "--n", "0", "--k", "8"), "out_features"),
        (("linear", "--scheme", "nvfp4", "--n", "8", "--k", "8", "--m", "-1"), "--m is a number"),
        (("linear", "--scheme", "nvfp4", "--n", "8", "--k", "8", "--in-dtype", "fp64"), "fp64"),
        (
            ("linear", "--scheme", "nvfp4", "--n", "8", "--k", "8", "--allow-lossy", "no"),
            "allow_lossy",
        ),
        (("linear", "--scheme", "nvfp4", "--n", "8", "--k", "8", "-d", "b2000"), '"b200"'),
        (("quantize", "--operand", "nvfp4", "--n", "64", "--layout", "col_major"), "row_major"),
        (("--config", "{"), "--config is not JSON"),
        (("--config", "[1]"), "cannot be read"),
        (("--config", '{"in_features": 8}'), "does not say the op"),
        (("quantize", "--config", '{"op": "linear"}'), "another op"),
        (("--config", '{"op": "linear"}', "--n", "8"), "leave one of them out"),
        (("--config", '{"op": "linear", "in_feature": 8}'), 'did you mean "in_features"?'),
        (("--config", "/nowhere/layer.json"), "cannot be read"),
    ],
)
def test_refuses_a_wrong_request(cli, args, message):
    answer = cli("explain", *args)
    assert answer.code == 2
    assert answer.out == ""
    assert message in answer.err
