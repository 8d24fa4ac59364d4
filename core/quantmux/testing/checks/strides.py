"""strides: rows of a linear's output lie as the capability says, and rows of x may lie apart.

A plain x is often a part of a wider matrix, such as one of three fused projections.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import torch

from quantmux.capability.rejection import RejectionCode
from quantmux.config import LinearConfig
from quantmux.config.layouts import round_up
from quantmux.ops.spec import Call, Case
from quantmux.testing.answers import agrees, compared, fails, refused
from quantmux.testing.cell import Cell, Verdict
from quantmux.testing.derive import labelled, plain_cases, rows_served, schemes_served, suiting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux.testing.cell import Outcome
    from quantmux.testing.stage import Stage, Trial

ALWAYS: Final = False
_APART: Final = "x-rows-apart"
_GAP: Final = 24
"""Elements between two rows of x, all NaN."""


def cells(spec: KernelSpec, stage: Stage, small_only: bool) -> Iterator[Cell]:
    """Give widths on and off 8 and the kernel's own multiple, with and without contiguous rows.

    And, for every scheme or operand, an x whose rows lie apart.
    """
    del small_only
    for label, case, detail in labelled(plain_cases(spec, stage, (17,))):
        if spec.op != "relayout" and not (
            spec.op == "linear" and stage.inputs_read(spec, case.config)
        ):
            yield Cell(spec.id, "strides", f"{_APART}-{label}", case, tuple(detail.items()))
    if spec.op != "linear":
        return
    capability = spec.capability
    n, k = suiting(capability)
    (m,) = rows_served(capability, (17,))
    widths = {n, n + 2, n + 8, n + 1, n + capability.output_row_multiple}
    for name in schemes_served(spec, stage)[:1]:
        for width in sorted(w for w in widths if w % capability.align_n == 0):
            for contiguous in (False, True):
                config = LinearConfig(
                    in_features=k,
                    out_features=width,
                    scheme=name,
                    in_dtype=capability.in_dtypes[0],
                    out_dtype=capability.out_dtypes[0],
                    contiguous_output=contiguous,
                )
                label = f"N{width}" + ("-contiguous" if contiguous else "")
                yield Cell(spec.id, "strides", label, Case(config, m, source="rows of y"))


def run(cell: Cell, stage: Stage) -> Outcome:
    """Look at the strides of an output that the kernel allocates, or give x strides of its own."""
    spec, case = stage.spec(cell.kernel), cell.case
    if case is None:
        raise ValueError(f"{cell.id} has no case")
    if cell.label.startswith(_APART):
        trial = _rows_apart(stage.trial(spec, case, **dict(cell.detail)))
        return compared(trial, trial())
    config: LinearConfig = case.config
    multiple = spec.capability.output_row_multiple
    reasons = stage.refusals(spec, config, case.m)
    impossible = config.contiguous_output and config.n % multiple != 0
    if impossible and not any(r.code is RejectionCode.OUTPUT_STRIDE for r in reasons):
        return fails(f"needs {RejectionCode.OUTPUT_STRIDE}, found no refusal", "bound")
    if reasons:
        return refused(reasons)
    trial = stage.trial(spec, case)
    y = trial()
    need = (round_up(config.n, multiple), 1)
    if tuple(y.stride()) != need:
        return fails(f"rows of y need strides {need}, found {tuple(y.stride())}", "strides")
    outcome = compared(trial, y)
    return outcome if outcome.verdict is Verdict.FAILS else agrees(outcome.error)


def _rows_apart(trial: Trial) -> Trial:
    """Give the trial with the same x inside a wider matrix of NaN."""
    x, *rest = trial.call.args
    wide = torch.full((*x.shape[:-1], x.shape[-1] + _GAP), torch.nan, dtype=x.dtype).to(x.device)
    apart = wide[..., : x.shape[-1]].copy_(x)
    return replace(trial, call=Call((apart, *rest), trial.call.kwargs))
