"""The examples run as a user would run them, and say what the docs promise."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"

# runs an example and tells whether it imported torch
RUN = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as stop:
    code = stop.code
print("torch imported:", "torch" in sys.modules, file=sys.stderr)
raise SystemExit(code)
"""


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        **options,
    )


def test_choose_kernels_answers_for_a_gpu_that_is_not_here():
    done = run("-c", RUN, EXAMPLES / "choose_kernels.py", "--device", "h200")
    assert done.returncode == 0, done.stderr
    assert "/linear_fp8_block  [native]" in done.stdout
    assert "16 linears, 4 distinct answers" in done.stdout
    assert "planned again, byte by byte the same: True" in done.stdout
    assert "torch/linear_int_mm was forced and cannot serve" in done.stdout
    assert "torch imported: False" in done.stderr


def test_choose_kernels_answers_a_typo_without_a_traceback():
    done = run(EXAMPLES / "choose_kernels.py", "--scheme", "fp8_blok128")
    assert done.returncode == 1
    assert 'did you mean "fp8_block128' in done.stderr
    assert "Traceback" not in done.stderr


def test_capability_sweep_gives_every_op_as_markdown():
    done = run("-c", RUN, EXAMPLES / "capability_sweep.py", "--devices", "cpu,a100,h200")
    assert done.returncode == 0, done.stderr
    assert "torch imported: False" in done.stderr
    lines = done.stdout.splitlines()
    ops = [line.removeprefix("## ") for line in lines if line.startswith("## ")]
    assert ops == [
        "linear",
        "quantize",
        "silu_mul_quantize",
        "rmsnorm_quantize",
        "inverse_rope_quantize",
        "rope_quantize",
        "relayout",
    ]
    row = next(line for line in lines if line.startswith("| fp8_block128 |"))
    assert row == "| fp8_block128 | emulated | emulated | native |"


def test_capability_sweep_gives_the_reasons_of_every_loser_as_json():
    done = run(EXAMPLES / "capability_sweep.py", "--json", "--devices", "a100,h200")
    cells = json.loads(done.stdout)["cells"]
    cell = next(c for c in cells if (c["name"], c["device"]) == ("fp8_block128", "a100"))
    assert cell["pipeline"] == ["triton/quantize_fp8_group", "torch/linear_emulated"]
    assert "arch" in cell["rejected"]["torch/linear_scaled_mm_block"]


def test_capability_sweep_refuses_a_device_that_does_not_exist():
    done = run(EXAMPLES / "capability_sweep.py", "--devices", "h201")
    assert done.returncode == 2
    assert 'there is no device "h201"' in done.stderr


def test_cuda_graph_replays_on_a_gpu_and_says_that_it_needs_one():
    done = run(EXAMPLES / "cuda_graph.py")
    if torch.cuda.is_available():
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("bit by bit: True") == 3
        assert "mlp.gate_up_proj is called with M = 8 while a CUDA graph" in done.stdout
    else:
        assert done.returncode == 1
        assert done.stderr == "this example needs an NVIDIA GPU: a CPU has no CUDA graphs\n"
        assert done.stdout == ""


@pytest.fixture(scope="module")
def acme(tmp_path_factory):
    """The folder into which the example backend was installed, as pip installs any package."""
    pytest.importorskip("hatchling", reason="the package is built without isolation")
    folder = tmp_path_factory.mktemp("acme")
    done = run(
        *("-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"),
        *("--no-index", "--no-build-isolation", "--target", folder, EXAMPLES / "acme_backend"),
    )
    assert done.returncode == 0, done.stderr
    return folder


def with_acme(folder, *arguments):
    return run(*arguments, env={**os.environ, "PYTHONPATH": str(folder)})


def quantmux(folder, *arguments):
    code = "import sys; from quantmux.cli import main; sys.exit(main(sys.argv[1:]))"
    done = with_acme(folder, "-c", code, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


ASK = ("explain", "quantize", "--operand", "fp8_token", "--n", "512", "--device", "cpu")


def test_acme_is_found_by_its_entry_point_alone(acme):
    found = quantmux(acme, "plugins")
    (record,) = (p for p in found["plugins"] if p["name"] == "acme")
    assert (record["status"], record["distribution"], record["kernels"]) == (
        "ok",
        "quantmux-acme",
        1,
    )


def test_acme_is_chosen_over_the_reference(acme):
    answer = quantmux(acme, *ASK)
    assert [r["pipeline"] for r in answer["ranges"]] == [["acme/token_quant"]]
    (reason,) = answer["rejected"]["torch/quantize"]
    assert reason["code"] == "outranked"


def test_acme_refuses_what_it_does_not_make(acme):
    answer = quantmux(acme, *ASK[:3], "fp8_group128", *ASK[4:])
    codes = {r["code"] for r in answer["rejected"]["acme/token_quant"]}
    assert codes == {"operand"}


def test_acme_is_not_taken_where_plugins_toml_denies_it(acme, tmp_path):
    file = tmp_path / "plugins.toml"
    file.write_text('schema = 1\n\n[policy]\ndeny = ["acme/*"]\n')
    answer = quantmux(acme, *ASK, "--plugins", str(file))
    assert [r["pipeline"] for r in answer["ranges"]] == [["torch/quantize"]]
    (reason,) = answer["rejected"]["acme/token_quant"]
    assert reason["code"] == "denied"
    assert answer["settings"]["deny"]["origin"] == f"{file} line 4"


def test_acme_falls_over_visibly_and_changes_no_bit(acme):
    done = with_acme(acme, EXAMPLES / "acme_backend" / "try_acme.py")
    assert done.returncode == 0, done.stderr
    assert "taken    acme/token_quant (native)" in done.stdout
    assert "linear   acme/token_quant -> torch/linear_emulated" in done.stdout
    assert "codes equal: True, scales equal: True" in done.stdout
    assert "denied   torch/quantize is taken" in done.stdout
    assert "torch/quantize took over at stage build, same values: True" in done.stdout
    assert "acme: the licence server does not answer" in done.stderr
