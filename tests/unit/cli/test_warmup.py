import pytest


def test_compiles_what_the_layers_of_a_checkpoint_need(cli, quantized):
    answer = cli("warmup", quantized("fp8_block128"), "--device", "cpu", "--json")
    assert answer.code == 0
    data = answer.json
    assert data["device"] == "cpu"
    assert data["units"]
    assert all(unit["error"] == "" for unit in data["units"])
    # six linears of three shapes
    shapes = {
        (u["config"]["out_features"], u["config"]["in_features"])
        for u in data["units"]
        if u["config"]["op"] == "linear"
    }
    assert shapes == {(64, 128), (128, 128), (128, 192)}


def test_asks_for_the_rows_that_were_given(cli, quantized):
    answer = cli("warmup", quantized("fp8_block128"), "-d", "cpu", "--m", 3, "--m", 9, "--json")
    assert {tuple(unit["ms"]) for unit in answer.json["units"]} == {(3, 9)}


def test_shows_a_table_and_a_last_line(cli, quantized, policy):
    # torch's kernels have nothing to compile for a GPU that is not here, and say so
    file = policy('[policy]\ndeny = ["triton", "cutlass"]')
    answer = cli("warmup", quantized("fp8_block128"), "-d", "h200", "--plugins", file)
    assert answer.code == 0
    assert "6 linears" in answer.out
    assert "nothing to do" in answer.out
    assert answer.out.splitlines()[-1].startswith("0 of ")
    assert max(len(line) for line in answer.out.splitlines()) <= 100


def test_a_kernel_that_does_not_compile_is_named_and_exit_1(cli, quantized, monkeypatch):
    def refuse(_self, _config, _ms):
        raise RuntimeError("ptxas said no")

    from quantmux_torch.linear_emulated import kernel

    monkeypatch.setattr(type(kernel), "warmup", refuse)
    answer = cli("warmup", quantized("fp8_block128"), "-d", "cpu")
    assert answer.code == 1
    assert "FAILS" in answer.out
    assert "ptxas said no" in answer.out


@pytest.mark.parametrize("options", [("--m", 0), ("--jobs", 0)])
def test_refuses_what_cannot_be_meant(cli, quantized, options):
    answer = cli("warmup", quantized("fp8_block128"), "-d", "cpu", *options)
    assert answer.code == 2
    assert "at least 1" in answer.err


def test_refuses_a_model_without_quantized_linears(cli, model):
    answer = cli("warmup", model, "--device", "cpu", "--json")
    assert answer.code == 1
    assert answer.json["error"]["code"] == "not_quantized"


def test_says_where_to_look_when_nothing_serves(cli, quantized, policy):
    file = policy('[policy]\ndeny = ["*"]')
    answer = cli("warmup", quantized("fp8_block128"), "-d", "cpu", "--plugins", file)
    assert answer.code == 2
    assert "quantmux plan" in answer.err
