"""sweep: every cell of every backend, in processes that may die of it, resumable.

result = sweep(device="cpu", backends=("triton",))
print(result.counts, result.failures)
"""

from __future__ import annotations

import importlib
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from quantmux.capability.detect import device_here
from quantmux.config._base import closest
from quantmux.config.policy_file import load_policy
from quantmux.errors import ConfigError
from quantmux.registry.interrupts import remembered_ctrl_c
from quantmux.registry.manager import load_registry
from quantmux.registry.user_folder import user_folder
from quantmux.testing.cell import Verdict
from quantmux.testing.compile_cells import CHECK as COMPILES
from quantmux.testing.sweep_journal import Journal, header_of, stamp_of
from quantmux.testing.sweep_libraries import compile_libraries
from quantmux.testing.sweep_pool import Pool, PoolOptions
from quantmux.testing.sweep_result import SweepResult
from quantmux.testing.sweep_slots import memory_limit, worker_slots
from quantmux.testing.worker_wire import pack

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from quantmux.capability.device import DeviceProfile
    from quantmux.registry.manager import Registry
    from quantmux.registry.status import PluginRecord
    from quantmux.testing.cell import Cell, Outcome

ENGINE: Final = "quantmux.testing.engine"
"""Module with ``cells``, ``run_cell`` and the names ``CHECKS``."""


class OnProgress(Protocol):
    """Told of the answers as they come."""

    def begin(self, total: int, kept: int) -> None:
        """So many cells are to be answered, so many are already."""
        ...

    def answer(self, cell: Cell, outcome: Outcome) -> None:
        """One more is answered."""
        ...


@dataclass(frozen=True, slots=True)
class Selection:
    """Which cells a sweep asks; an empty tuple is all.

    Attributes:
        backends: Names of backends.
        ops: Names of ops.
        kernels: Kernel ids.
        checks: Names of checks.
        labels: Labels of cells.
        small_only: Leave out shapes of real layers.
    """

    backends: tuple[str, ...] = ()
    ops: tuple[str, ...] = ()
    kernels: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    small_only: bool = False

    @property
    def has_whole_kernels(self) -> bool:
        """Tell whether all that is asked of a kernel is asked, so that it may count as proof."""
        if self.labels or not self.checks:
            return not self.labels
        from quantmux.testing.checks import CHECKS

        # what compiles for other devices is no part of what is shown on this one
        return set(self.checks) >= set(CHECKS) - {COMPILES}


@dataclass(frozen=True, slots=True)
class Plugins:
    """Where the plugins come from, in this process and in every worker alike.

    Attributes:
        policy: Policy file; None is the one that QUANTMUX_PLUGINS names, else the shipped one.
        factory: ``package.module:function`` that gives the registry instead.
    """

    policy: Path | None = None
    factory: str | None = None

    def registry(self) -> Registry:
        """Build the registry.

        Raises:
            ConfigError: The policy file is wrong.
        """
        if self.factory is None:
            return load_registry(load_policy(self.policy))
        module, _, name = self.factory.partition(":")
        built: Registry = getattr(importlib.import_module(module), name)()
        return built


def sweep(
    selection: Selection | None = None,
    *,
    plugins: Plugins | None = None,
    device: DeviceProfile | str | None = None,
    jobs: int | None = None,
    timeout: float = 120.0,
    memory_gib: float | None = None,
    give_up: int = 3,
    out: Path | None = None,
    resume: bool | None = None,
    seed: int = 0,
    progress: OnProgress | None = None,
    engine: str = ENGINE,
) -> SweepResult:
    """Ask every selected cell in worker processes and keep every answer in a journal.

    A cell that crashes its process, hangs, takes all memory or loses the CUDA context fails, and
    the rest goes on in a new process. Ctrl-C ends the sweep; the answers stay, and the next sweep
    goes on from there.

    Args:
        selection: Which cells; None is all of all backends.
        plugins: Where the plugins come from.
        device: A device of this machine; None is the first GPU, else the CPU.
        jobs: Number of workers; None is one per GPU, or fit for the CPU.
        timeout: Seconds one cell may take; ten times that where it compiles.
        memory_gib: Memory one worker may hold, GiB; None is its share of the machine's.
        give_up: After so many cells of a kernel that took their process along, its other cells
            fail without being run; 0 is never.
        out: Folder of the journal; None is ``sweeps/<device>`` in the user's folder.
        resume: True goes on from the journal and refuses another one's, False asks everything
            anew, None takes what fits.
        seed: Of the inputs.
        progress: Told of the answers as they come.
        engine: Module that makes and runs the cells.

    Raises:
        ConfigError: The request is wrong: an unknown backend or kernel, a selection without
            cells, a device that is not here, a journal of something else or in use.
        QuantmuxError: The journal cannot be written, or no worker can be set up.
    """
    selection, plugins = selection or Selection(), plugins or Plugins()
    began = time.monotonic()
    _check_numbers(jobs, timeout, memory_gib)
    registry = plugins.registry()
    source = importlib.import_module(engine)
    check_selection(selection, registry, source.CHECKS)
    profile = _device(device)
    cells = _cells(selection, registry, profile, source)
    stamps = {kernel: stamp_of(registry, kernel) for kernel in {cell.kernel for cell in cells}}
    folder = out or user_folder() / "sweeps" / profile.name
    slots = worker_slots(profile, jobs, only=isinstance(device, str) and ":" in device)
    options = PoolOptions(slots, timeout, memory_limit(len(slots), memory_gib), give_up)
    hello = {
        "path": sys.path,
        "policy": None if plugins.policy is None else str(plugins.policy),
        "factory": plugins.factory,
        "engine": engine,
        # every worker sees one GPU only, the first one of its world
        "device": pack(profile.replace(index=0) if profile.is_cuda else profile),
        "seed": seed,
    }
    outcomes: dict[str, Outcome] = {}
    interrupted = False
    with Journal(folder, header_of(profile, seed), resume=resume) as journal:
        if resume is False:
            journal.forget(cells)
        for cell in cells:
            stamp, outcome = journal.answers.get(cell.id, ("", None))
            # what was missing then, a compiler say, may be here now
            if outcome is None or outcome.verdict is Verdict.NOT_HERE:
                continue
            if stamp == stamps[cell.kernel]:
                outcomes[cell.id] = outcome
        kept = len(outcomes)
        todo = [cell for cell in cells if cell.id not in outcomes]
        if progress is not None:
            progress.begin(len(cells), kept)
        notes = [journal.note] if journal.note else []
        with (
            remembered_ctrl_c() as pressed,
            Pool(hello, registry.fingerprint, options, notes) as pool,
        ):
            try:
                asked = {cell.kernel for cell in todo if cell.check != COMPILES}
                notes += compile_libraries(registry, asked, profile)
                for cell, outcome in pool.run(todo):
                    journal.add(cell, stamps[cell.kernel], outcome)
                    outcomes[cell.id] = outcome
                    if progress is not None:
                        progress.answer(cell, outcome)
                    if pressed:
                        interrupted = True
                        break
            except KeyboardInterrupt:
                interrupted = True
        path = journal.path
    return SweepResult(
        registry=registry,
        device=profile,
        cells=cells,
        outcomes=outcomes,
        kept=kept,
        not_asked=_not_asked(selection, registry, profile, cells),
        journal=path,
        seconds=time.monotonic() - began,
        interrupted=interrupted,
        notes=tuple(notes),
        is_part=bool(selection.checks or selection.labels),
    )


def check_selection(selection: Selection, registry: Registry, checks: Collection[str]) -> None:
    """Check that what is named exists.

    Raises:
        ConfigError: A backend, op, check or kernel does not; names the nearest that does.
    """
    from quantmux.capability.capability import OPS

    names = [record.name for record in registry.plugins]
    for kind, asked, known in (
        ("backend", selection.backends, names),
        ("op", selection.ops, OPS),
        ("check", selection.checks, checks),
    ):
        for name in asked:
            if name not in known:
                near = closest(name, known)
                raise ConfigError(
                    f'there is no {kind} "{name}"',
                    facts=[f"{kind}s: {' '.join(known)}"],
                    hint=f'did you mean "{near}"?' if near else None,
                    code=kind,
                )
    for name in selection.kernels:
        registry.get(name)


def _check_numbers(jobs: int | None, timeout: float, memory_gib: float | None) -> None:
    for name, value in (("jobs", jobs), ("timeout", timeout), ("memory", memory_gib)):
        if value is not None and not value > 0:
            raise ConfigError(f"{name} must be more than 0, found {value:g}", code="usage")


def _device(device: DeviceProfile | str | None) -> DeviceProfile:
    return device_here(None if device == "auto" else device)


def _cells(
    selection: Selection, registry: Registry, device: DeviceProfile, engine: Any
) -> tuple[Cell, ...]:
    found: list[Cell] = []
    backends: Sequence[str | None] = selection.backends or (None,)
    for backend in backends:
        found += engine.cells(
            registry,
            device,
            backend=backend,
            ops=selection.ops,
            kernels=selection.kernels,
            checks=selection.checks,
            small_only=selection.small_only,
        )
    if selection.labels:
        found = [cell for cell in found if cell.label in selection.labels]
    if not found:
        facts = [
            f"{name}: {' '.join(asked)}"
            for name, asked in (
                ("backend", selection.backends),
                ("op", selection.ops),
                ("kernel", selection.kernels),
                ("check", selection.checks),
                ("label", selection.labels),
            )
            if asked
        ]
        raise ConfigError(
            f"there is nothing to sweep on {device}",
            facts=facts or ["no plugin here registers a kernel"],
            hint="quantmux plugins lists what registers kernels; a label is spelled as in the list "
            "of failures",
            code="no_cells",
        )
    return tuple(found)


def _not_asked(
    selection: Selection, registry: Registry, device: DeviceProfile, cells: tuple[Cell, ...]
) -> tuple[PluginRecord, ...]:
    """Give the plugins that were meant and have no kernel, and those whose probe failed."""
    asked = {cell.kernel.partition("/")[0] for cell in cells}
    return tuple(
        record
        for record in registry.plugins_on(device)
        if not selection.backends or record.name in selection.backends
        if record.state == "failed" or (record.name not in asked and not record.kernels)
    )
