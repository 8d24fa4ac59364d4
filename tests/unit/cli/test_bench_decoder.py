"""bench decoder: a tiny form on the host, which tries the plumbing and says so."""

import json

import pytest

SMALL = ("--device", "cpu", "--layers", "1", "--no-compile")


def test_the_tiny_form_prints_tables_and_says_that_they_mean_nothing(cli):
    found = cli("bench", "decoder", *SMALL, "--m", "2,64")
    assert found.code == 0
    assert found.out.count("these figures mean nothing") == 2
    assert "decode 2" in found.out
    assert "prefill 64" in found.out
    assert "selected" in found.out
    assert "oracle" in found.out


def test_the_result_is_written_and_printed_as_one(cli, tmp_path):
    file = tmp_path / "step.json"
    found = cli(
        "bench", "decoder", *SMALL, "--model", "dsv3", "--separate", "--m", "3", "--json",
        "--out", file,
    )  # fmt: skip
    assert found.code == 0
    kept = json.loads(file.read_text())
    assert kept == found.json
    assert kept["model"] == "dsv3-tiny"
    assert kept["step"]["linears"]["128x256"] >= 1  # q_a alone, not merged
    assert kept["means_nothing"] is True
    ops = {row["op"] for row in kept["rows"]}
    assert ops == {"decoder_step", "decoder_linear"}
    assert {"oracle", "served", "noise", "compile_report"} <= set(kept)


def test_without_the_oracle_no_linear_is_timed(cli):
    found = cli("bench", "decoder", *SMALL, "--m", "2", "--no-oracle", "--json")
    assert {row["op"] for row in found.json["rows"]} == {"decoder_step"}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--model", "dsv9"), "no decoder of a model"),
        (("--m", "0"), "--m is a list"),
        (("--layers", "0"), "--layers is a list"),
        (("--scheme", "fp8_tensor_static"), "by their own values"),
        (("--variants", "vllm"), "variants:"),
        (("--compile", "vllm"), "variants:"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_exit_code_2(cli, args, words):
    found = cli("bench", "decoder", "--device", "cpu", *args)
    assert found.code == 2
    assert words in found.err
