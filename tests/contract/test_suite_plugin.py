"""The suite as anybody runs it: pytest --pyargs quantmux.testing.suite, from any folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SUITE = ("--pyargs", "quantmux.testing.suite")

BROKEN = """
import pytest
raise RuntimeError("no luck today")
"""


def declare(site, distribution, group, name, module):
    """Make a distribution that consists of one entry point."""
    info = site / f"{distribution}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}\n")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The installation of a user who has the example backend, and one that is broken."""
    folder = tmp_path_factory.mktemp("site")
    declare(folder, "acme", "quantmux.backends", "acme", "quantmux_acme.plugin")
    declare(folder, "broken", "quantmux.backends", "broken", "broken_backend")
    # the environment of a developer may be older than the entry point of pyproject.toml
    declare(folder, "suite", "pytest11", "quantmux", "quantmux.testing.plugin")
    (folder / "broken_backend.py").write_text(BROKEN)
    return folder


@pytest.fixture
def run(site, tmp_path):
    def call(*args, suite=SUITE):
        env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(site), str(ROOT / "examples/acme_backend")]),
            "QUANTMUX_CACHE_DIR": str(tmp_path / "user"),
            "OMP_NUM_THREADS": "1",
        }
        env.pop("PYTEST_ADDOPTS", None)
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *suite, *args],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env=env,
        )

    return call


def told(done):
    return done.stdout + done.stderr


QUICK = ("--backend", "acme", "--device", "cpu", "--check", "repeat", "--check", "sources")


def test_a_right_backend_passes_and_is_recorded(run, tmp_path):
    done = run("--backend", "acme", "--device", "cpu", "-q", "--record", "--report", "r.json")
    assert done.returncode == 0, told(done)
    assert "acme/token_quant" in done.stdout
    assert "0 failed" in done.stdout
    report = json.loads((tmp_path / "r.json").read_text())
    tally = report["kernels"]["acme/token_quant"]
    assert tally["verdicts"]["agrees"] > 80
    assert tally["refused"]["operand"] > 400
    assert len(report["outcomes"]) == sum(tally["verdicts"].values())
    assert {"torch", "python"} <= set(report["versions"])
    (row,) = json.loads((tmp_path / "user/evidence/cpu.json").read_text())["rows"]
    assert row["kernel"] == "acme/token_quant"
    assert row["level"] == "verified"


def test_ids_are_readable_and_select(run):
    done = run(*QUICK, "-v", "-k", "import")
    assert done.returncode == 0, told(done)
    assert "test_conformance[acme/token_quant::sources[import closure]] PASSED" in done.stdout


def test_part_of_the_cells_is_not_recorded(run, tmp_path):
    done = run(*QUICK, "--record", "evidence")
    assert done.returncode == 0, told(done)
    assert "not recorded: acme/token_quant: 2 of its" in done.stdout
    assert not (tmp_path / "evidence").exists()


def test_runs_under_xdist(run):
    done = run(*QUICK, "-n", "2", "--report", "r.json")
    assert done.returncode == 0, told(done)
    assert "2 cells in" in done.stdout


@pytest.mark.parametrize("mode", ["prepend", "append", "importlib"])
def test_any_import_mode_will_do(run, mode):
    done = run(*QUICK, "--import-mode", mode)
    assert done.returncode == 0, told(done)


def test_whose_folder_it_is_run_from_does_not_matter(run, tmp_path):
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\npython_files = check_*.py\npython_functions = check_*\ntestpaths = nowhere\n"
        "filterwarnings = error\naddopts = --strict-markers --strict-config\nxfail_strict = true\n"
    )
    (tmp_path / "conftest.py").write_text(
        "def pytest_addoption(parser):\n    parser.addoption('--device')\n"
    )
    quick = [a if a != "--device" else "--quantmux-device" for a in QUICK]
    done = run(*quick)
    assert done.returncode == 0, told(done)
    assert "2 passed" in done.stdout
    taken = run(*QUICK)
    assert taken.returncode == 4
    assert "use --quantmux-device" in told(taken)


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        ((), 4, "--backend NAME is needed"),
        (("--backend", "acne"), 4, "did you mean 'acme'?"),
        (("--backend", "acme", "--op", "quantise"), 4, "did you mean 'quantize'?"),
        (("--backend", "acme", "--kernel", "token_quand"), 4, "did you mean 'token_quant'?"),
        (("--backend", "acme", "--check", "numbrs"), 4, "did you mean 'numbers'?"),
        (("--backend", "acme", "--op", "linear"), 4, "no kernel of acme fits: ops quantize"),
        (("--backend", "acme", "--device", "b200"), 4, "b200 is not in this machine"),
        (("--backend", "acme", "--device", "toaster"), 4, "toaster"),
        (("--backend", "broken"), 4, "no luck today"),
    ],
)
def test_what_is_not_there_is_one_clear_error(run, args, code, text):
    done = run(*args)
    assert done.returncode == code, told(done)
    assert text in told(done)
    assert "Traceback" not in told(done)


def test_a_backend_without_kernels_is_not_green(run, site):
    (site / "bare_backend.py").write_text(
        "from quantmux import BackendInfo, hookimpl\n"
        "@hookimpl\n"
        "def quantmux_backend():\n    return BackendInfo(name='bare', version='1')\n"
        "@hookimpl\n"
        "def quantmux_kernels():\n    return ()\n"
    )
    if not (site / "bare-1.0.dist-info").exists():
        declare(site, "bare", "quantmux.backends", "bare", "bare_backend")
    done = run("--backend", "bare")
    assert done.returncode == 5, told(done)
    assert "backend bare registers no kernel" in told(done)


def test_nothing_that_could_run_is_not_green(run):
    done = run("--backend", "torch", "--device", "cpu", "--kernel", "linear_scaled_mm_row", "-q")
    assert done.returncode == 5, told(done)
    assert "nothing was shown: no cell could be run here" in done.stdout


def test_a_check_that_only_a_gpu_answers_is_not_green_without_one(run):
    done = run("--backend", "torch", "--device", "cpu", "--kernel", "relayout", "--check", "graph")
    assert done.returncode == 5, told(done)
    assert "nothing was shown: no cell could be run here" in done.stdout


def test_a_check_of_data_alone_is_an_answer(run):
    done = run(
        "--backend", "torch", "--device", "cpu", "--kernel", "relayout", "--check", "sources"
    )
    assert done.returncode == 0, told(done)


def test_a_kernel_that_is_not_there_is_told_the_names_once(run):
    done = run("--backend", "torch", "--kernel", "torch/relayouts")
    assert done.returncode == 4, told(done)
    assert told(done).count("torch/quantize") == 1
    assert "linear_emulated linear_int_mm" not in told(done)
    assert "did you mean 'torch/relayout'?" in told(done)


def test_collected_by_accident_it_is_one_error(run):
    suite = ROOT / "core/quantmux/testing/suite"
    done = run("--rootdir", ".", suite=(str(suite.parent / "suite" / ".." / "suite"),))
    assert done.returncode != 0
    assert told(done).count("--backend NAME") in (1, 2)


def test_a_failing_cell_fails_its_test_and_the_run(run, site):
    (site / "liar_kernel.py").write_text(
        "import torch\n"
        "from quantmux.ops.quantized import empty_quantized\n"
        "class Kernel:\n"
        "    def bind(self, config, device):\n"
        "        def run(x, *, scale=None, global_scale=None, out=None):\n"
        "            n = config.n\n"
        "            out = out or empty_quantized(\n"
        "                config.operand, config.layout, x.shape[0], n, x.device)\n"
        "            for t in out.tensors():\n"
        "                t.zero_()\n"
        "            return out\n"
        "        return run\n"
        "    def warmup(self, config, ms):\n        pass\n"
        "KERNEL = Kernel()\n"
    )
    (site / "liar_backend.py").write_text(
        "from quantmux import BackendInfo, Capability, KernelSpec, OperandOffer\n"
        "from quantmux import hookimpl, operand\n"
        "@hookimpl\n"
        "def quantmux_backend():\n    return BackendInfo(name='liar', version='1')\n"
        "@hookimpl\n"
        "def quantmux_kernels():\n"
        "    offer = OperandOffer.of(operand('fp8_token'), ('row_major',))\n"
        "    yield KernelSpec(id='liar/zeros', op='quantize', load='liar_kernel:KERNEL',\n"
        "        capability=Capability(arch='cpu', produces=(offer,)),\n"
        "        sources=('liar_kernel.py',))\n"
    )
    if not (site / "liar-1.0.dist-info").exists():
        declare(site, "liar", "quantmux.backends", "liar", "liar_backend")
    done = run("--backend", "liar", "--check", "repeat", "--record", "evidence", "-q")
    assert done.returncode == 1, told(done)
    assert "liar/zeros::repeat" in done.stdout
    assert "disagrees" in done.stdout
    assert "recorded: 1 kernels" in done.stdout


def test_the_plugin_costs_others_nothing():
    program = (
        "import sys, pytest; before = set(sys.modules); import quantmux.testing.plugin;"
        "new = {m.partition('.')[0] for m in set(sys.modules) - before};"
        "print(*sorted(new - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["quantmux"]


def test_its_options_are_there_only_when_the_suite_is_asked_for(run):
    alone = run("--backend", "acme", suite=())
    assert alone.returncode == 4
    assert "unrecognized arguments: --backend" in told(alone)
    help_ = run("--help")
    assert "backend to prove" in help_.stdout


AGAIN = """
from _pytest.runner import runtestprotocol

from quantmux.testing import engine
from quantmux.testing.answers import fails

ask, seen = engine.run_cell, set()


def moody(cell, *args, **kwargs):
    if cell.check == "repeat" and cell.id not in seen:
        seen.add(cell.id)
        return fails("not today", "raised")
    return ask(cell, *args, **kwargs)


engine.run_cell = moody


def pytest_runtest_protocol(item, nextitem):
    for is_last in (False, True):
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        again = not is_last and any(report.failed for report in reports)
        for report in reports:
            if again and report.failed:
                report.outcome = "rerun"
            item.ihook.pytest_runtest_logreport(report=report)
        if not again:
            break
    return True
"""


def test_what_failed_before_it_was_run_again_is_not_verified(run, tmp_path):
    (tmp_path / "again.py").write_text(AGAIN)
    done = run("--backend", "acme", "--device", "cpu", "--record", "-q", "-p", "again")
    (file,) = (tmp_path / "user" / "evidence").glob("*.json")
    rows = json.loads(file.read_text())["rows"]
    assert rows, done.stdout
    assert done.returncode == 0  # pytest is content
    assert {row["level"] for row in rows} == {"declared"}
    assert all(row["failed"] and "not today" in row["note"] for row in rows)
