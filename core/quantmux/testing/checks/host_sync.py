"""host_sync: a bound call never waits for the GPU."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import torch

from quantmux.testing.answers import agrees, fails, served, told
from quantmux.testing.cell import Cell, Outcome
from quantmux.testing.checks.launches import is_bare_composite, no_promise
from quantmux.testing.derive import labelled, plain_cases

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux.testing.stage import Stage

ALWAYS: Final = False


def cells(spec: KernelSpec, stage: Stage, small_only: bool) -> Iterator[Cell]:
    """Give one cell per scheme or operand."""
    del small_only
    if not stage.device.is_cuda:
        yield Cell(spec.id, "host_sync", "no GPU")
        return
    if is_bare_composite(spec):
        yield Cell(spec.id, "host_sync", "composite")
        return
    for label, case, detail in labelled(plain_cases(spec, stage, (16, 64))):
        yield Cell(spec.id, "host_sync", label, case, tuple(detail.items()))


def run(cell: Cell, stage: Stage) -> Outcome:
    """Call with PyTorch told to raise at the first wait."""
    if cell.case is None:
        return no_promise(cell, "a CPU has nothing to wait for")
    asked = served(cell, stage)
    if isinstance(asked, Outcome):
        return asked
    spec, case = asked
    trial = stage.trial(spec, case, **dict(cell.detail))
    stage.registry.load_kernel(spec.id).warmup(case.config, [case.m])
    trial()
    torch.cuda.synchronize(stage.home)
    try:
        with _no_waiting():
            trial()
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        return fails(f"a call waits for the GPU: {told(error)}", "host_sync")
    return agrees()


@contextmanager
def _no_waiting() -> Iterator[None]:
    was = torch.cuda.get_sync_debug_mode()
    try:
        _tell_torch("error")
        yield
    finally:
        _tell_torch(was)


def _tell_torch(mode: int | str) -> None:
    with warnings.catch_warnings():
        # torch says once per process that this mode is a prototype, after it has set it: where
        # warnings are errors, every later cell would run under it
        warnings.simplefilter("ignore", UserWarning)
        torch.cuda.set_sync_debug_mode(mode)
