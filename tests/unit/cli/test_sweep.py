"""quantmux sweep and quantmux build: what they print, record, refuse, and exit with."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from quantmux.capability.detect import resolve_device
from quantmux.cli._sweep_view import show_sweep
from quantmux.registry.default import set_default_registry
from quantmux.registry.manager import Registry
from quantmux.testing.cell import Cell, Outcome, Verdict
from quantmux.testing.sweep_result import SweepResult

AHEAD = Path(__file__).parents[1] / "testing_sweep" / "ahead"
QUICK = ("--backend", "torch", "--device", "cpu", "--jobs", "1", "--check", "bounds")


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def ahead(tmp_path, monkeypatch):
    """Install the backend `ahead` by its entry point; give evidence files by device."""
    info = tmp_path / "site" / "quantmux_ahead-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: quantmux-ahead\nVersion: 1.0\n")
    entry = "[quantmux.backends]\nahead = quantmux_test_ahead_plugin\n"
    (info / "entry_points.txt").write_text(entry)
    monkeypatch.syspath_prepend(str(AHEAD))
    monkeypatch.syspath_prepend(str(info.parent))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    set_default_registry(None)

    def rows(device):
        file = Path(os.environ["QUANTMUX_CACHE_DIR"]) / "evidence" / f"{device}.json"
        return {row["kernel"]: row for row in json.loads(file.read_text())["rows"]}

    return rows


def test_prints_a_table_and_what_was_not_asked(cli, policy):
    off = policy("[plugins.triton]\nenabled = false")
    answer = cli("sweep", *QUICK[2:], "--kernel", "torch/relayout", "--plugins", off)
    assert answer.code == 0, answer.err
    assert answer.out.startswith("CPU (cpu)\n")
    assert "kernel          agrees  refuses  here  fails  error  seconds" in answer.out
    assert "\ntorch/relayout" in answer.out
    assert "not asked\n  backend" in answer.out
    assert "0 failed in" in answer.out.splitlines()[-1]
    assert "sweep: " in answer.err


def test_json_says_all_and_nothing_else_is_on_stdout(cli):
    answer = cli("sweep", *QUICK, "--kernel", "torch/relayout", "--json")
    assert answer.code == 0
    found = answer.json
    assert found["device"] == "cpu"
    assert found["ok"] is True
    assert sum(found["counts"].values()) == found["cells"] > 0
    assert found["failures"] == []
    assert found["recorded"] is None
    assert Path(found["journal"]).is_file()


def test_a_second_run_says_that_it_was_answered_before(cli):
    first = cli("sweep", *QUICK, "--kernel", "torch/relayout")
    again = cli("sweep", *QUICK, "--kernel", "torch/relayout")
    assert "answered before" not in first.out
    assert again.out.splitlines()[-1].endswith("answered before")


def test_an_unknown_backend_is_a_usage_error_that_names_the_nearest(cli):
    answer = cli("sweep", "--backend", "tritn", "--device", "cpu")
    assert answer.code == 2
    assert 'there is no backend "tritn"' in answer.err
    assert 'did you mean "triton"?' in answer.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--kernel", "torch/nothing"), 'there is no kernel "torch/nothing"'),
        (("--check", "numbres"), 'did you mean "numbers"?'),
        (("--op", "linaer"), 'did you mean "linear"?'),
        (("--timeout", "0"), "timeout must be more than 0"),
        (("--jobs", "-1"), "jobs must be more than 0"),
        (("--check", "numbers", "--record"), "a part of a kernel's cells is no evidence"),
        (("--label", "no such cell"), "there is nothing to sweep"),
        (("--device", "b200"), 'found "b200"'),
    ],
)
def test_refuses_a_wrong_request(cli, options, said):
    answer = cli("sweep", "--device", "cpu", *options)
    assert answer.code == 2
    assert said in answer.err


def test_a_journal_of_something_else_is_refused_when_resuming_was_asked_for(cli, tmp_path):
    common = (*QUICK, "--kernel", "torch/relayout", "--out", tmp_path / "sweep")
    assert cli("sweep", *common).code == 0
    answer = cli("sweep", *common, "--seed", "1", "--resume")
    assert answer.code == 2
    assert "the seed: 0 then, 1 now" in answer.err


def test_a_plugin_that_cannot_be_asked_is_a_failure_unless_ignored(cli, tmp_path, monkeypatch):
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[quantmux.backends]\nbroken = no_such_module\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    set_default_registry(None)
    options = (*QUICK[2:], "--kernel", "torch/relayout")
    answer = cli("sweep", *options)
    assert answer.code == 1
    assert "broken" in answer.out
    assert "no_such_module" in answer.out
    assert cli("sweep", *options, "--ignore-failed-plugins").code == 0
    assert cli("sweep", *QUICK, "--kernel", "torch/relayout").code == 0  # nobody asked for it


def test_nothing_that_could_run_is_no_success(cli):
    answer = cli("sweep", "--kernel", "torch/linear_int_mm", "--device", "cpu", "--check", "graph")
    assert answer.code == 1
    assert "nothing was shown: no cell could run here" in answer.out


def test_kernels_of_which_only_data_was_asked_are_not_green(cli):
    # their architectures and sources agree here, and no kernel ran
    answer = cli("sweep", "--kernel", "torch/linear_int_mm", "--device", "cpu", "--jobs", "1")
    assert answer.code == 1
    assert "nothing was shown: no cell could run here" in answer.out
    assert "0 failed" in answer.out


def test_failures_of_every_kernel_are_shown_and_alike_ones_once(capsys):
    cells = [Cell(f"acme/{k}", "numbers", f"{k} {i}") for k in ("one", "two") for i in range(9)]
    outcomes = {
        c.id: Outcome(Verdict.FAILS, "crashed" if c.kernel == "acme/one" else f"off by {c.label}")
        for c in cells
    }
    device = resolve_device("cpu")
    result = SweepResult(
        registry=Registry.of({}),
        device=device,
        cells=tuple(cells),
        outcomes=outcomes,
        kept=0,
        not_asked=(),
        journal=Path("journal.jsonl"),
        seconds=1.0,
    )
    show_sweep(result, None)
    out = capsys.readouterr().out
    assert "failed: 18 cells" in out
    assert out.count("crashed\n") == 1
    assert "acme/one::numbers[one 0] and 8 more" in out
    assert out.count("off by two") == 3
    assert "6 more cells of acme/two" in out
    assert "quantmux sweep --kernel acme/two --check numbers --label 'two 0' --device cpu" in out


def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(tmp_path):
    environment = {**os.environ, "QUANTMUX_CACHE_DIR": str(tmp_path)}
    program = "import sys; from quantmux.cli import main; sys.exit(main())"
    options = ["sweep", "--backend", "torch", "--device", "cpu", "--jobs", "1"]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *options],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    journal = tmp_path / "sweeps" / "cpu" / "journal.jsonl"
    until = time.monotonic() + 60
    while time.monotonic() < until and not (
        journal.exists() and len(journal.read_bytes().splitlines()) > 20
    ):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=90)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "The same command goes on from there." in out
    assert "cells left" in out


def test_build_compiles_for_absent_gpus_and_records_it(cli, ahead):
    answer = cli("build", "--kernel", "ahead/token", "-d", "h200", "-d", "b200", "--record")
    assert answer.code == 0, answer.err + answer.out
    assert "1 kernel compiled, 0 failed" in answer.out
    assert "sm_90a by triton" in answer.out
    for device, arch in (("h200", "sm90"), ("b200", "sm100")):
        row = ahead(device)["ahead/token"]
        assert (row["level"], row["archs"], row["cases"]) == ("compiled", [arch], 0)
    matrix = cli("matrix", "--device", "b200", "--op", "quantize", "--json").json
    levels = {k["id"]: k["evidence"]["level"] for k in matrix["kernels"] if "ahead/" in k["id"]}
    assert levels["ahead/token"] == "compiled"


def test_build_fails_for_a_kernel_that_claims_too_much(cli, ahead):
    answer = cli("build", "--backend", "ahead", "-d", "a100", "-d", "h100", "--record", "--json")
    assert answer.code == 1
    found = {(k["id"], k["device"]): k for k in answer.json["kernels"]}
    assert set(found) == {
        ("ahead/claims_too_much", "a100"),
        ("ahead/claims_too_much", "h100"),
        ("ahead/plain", "h100"),
        ("ahead/token", "h100"),
    }
    caught = found["ahead/claims_too_much", "a100"]
    assert caught["outcome"] == "fails"
    assert "fp8e4nv not supported" in caught["reason"]
    assert found["ahead/token", "h100"]["outcome"] == "compiled"
    assert found["ahead/plain", "h100"]["outcome"] == "not_here"
    assert ahead("a100")["ahead/claims_too_much"]["failed"] == 1
    assert "ahead/plain" not in ahead("h100")


def test_build_compiles_where_triton_is_told_to_interpret(cli, ahead, monkeypatch):
    del ahead
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    answer = cli("build", "--kernel", "ahead/token", "-d", "h200")
    assert answer.code == 0, answer.out


def test_build_refuses_a_device_without_a_name(cli):
    answer = cli("build", "-d", "cpu")
    assert answer.code == 2
    assert 'build compiles for named GPUs, found "cpu"' in answer.err
    assert "h200" in answer.err
