"""What bad input gets: a message of one form, the right exit code, and never a traceback."""

import json
import struct
import sys

import pytest

from quantmux.cli import main

EXPLAIN = ("explain", "linear", "--scheme", "nvfp4", "--n", "64", "--k", "64", "--device", "h200")


def test_typo_in_the_policy_names_file_line_and_nearest(cli, policy):
    file = policy('[policy]\norder = ["cutlas", "torch"]')
    answer = cli(*EXPLAIN, "--plugins", file)
    assert answer.code == 2
    assert f"quantmux.ConfigError: {file}, line 3:" in answer.err
    assert 'did you mean "cutlass"?' in answer.err
    assert answer.out == ""


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ('[policy]\nordr = ["torch"]', 3, 'did you mean "order"?'),
        ("[policy]\nweight_copies = 0", 3, "weight_copies"),
        ("[policy\n", 2, "not valid TOML"),
        ("[policy.fallback]\nbuild = 'explode'", 3, "build"),
    ],
)
def test_wrong_policy_names_file_and_line(cli, policy, text, line, message):
    file = policy(text)
    answer = cli(*EXPLAIN, "--plugins", file)
    assert answer.code == 2
    assert f"{file}, line {line}" in answer.err
    assert message in answer.err


def test_policy_named_by_the_environment_is_read_and_blamed(cli, policy, monkeypatch):
    monkeypatch.setenv("QUANTMUX_PLUGINS", str(policy("[policy]\ndeny = 'torch'")))
    answer = cli(*EXPLAIN, "--json")
    assert answer.code == 2
    assert "line 3" in answer.json["error"]["message"]


def write(path, header, data=b""):
    path.mkdir()
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    (path / "model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return path


BROKEN = {
    "truncated": ({"a.weight": {"dtype": "F8_E4M3", "shape": [8, 8], "data_offsets": [0, 64]}}, {}),
    "not-json": (b"{nonsense", {}),
    "unknown-method": (
        {"a.weight": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}},
        {"quantization_config": {"quant_method": "brand_new"}},
    ),
}


@pytest.mark.parametrize("verb", ["plan", "run"])
@pytest.mark.parametrize("case", BROKEN)
def test_broken_checkpoint_is_exit_1(cli, tmp_path, case, verb):
    header, config = BROKEN[case]
    root = write(tmp_path / "broken", header, b"\0" * 2 if case == "truncated" else b"\0")
    (root / "config.json").write_text(json.dumps(config))
    answer = cli(verb, root, "--device", "cpu", "--json")
    assert answer.code == 1
    error = answer.json["error"]
    assert error["type"] == "CheckpointError"
    assert error["hint"]
    assert error["message"] in answer.err


@pytest.mark.parametrize("verb", ["plan", "run"])
def test_missing_checkpoint_is_exit_1(cli, tmp_path, verb):
    answer = cli(verb, tmp_path / "nowhere", "--device", "cpu")
    assert answer.code == 1
    assert "no checkpoint at" in answer.err


@pytest.mark.parametrize("args", [("nonsense",), ("doctor", "--bogus"), ("convert", "only-one")])
def test_usage_errors_are_exit_2(cli, args):
    answer = cli(*args)
    assert answer.code == 2
    assert answer.out == ""
    assert "Usage: quantmux" in answer.err


@pytest.mark.parametrize("flag", ["--version", "--help"])
def test_version_and_help_are_exit_0(cli, flag):
    answer = cli(flag)
    assert answer.code == 0
    assert "quantmux" in answer.out


def test_every_verb_has_help_and_json(cli):
    for verb in ("doctor", "plugins", "matrix", "explain", "plan", "convert", "run"):
        answer = cli(verb, "--help")
        assert answer.code == 0
        assert "--json" in answer.out


def broken_verb(monkeypatch, error):
    def raising(*_, **__):
        raise error

    # patched where the verb looks it up; sys.modules, as the package's name is its function
    monkeypatch.setattr(sys.modules["quantmux.cli.doctor"], "open_context", raising)


def test_an_unforeseen_error_is_one_line_and_exit_1(cli, monkeypatch):
    broken_verb(monkeypatch, RuntimeError("the moon"))
    answer = cli("doctor", "--json")
    assert answer.code == 1
    assert answer.json["error"]["code"] == "internal"
    assert "RuntimeError: the moon" in answer.err
    assert "--debug" in answer.err


def test_debug_shows_where_an_error_arose(capsys, monkeypatch):
    import quantmux.cli.app  # noqa: F401 - loads the verbs

    broken_verb(monkeypatch, RuntimeError("the moon"))
    assert main(["doctor", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_is_exit_130(cli, monkeypatch):
    broken_verb(monkeypatch, KeyboardInterrupt())
    assert cli("doctor").code == 130


def test_log_records_go_to_stderr_by_category(cli, monkeypatch):
    import logging

    import quantmux.cli.app  # noqa: F401 - loads the verbs

    def chatty(*_, **__):
        logging.getLogger("quantmux.select").debug("looking at it")
        logging.getLogger("quantmux.build").debug("not asked for")
        raise RuntimeError("enough")

    monkeypatch.setenv("QUANTMUX_LOG", "select, run")
    monkeypatch.setattr(sys.modules["quantmux.cli.doctor"], "open_context", chatty)
    answer = cli("doctor")
    assert "debug: looking at it" in answer.err
    assert "not asked for" not in answer.err
    assert logging.getLogger("quantmux.select").level == logging.NOTSET
