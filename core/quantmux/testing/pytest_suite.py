"""Suite: one run of the conformance suite under pytest, from the options to the summary."""

from __future__ import annotations

import json
import os
import threading
import time
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import pytest

from quantmux.capability.capability import OPS
from quantmux.capability.detect import resolve_device
from quantmux.config._base import closest
from quantmux.errors import QuantmuxError
from quantmux.registry.default import default_registry
from quantmux.registry.user_folder import user_folder
from quantmux.testing.cell import Outcome, Verdict
from quantmux.testing.summary import report_dict, summary_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from quantmux.capability.device import DeviceProfile
    from quantmux.registry.manager import Registry
    from quantmux.testing.cell import Cell

_PROPERTY: Final = "quantmux"
NOTHING_RAN: Final = 5
"""Exit status of a run that has shown nothing; pytest's own for "no tests were collected"."""


class Suite:
    """What was asked, the cells of it, and their outcomes as they come.

    Under xdist every process has one; outcomes travel to the first in the tests' properties.

    Args:
        config: Of pytest, with the options of `plugin`.

    Raises:
        pytest.UsageError: Something was asked that is not there.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._begun = time.perf_counter()
        self.outcomes: dict[str, Outcome] = {}
        self.backends: tuple[str, ...] = tuple(dict.fromkeys(self._option("backend") or ()))
        with warnings.catch_warnings():
            # importing torch and plugins may warn; whose pytest.ini makes that an error?
            warnings.simplefilter("default")
            try:
                self.registry: Registry = default_registry()
                self.device: DeviceProfile = self._find_device()
                self.cells: tuple[Cell, ...] = self._find_cells()
            except QuantmuxError as error:
                raise pytest.UsageError(str(error)) from error
        self._by_id = {cell.id: cell for cell in self.cells}
        # whoever's pytest.ini looks for other names, the suite's are found
        config.addinivalue_line("python_files", "test_conformance.py")
        config.addinivalue_line("python_functions", "test_conformance")

    def ask(self, cell: Cell, request: pytest.FixtureRequest) -> None:
        """Run a cell; fails or skips the test that asks."""
        from quantmux.testing.engine import POISONED, run_cell

        with _no_quiet_end():
            outcome = run_cell(cell, self.registry, self.device, seed=self._option("seed"))
        request.node.user_properties.append((_PROPERTY, {"id": cell.id, **outcome.to_dict()}))
        if outcome.code == POISONED and not hasattr(self._config, "workerinput"):
            request.session.shouldstop = f"the CUDA context was lost by {cell.id}"
        if outcome.verdict is Verdict.NOT_HERE:
            pytest.skip(outcome.reason)
        if outcome.verdict is Verdict.FAILS:
            pytest.fail(f"{cell.id}\n{outcome.code}: {outcome.reason}", pytrace=False)

    def pytest_report_header(self) -> list[str]:
        """Say what is proved, and where."""
        names = " ".join(self.backends)
        device = f"{self.device.name} ({self.device.title}, {self.device.arch})"
        return [(f"quantmux: {names} on {device}, {len(self.cells)} cells, "
                f"seed {self._option('seed')}")]  # fmt: skip

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the outcome that a test gives."""
        for name, value in report.user_properties:
            if name == _PROPERTY and isinstance(value, dict):
                data: dict[str, Any] = dict(value)
                cell_id = str(data.pop("id"))
                outcome = Outcome(**{**data, "verdict": Verdict(data["verdict"])})
                known = self.outcomes.get(cell_id)
                # plugins run a test again until it passes; what failed once is no proof
                if known is None or known.verdict is not Verdict.FAILS:
                    self.outcomes[cell_id] = outcome

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Fail a run that has shown nothing: all skipped is not green."""
        if hasattr(self._config, "workerinput"):
            return
        if exitstatus == 0 and not session.config.option.collectonly and not self._has_shown():
            session.exitstatus = NOTHING_RAN

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print a line per kernel; write report and evidence."""
        results = self._results()
        if not results:
            return
        seconds = time.perf_counter() - self._begun
        terminalreporter.section(f"quantmux: {' '.join(self.backends)} on {self.device.name}")
        for line in summary_lines(results, len(self.cells), seconds):
            terminalreporter.write_line(line)
        if not self._has_shown():
            terminalreporter.write_line("nothing was shown: no cell could be run here")
        report = self._option("report")
        if report:
            content = report_dict(results, self.registry, self.device, self._option("seed"))
            try:
                Path(report).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
                terminalreporter.write_line(f"report: {report}")
            except OSError as error:
                terminalreporter.write_line(f"the report could not be written: {error}", red=True)
        if self._option("record"):
            for line in self._record(results):
                terminalreporter.write_line(line)

    def _record(self, results: list[tuple[Cell, Outcome]]) -> list[str]:
        from quantmux.registry.ledger import record_evidence
        from quantmux.testing.record import evidence_rows, unrecorded

        rows = evidence_rows(results, self.registry, self.device)
        why_not = unrecorded(results, self.registry, self.device)
        lines = [f"not recorded: {kernel}: {why}" for kernel, why in why_not.items()]
        try:
            for folder, names in self._folders().items():
                own = [row for row in rows if row.kernel.partition("/")[0] in names]
                if own:
                    file = record_evidence(own, self.device.name, folder)
                    lines.append(f"recorded: {len(own)} kernels in {file}")
        except QuantmuxError as error:
            lines += str(error).splitlines()
        return lines

    def _folders(self) -> dict[Path, tuple[str, ...]]:
        """Give the folders that evidence goes to, with the backends whose it is."""
        where = self._option("record")
        if where == "user":
            return {user_folder() / "evidence": self.backends}
        if where != "package":
            return {Path(where): self.backends}
        folders = {name: self.registry.folder(name) for name in self.backends}
        return {f / "evidence": (name,) for name, f in folders.items() if f is not None}

    def _find_device(self) -> DeviceProfile:
        asked = self._option("device")
        device = resolve_device(
            None if asked == "auto" else asked, profiles=self.registry.profiles()
        )
        if device.is_cuda and not device.is_present:
            raise pytest.UsageError(
                f"{device.name} is not in this machine: a suite runs on what is here "
                "(cpu, cuda, cuda:N, auto)"
            )
        return device

    def _find_cells(self) -> tuple[Cell, ...]:
        known = sorted(record.name for record in self.registry.plugins)
        if not self.backends:
            raise pytest.UsageError(
                f"--backend NAME is needed: whose kernels shall be proved? Here: {' '.join(known)}"
            )
        for name in self.backends:
            self._require_backend(name, known)
        own = [k for k in self.registry.kernels if k.backend in self.backends]
        self._require("op", OPS)
        ids = [k.id for k in own]
        self._require("kernel", ids, also=[name.partition("/")[2] for name in ids])
        from quantmux.testing.engine import CHECKS, cells

        self._require("check", tuple(CHECKS))
        found: list[Cell] = []
        for name in self.backends:
            found += cells(
                self.registry,
                self.device,
                backend=name,
                ops=self._option("op") or (),
                kernels=self._option("kernel") or (),
                checks=self._option("check") or (),
                small_only=self._option("small"),
            )
        if not found:
            ops = ", ".join(sorted({k.op for k in own}))
            raise pytest.UsageError(f"no kernel of {', '.join(self.backends)} fits: ops {ops}")
        return tuple(found)

    def _require_backend(self, name: str, known: list[str]) -> None:
        record = self.registry.record(name)
        if record is None:
            raise pytest.UsageError(_unknown("backend", name, known))
        if not record.is_usable:
            why = "\n".join(f"  {reason}" for reason in record.reasons)
            hint = f"\n  next: {record.hint}" if record.hint else ""
            raise pytest.UsageError(f"backend {name} is {record.state}\n{why}{hint}")
        if not any(k.backend == name for k in self.registry.kernels):
            pytest.exit(f"backend {name} registers no kernel: nothing to prove", NOTHING_RAN)

    def _require(self, option: str, known: Iterable[str], also: Iterable[str] = ()) -> None:
        names, short = tuple(known), tuple(also)
        for name in self._option(option) or ():
            if name not in names and name not in short:
                raise pytest.UsageError(_unknown(option, name, names, short))

    def _results(self) -> list[tuple[Cell, Outcome]]:
        return [(self._by_id[i], o) for i, o in self.outcomes.items() if i in self._by_id]

    def _has_shown(self) -> bool:
        """Tell whether any kernel was run; of checks asked by name, whether one has an answer."""
        results = self._results()
        if self._option("check"):
            return any(outcome.verdict is not Verdict.NOT_HERE for _, outcome in results)
        ran = {Verdict.AGREES, Verdict.FAILS}
        return any(cell.case and outcome.verdict in ran for cell, outcome in results)

    def _option(self, name: str) -> Any:
        return self._config.getoption(f"quantmux_{name}")


@contextmanager
def _no_quiet_end() -> Iterator[None]:
    """Let no kernel end the process by ``os._exit``: with status 0 the run would look green."""
    end, process, thread = os._exit, os.getpid(), threading.get_ident()

    def instead(status: int) -> NoReturn:
        # a process that the kernel forked, or pytest-timeout's thread, may end as it likes
        if (os.getpid(), threading.get_ident()) != (process, thread):
            end(status)
        raise SystemExit(f"the kernel called os._exit({status})")

    os._exit = instead
    try:
        yield
    finally:
        os._exit = end


def _unknown(what: str, name: str, known: Iterable[str], also: Iterable[str] = ()) -> str:
    names = list(known)
    near = closest(name, [*names, *also])
    hint = f"\n  next: did you mean {near!r}?" if near else ""
    return f"there is no {what} {name!r}\n  known: {' '.join(names)}{hint}"
