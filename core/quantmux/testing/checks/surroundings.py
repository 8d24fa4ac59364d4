"""surroundings: what the rest of the program set does not reach into a kernel.

Models are built under another default dtype, run in inference mode, under autocast, and with
matmuls allowed to be less exact. A kernel that makes a constant without naming its dtype or its
device, or multiplies by a matmul that autocast narrows, gives something else there. That a kernel
leaves alone what the program has set is asked in every cell (`ProgramState`).
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.testing.answers import agrees, compared, difference, fails, served
from quantmux.testing.cell import Cell, Outcome, Verdict
from quantmux.testing.derive import labelled, plain_cases

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux.testing.stage import Stage, Trial

ALWAYS: Final = False


def cells(spec: KernelSpec, stage: Stage, small_only: bool) -> Iterator[Cell]:
    """Give one cell per scheme or operand."""
    del small_only
    for label, plain, detail in labelled(plain_cases(spec, stage, (9,))):
        # blocks of zeros: their scale is eps, which another dtype rounds
        case = plain if spec.op == "linear" else replace(plain, kind="one_hot")
        yield Cell(spec.id, "surroundings", label, case, tuple(detail.items()))


def run(cell: Cell, stage: Stage) -> Outcome:
    """Bind and call inside and outside of foreign settings; the bits must be the same."""
    asked = served(cell, stage)
    if isinstance(asked, Outcome):
        return asked
    spec, case = asked
    trial = stage.trial(spec, case, **dict(cell.detail))
    usual = trial()
    with foreign_settings(stage.home.type):
        run_ = _bound(trial, stage)
        found = replace(trial, run=run_)()
    outcome = compared(trial, found)
    if outcome.verdict is Verdict.FAILS:
        settings = "default dtype bf16, default device meta, autocast, inference mode"
        return fails(f"under {settings}: {outcome.reason}", "surroundings", outcome.error)
    if "deterministic" in spec.capability.tags:
        differs = difference(usual, found)
        if differs:
            return fails(f"other settings, other bits: {differs}", "surroundings")
    return agrees(outcome.error)


@contextmanager
def foreign_settings(device_type: str) -> Iterator[None]:
    """Set what programs around a layer set, and set it back."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with (
            torch.device("meta"),
            torch.inference_mode(),
            torch.autocast(device_type, dtype=torch.bfloat16),
        ):
            yield
    finally:
        torch.set_default_dtype(dtype)


def _bound(trial: Trial, stage: Stage) -> Any:
    kernel, config = stage.registry.load_kernel(trial.spec.id), trial.case.config
    if trial.spec.op != "linear":
        return kernel.bind(config, stage.device)
    prepared = kernel.prepare(trial.call.args[1], config, stage.device)
    return kernel.bind(config, prepared, stage.device)
