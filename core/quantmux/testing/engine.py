"""The engine of the suite: which cells there are, and what becomes of one. No pytest.

for cell in cells(registry, device, backend="acme"):
    print(cell.id, run_cell(cell, registry, device).verdict)
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

import torch

from quantmux.registry.digest import kernel_digest
from quantmux.runtime.failures import Failure, classify
from quantmux.runtime.waiting import patiently
from quantmux.testing.answers import fails, not_here, told
from quantmux.testing.cell import Cell, Outcome, Verdict
from quantmux.testing.checks import CHECKS
from quantmux.testing.program_state import ProgramState
from quantmux.testing.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from quantmux.capability.device import DeviceProfile
    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux.registry.manager import Registry

__all__ = ["CHECKS", "cells", "run_cell"]

POISONED: Final = "context_poisoned"
"""Code of a cell that lost the CUDA context, and of every later cell of the process."""

_stages: WeakKeyDictionary[Registry, dict[tuple[DeviceProfile, int], Stage]] = WeakKeyDictionary()


def cells(
    registry: Registry,
    device: DeviceProfile,
    *,
    backend: str | None = None,
    ops: Collection[str] = (),
    kernels: Collection[str] = (),
    checks: Collection[str] = (),
    small_only: bool = False,
) -> tuple[Cell, ...]:
    """Give the cells of the kernels that are asked for; the same, in the same order, always.

    A kernel that cannot run on the device has one cell for each check that would need it to.

    Args:
        registry: The plugins.
        device: Where they would run.
        backend: Kernels of this backend only.
        ops: Kernels of these ops only; () is all.
        kernels: These kernels only, by id or by the part behind the slash; () is all.
        checks: Names of `CHECKS`; () is all.
        small_only: Leave out shapes of real layers also where they are quick.
    """
    stage = _stage(registry, device, 0)
    found: list[Cell] = []
    for spec in registry.kernels:
        if backend is not None and spec.backend != backend:
            continue
        if ops and spec.op not in ops:
            continue
        if kernels and spec.id not in kernels and spec.id.partition("/")[2] not in kernels:
            continue
        found += _cells_of(spec, stage, checks, small_only)
        # of the sources as they are before anything runs; `record` looks whether they still are
        kernel_digest(spec, registry.folder(spec.backend))
    return tuple(found)


def run_cell(cell: Cell, registry: Registry, device: DeviceProfile, *, seed: int = 0) -> Outcome:
    """Ask one kernel one question.

    Args:
        cell: One of `cells`.
        registry: The plugins.
        device: Where.
        seed: Of the inputs; the same seed gives the same numbers on every device.

    Returns:
        The outcome. Whatever the kernel raises makes it ``fails``; nothing is raised for it. When
        the CUDA context is lost, the code is ``context_poisoned``, and so it is for every later
        cell of this process, which is not run.
    """
    stage = _stage(registry, device, seed)
    started = time.perf_counter()
    if stage.lost:
        outcome = fails(f"not run: the CUDA context was lost by {stage.lost}", POISONED)
    else:
        outcome = _answer(cell, stage)
    return replace(outcome, seconds=time.perf_counter() - started)


def _answer(cell: Cell, stage: Stage) -> Outcome:
    try:
        check = CHECKS[cell.check]
        blocked = stage.blocked(stage.spec(cell.kernel))
        if blocked is not None and not check.ALWAYS:
            return not_here(str(blocked), str(blocked.code))
        before = ProgramState.now(stage.home)
        outcome = patiently(lambda: check.run(cell, stage))
        if stage.device.is_cuda and stage.device.is_present:
            torch.cuda.synchronize(stage.home)
        changed = before.changed(stage.home)
        if changed:
            before.restore()
            if outcome.verdict is not Verdict.FAILS:
                return fails(f"changed what is the program's: {changed}", "surroundings")
    except KeyboardInterrupt:
        raise  # the user's
    # a plugin's code ran: it may raise anything and must cost this cell only. Not every exception
    # is an Exception: SystemExit is none, nor is pytest's skip, which would make the cell green.
    except BaseException as error:  # noqa: BLE001
        failure = classify(error)
        if failure is Failure.POISONED:
            stage.lost = cell.id
            return fails(told(error), POISONED)
        return fails(told(error), "memory" if failure is Failure.OUT_OF_MEMORY else "raised")
    return outcome


def _cells_of(
    spec: KernelSpec, stage: Stage, checks: Collection[str], small_only: bool
) -> Iterator[Cell]:
    is_blocked = stage.blocked(spec) is not None
    for name, check in CHECKS.items():
        if checks and name not in checks:
            continue
        if is_blocked and not check.ALWAYS:
            yield Cell(spec.id, name, "not here")
        else:
            yield from check.cells(spec, stage, small_only)


def _stage(registry: Registry, device: DeviceProfile, seed: int) -> Stage:
    known = _stages.setdefault(registry, {})
    key = (device, seed)
    if key not in known:
        known[key] = Stage(registry, device, seed)
    return known[key]
