"""Plugins that misbehave in every way but one: none of them comes out green."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

BAD = Path(__file__).parent / "bad_plugins"
MUTANTS = Path(__file__).parent / "mutants"
if str(BAD) not in sys.path:
    sys.path.insert(0, str(BAD))

from quantmux_bad import plugin as bad  # noqa: E402

from quantmux import BackendInfo, Capability, KernelSpec, OperandOffer, hookimpl, operand  # noqa: E402
from quantmux.capability.profiles import CPU  # noqa: E402
from quantmux.errors import ConfigError  # noqa: E402
from quantmux.registry.manager import Registry  # noqa: E402
from quantmux.testing.cell import Verdict  # noqa: E402
from quantmux.testing.engine import cells, run_cell  # noqa: E402

REGISTRY = Registry.of({"bad": bad})
TESTS_FAILED, USAGE_ERROR = 1, 4


def _outcomes(stem: str, *checks: str) -> list[Any]:
    asked = cells(REGISTRY, CPU, kernels=(f"bad/{stem}",), checks=checks)
    assert asked, "a kernel without cells would be green"
    return [run_cell(cell, REGISTRY, CPU) for cell in asked]


def test_the_right_kernel_passes():
    found = _outcomes("right")
    assert {o.verdict for o in found} <= {Verdict.AGREES, Verdict.REFUSES, Verdict.NOT_HERE}


@pytest.mark.parametrize("stem", bad.MISBEHAVE)
def test_every_call_of_a_kernel_that_misbehaves_fails(stem: str):
    found = _outcomes(stem, "numbers", "repeat")
    asked = [o for o in found if o.verdict is not Verdict.REFUSES]
    assert asked
    # a cell without a row to write may end before the fault
    assert sum(o.verdict is Verdict.FAILS for o in asked) > 0.75 * len(asked)
    assert all(o.reason for o in asked if o.verdict is Verdict.FAILS)


@pytest.mark.parametrize(
    "stem", ["import_breaks", "import_exits", "names_nothing", "names_class", "names_rubbish"]
)
def test_a_kernel_that_cannot_be_loaded_fails_in_every_cell(stem: str):
    found = [o for o in _outcomes(stem, "numbers") if o.verdict is not Verdict.REFUSES]
    assert found
    assert {o.verdict for o in found} == {Verdict.FAILS}


@pytest.mark.parametrize("stem", ["veto_raises", "veto_exits", "veto_talks"])
def test_a_veto_that_gives_no_answer_is_no_refusal(stem: str):
    found = [o for o in _outcomes(stem, "numbers") if o.verdict is not Verdict.REFUSES]
    assert found
    assert {(o.verdict, o.code) for o in found} == {(Verdict.FAILS, "plugin_error")}


def test_a_warmup_that_raises_fails():
    assert any(o.verdict is Verdict.FAILS for o in _outcomes("warmup_raises", "variants"))


def test_a_result_that_calls_itself_equal_is_found_out():
    found = _outcomes("lies", "repeat", "strides")
    assert {o.verdict for o in found} == {Verdict.FAILS}


def test_guard_zones_see_bytes_written_past_every_check():
    for stem in ("corrupts_behind", "corrupts_before"):
        codes = {o.code for o in _outcomes(stem, "numbers") if o.verdict is Verdict.FAILS}
        assert codes == {"overrun"}


def test_no_kernel_may_declare_a_bound_that_zeros_would_meet():
    with pytest.raises(ConfigError, match="rel_tolerance"):
        Capability(arch="cpu", rel_tolerance=1.0)


# ---- plugins whose data is rubbish -------------------------------------------------------------


def _plugin(kernels: Any) -> Any:
    @hookimpl
    def quantmux_backend() -> BackendInfo:
        return BackendInfo(name="rubbish", version="1")

    @hookimpl
    def quantmux_kernels() -> Any:
        return kernels()

    return SimpleNamespace(quantmux_backend=quantmux_backend, quantmux_kernels=quantmux_kernels)


def _spec(**changes: Any) -> KernelSpec:
    fields: dict[str, Any] = {
        "id": "rubbish/k",
        "op": "quantize",
        "capability": Capability(
            arch="cpu", produces=(OperandOffer.of(operand("fp8_token"), ("row_major",)),)
        ),
        "load": "quantmux_bad.kernels:right",
    }
    return KernelSpec(**{**fields, **changes})


def _half() -> Any:
    yield _spec()
    raise RuntimeError("and no further")


RUBBISH = {
    "none": lambda: None,
    "a number": lambda: 7,
    "numbers": lambda: [1, 2],
    "a spec alone": _spec,
    "twice the same id": lambda: (_spec(), _spec()),
    "another's id": lambda: (_spec(id="torch/quantize"),),
    "an unknown op": lambda: (_spec(op="matmul"),),
    "no capability": lambda: (_spec(capability={"arch": "cpu"}),),
    "nothing to load": lambda: (_spec(load="nowhere"),),
    "raises half-way": _half,
    "exits": lambda: sys.exit(0),
}


@pytest.mark.parametrize("kernels", RUBBISH.values(), ids=RUBBISH)
def test_a_plugin_whose_kernels_are_rubbish_is_failed_and_has_no_cells(kernels: Any):
    registry = Registry.of({"rubbish": _plugin(kernels)})
    record = registry.record("rubbish")
    assert record is not None
    assert record.state == "failed"
    assert record.reasons
    assert cells(registry, CPU) == ()


# ---- through pytest, as an author runs it ------------------------------------------------------


@pytest.fixture
def run_suite(tmp_path: Path) -> Any:
    """Run the suite in a process of its own, with the plugins installed by an entry point."""

    def run(*arguments: str, seconds: float = 120.0) -> subprocess.CompletedProcess[str]:
        site = tmp_path / "site"
        for name, module in (
            ("bad", "quantmux_bad.plugin"),
            ("mutants", "quantmux_mutants.plugin"),
            ("broken", "quantmux_bad.exits_on_import"),
        ):
            info = site / f"quantmux_{name}-1.0.dist-info"
            info.mkdir(parents=True, exist_ok=True)
            (info / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: quantmux-{name}\nVersion: 1.0\n"
            )
            (info / "entry_points.txt").write_text(f"[quantmux.backends]\n{name} = {module}\n")
        paths = [str(site), str(BAD), str(MUTANTS), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p)}
        installed = any(e.name == "quantmux" for e in metadata.entry_points(group="pytest11"))
        command = [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *(() if installed else ("-p", "quantmux.testing.plugin")),
            *("--pyargs", "quantmux.testing.suite", "--device", "cpu", *arguments),
        ]
        return subprocess.run(
            command,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    return run


def test_pytest_fails_a_mutant_and_says_why(run_suite: Any):
    done = run_suite("--backend", "mutants", "--kernel", "channel.bias_skipped", "--small")
    assert done.returncode == TESTS_FAILED
    assert "mutants/channel.bias_skipped" in done.stdout
    assert "relative error" in done.stdout


def test_pytest_passes_the_right_kernel(run_suite: Any):
    # not "channel": a mutant prepares other weights under the same name of their form, and both are
    # asked about it
    done = run_suite("--backend", "mutants", "--kernel", "block", "--small")
    assert done.returncode == 0, done.stdout[-2000:]
    assert " passed" in done.stdout


@pytest.mark.parametrize("stem", ["skips", "ends_pytest", "dies_quietly"])
def test_a_kernel_cannot_talk_pytest_into_green(run_suite: Any, stem: str):
    done = run_suite("--backend", "bad", "--kernel", stem, "--check", "repeat")
    assert done.returncode == TESTS_FAILED, done.stdout[-2000:]


@pytest.mark.parametrize(
    "stem", ["dies", "segfaults", pytest.param("is_killed", marks=pytest.mark.slow)]
)
def test_a_kernel_that_kills_the_process_leaves_no_green_behind(run_suite: Any, stem: str):
    done = run_suite("--backend", "bad", "--kernel", stem, "--check", "repeat")
    assert done.returncode != 0
    assert " passed" not in done.stdout


def test_a_kernel_that_hangs_fails_when_a_timeout_is_set(run_suite: Any):
    done = run_suite("--backend", "bad", "--kernel", "hangs", "--check", "repeat", "--timeout", "2")
    assert done.returncode == TESTS_FAILED, done.stdout[-2000:]
    assert "Timeout" in done.stdout


def test_an_unknown_backend_is_a_usage_error_that_names_the_nearest(run_suite: Any):
    done = run_suite("--backend", "mutant")
    assert done.returncode == USAGE_ERROR
    assert "did you mean 'mutants'" in done.stdout + done.stderr


def test_a_plugin_that_cannot_be_imported_is_a_usage_error_with_its_reason(run_suite: Any):
    done = run_suite("--backend", "broken")
    assert done.returncode == USAGE_ERROR
    assert "SystemExit" in done.stdout + done.stderr
