"""poisoned_scales: nothing is read that nobody wrote, and no scale that does not count.

Memory that the kernel allocates holds NaN, and so does every scale of the weights that the scheme
has no use for. A kernel that reads a placeholder, or relies on fresh memory being zero, gives
something else than the reference.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import torch

from quantmux.ops.spec import Call
from quantmux.testing.answers import changed_inputs, checksums, compared, fails, served
from quantmux.testing.cell import Cell, Outcome
from quantmux.testing.derive import labelled, plain_cases

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux.testing.stage import Stage, Trial

ALWAYS: Final = False


def cells(spec: KernelSpec, stage: Stage, small_only: bool) -> Iterator[Cell]:
    """Give one cell per scheme or operand."""
    del small_only
    for label, case, detail in labelled(plain_cases(spec, stage, (9,))):
        yield Cell(spec.id, "poisoned_scales", label, case, tuple(detail.items()))


def run(cell: Cell, stage: Stage) -> Outcome:
    """Call with poisoned placeholders, on poisoned memory."""
    asked = served(cell, stage)
    if isinstance(asked, Outcome):
        return asked
    spec, case = asked
    trial = stage.trial(spec, case, **dict(cell.detail))
    with nan_memory():
        trial = _poisoned(trial, stage) if spec.op == "linear" else trial
        before = checksums(trial)
        result = trial()
        if stage.device.is_cuda:
            torch.cuda.synchronize(stage.home)
    changed = changed_inputs(trial, before)
    if changed:
        return fails(f"changed its input: {changed}", "mutates")
    return compared(trial, result)


@contextmanager
def nan_memory() -> Iterator[None]:
    """Have PyTorch fill the memory it gives out with NaN (the largest number for integers)."""
    was, fills = _mode(), torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of operations that have no deterministic form
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(was[0], warn_only=was[1])
            torch.utils.deterministic.fill_uninitialized_memory = fills  # type: ignore[attr-defined]


def _mode() -> tuple[bool, bool]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )


def _poisoned(trial: Trial, stage: Stage) -> Trial:
    """Bind anew, with NaN for the scales of activations that the scheme does not give."""
    x, weights = trial.call.args
    nan = torch.full((1,), torch.nan, device=stage.home)
    poison = {
        name: nan.clone()
        for name in ("input_scale", "input_global_scale")
        if getattr(weights, name) is None
    }
    given = replace(weights, **poison)
    kernel = stage.registry.load_kernel(trial.spec.id)
    prepared = kernel.prepare(given, trial.case.config, stage.device)
    run_ = kernel.bind(trial.case.config, prepared, stage.device)
    return replace(trial, call=Call((x, weights)), run=run_, prepared=prepared)
