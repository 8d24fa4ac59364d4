"""What a sweep has found, and how it is told per kernel."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quantmux.testing.cell import Verdict

if TYPE_CHECKING:
    from pathlib import Path

    from quantmux.capability.device import DeviceProfile
    from quantmux.registry.manager import Registry
    from quantmux.registry.status import PluginRecord
    from quantmux.testing.cell import Cell, Outcome


@dataclass(frozen=True, slots=True)
class KernelResult:
    """One kernel's cells.

    Attributes:
        kernel: Kernel id.
        counts: Cells per verdict.
        missing: Cells that were not asked, the sweep having been stopped.
        worst_error: Greatest relative error of the cells that agreed, None without numbers.
        first_failure: The first cell that failed and why, "" when none did.
        seconds: Time its cells took.
    """

    kernel: str
    counts: dict[Verdict, int]
    missing: int
    worst_error: float | None
    first_failure: str
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON-ready data."""
        return {
            "kernel": self.kernel,
            **{str(verdict): self.counts.get(verdict, 0) for verdict in Verdict},
            "missing": self.missing,
            "worst_error": self.worst_error,
            "first_failure": self.first_failure,
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, slots=True)
class SweepResult:
    """The answers of a sweep.

    Attributes:
        registry: The plugins that were asked.
        device: The device of this machine that it ran on.
        cells: Every cell that was to be asked, in order.
        outcomes: Cell id → outcome, of those that were answered.
        kept: How many answers were taken from the journal of an earlier run.
        not_asked: Plugins that were meant and have no kernel here, failed ones among them.
        journal: File of the answers.
        seconds: Time it took.
        interrupted: It was stopped before its end.
        notes: What is worth knowing besides, one line each.
        is_part: Checks or labels were named: what they ask may be answered by data alone.
    """

    registry: Registry
    device: DeviceProfile
    cells: tuple[Cell, ...]
    outcomes: dict[str, Outcome]
    kept: int
    not_asked: tuple[PluginRecord, ...]
    journal: Path
    seconds: float
    interrupted: bool = False
    notes: tuple[str, ...] = ()
    is_part: bool = False

    @property
    def results(self) -> tuple[tuple[Cell, Outcome], ...]:
        """Every answered cell with its outcome, in order."""
        return tuple((c, self.outcomes[c.id]) for c in self.cells if c.id in self.outcomes)

    @property
    def failures(self) -> tuple[tuple[Cell, Outcome], ...]:
        """The cells that failed."""
        return tuple((c, o) for c, o in self.results if o.verdict is Verdict.FAILS)

    @property
    def failed_plugins(self) -> tuple[PluginRecord, ...]:
        """The plugins that could not be asked because they raised or broke the contract."""
        return tuple(record for record in self.not_asked if record.state == "failed")

    @property
    def ok(self) -> bool:
        """Tell whether all was asked, something was shown, and nothing failed."""
        return (
            not self.interrupted
            and not self.failures
            and not self.failed_plugins
            and self.shows_something
        )

    @property
    def counts(self) -> dict[Verdict, int]:
        """Cells per verdict."""
        return dict(Counter(outcome.verdict for outcome in self.outcomes.values()))

    @property
    def shows_something(self) -> bool:
        """Tell whether any kernel ran; of checks asked by name, whether one has an answer."""
        if self.is_part:
            return any(outcome.verdict is not Verdict.NOT_HERE for _, outcome in self.results)
        # what data alone answers is asked of kernels for other devices too
        ran = {Verdict.AGREES, Verdict.FAILS}
        return any(cell.case and outcome.verdict in ran for cell, outcome in self.results)

    def kernels(self) -> tuple[KernelResult, ...]:
        """Give what was found of each kernel, in the order of the cells."""
        by_kernel: dict[str, list[Cell]] = {}
        for cell in self.cells:
            by_kernel.setdefault(cell.kernel, []).append(cell)
        return tuple(self._kernel(name, cells) for name, cells in by_kernel.items())

    def _kernel(self, name: str, cells: list[Cell]) -> KernelResult:
        known = [(c, self.outcomes[c.id]) for c in cells if c.id in self.outcomes]
        errors = [o.error for _, o in known if o.verdict is Verdict.AGREES and o.error is not None]
        failed = [f"{c.check}[{c.label}]: {o.reason}" for c, o in known if _fails(o)]
        return KernelResult(
            kernel=name,
            counts=dict(Counter(o.verdict for _, o in known)),
            missing=len(cells) - len(known),
            worst_error=max(errors, default=None),
            first_failure=failed[0] if failed else "",
            seconds=sum(o.seconds for _, o in known),
        )

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON-ready data."""
        counts = self.counts
        return {
            "device": self.device.name,
            "cells": len(self.cells),
            "counts": {str(verdict): counts.get(verdict, 0) for verdict in Verdict},
            "kept": self.kept,
            "interrupted": self.interrupted,
            "ok": self.ok,
            "kernels": [kernel.to_dict() for kernel in self.kernels()],
            "failures": [
                {
                    "cell": cell.id,
                    "kernel": cell.kernel,
                    "check": cell.check,
                    "label": cell.label,
                    "code": outcome.code,
                    "reason": outcome.reason,
                    "error": _finite(outcome.error),
                    "repeat": repeat_command(cell, self.device),
                }
                for cell, outcome in self.failures
            ],
            "not_asked": [record.to_dict() for record in self.not_asked],
            "journal": str(self.journal),
            "seconds": round(self.seconds, 3),
            "notes": list(self.notes),
        }


def repeat_command(cell: Cell, device: DeviceProfile) -> str:
    """Give the command that asks one cell again."""
    words = ["quantmux", "sweep", "--kernel", cell.kernel, "--check", cell.check]
    words += ["--label", cell.label, "--device", device.torch_name, "--fresh"]
    return shlex.join(words)


def _fails(outcome: Outcome) -> bool:
    return outcome.verdict is Verdict.FAILS


def _finite(error: float | None) -> float | None:
    return error if error is not None and math.isfinite(error) else None
