import pytest


def test_gives_the_keys_of_the_interface(cli, quantized):
    answer = cli("plan", quantized("nvfp4"), "--device", "b200", "--json")
    data = answer.json
    assert answer.code == 0
    assert set(data) >= {"device", "selections", "layers", "warnings"}
    assert len(data["layers"]) == 6
    for layer in data["layers"]:
        assert set(layer) >= {"name", "config", "selection"}
        assert layer["selection"] in data["selections"]


def test_is_byte_identical_and_written_to_a_file(cli, quantized, tmp_path):
    file = tmp_path / "plan.json"
    first = cli("plan", quantized("fp8_block128"), "-d", "h200", "--json", "--out", file)
    second = cli("plan", quantized("fp8_block128"), "-d", "h200", "--json")
    assert first.out == second.out == file.read_text()


def test_table_groups_layers_that_are_alike(cli, quantized):
    text = cli("plan", quantized("fp8_block128"), "-d", "h200").out
    assert "6 linears of fp8_block128" in text
    assert "    2  model.layers.*" in text
    assert "128×192" in text
    assert max(len(line) for line in text.splitlines()) <= 100


def test_an_unserved_layer_is_visible_and_exit_1(cli, quantized, policy):
    file = policy('[[rule]]\nlayer = "*.1.mlp.down_proj"\ndeny = ["*"]')
    answer = cli("plan", quantized("fp8_block128"), "-d", "h200", "--plugins", file)
    assert answer.code == 1
    assert "no kernel" in answer.out
    assert "model.layers.1.mlp.down_proj" in answer.out
    data = cli("plan", quantized("fp8_block128"), "-d", "h200", "--plugins", file, "--json").json
    assert any("model.layers.1.mlp.down_proj" in line for line in data["warnings"])
    unserved = [key for key, s in data["selections"].items() if not s["ranges"]]
    assert [x["name"] for x in data["layers"] if x["selection"] in unserved] == [
        "model.layers.1.mlp.down_proj"
    ]


def test_reference_tier_is_a_warning(cli, quantized, policy):
    file = policy('[policy]\ndeny = ["cutlass", "flashinfer", "triton", "torch/linear_[!r]*"]')
    answer = cli("plan", quantized("nvfp4"), "-d", "b200", "--plugins", file, "--json")
    assert answer.code == 0
    assert any("reference" in line for line in answer.json["warnings"])


@pytest.mark.parametrize("verb", ["plan", "run"])
def test_refuses_a_model_without_quantized_linears(cli, model, verb):
    answer = cli(verb, model, "--device", "cpu", "--json")
    assert answer.code == 1
    assert answer.json["error"]["code"] == "not_quantized"
    assert "quantmux convert" in answer.err


def test_refuses_to_write_where_it_cannot(cli, quantized, tmp_path):
    answer = cli("plan", quantized("nvfp4"), "-d", "cpu", "--out", tmp_path / "no" / "plan.json")
    assert answer.code == 2
    assert "cannot write" in answer.err
