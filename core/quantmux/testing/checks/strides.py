"""strides: rows of a linear's output lie as the capability says, and elements of x may lie apart.

A plain x is often a part of a wider matrix, such as one of three fused projections; what lies
between its rows belongs to somebody else. Rows that begin at no multiple of 16 bytes, and the
transpose of a matrix, may be refused by an `InputError`: selection does not see them coming.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.capability.rejection import RejectionCode
from quantmux.config import LinearConfig
from quantmux.config.layouts import round_up
from quantmux.errors import InputError
from quantmux.ops.spec import Call, Case
from quantmux.testing.answers import agrees, compared, fails, refused, told
from quantmux.testing.cell import Cell, Outcome, Verdict
from quantmux.testing.derive import labelled, plain_cases, rows_served, schemes_served, suiting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux.testing.stage import Stage, Trial

ALWAYS: Final = False
_GAP: Final = 24
"""Elements between two rows of x, all NaN."""
_APART: Final = ("x-rows-apart", "x-rows-off-16-bytes", "x-columns-apart")


def cells(spec: KernelSpec, stage: Stage, small_only: bool) -> Iterator[Cell]:
    """Give widths on and off 8 and the kernel's own multiple, with and without contiguous rows.

    And, for every scheme or operand, an x whose elements lie apart.
    """
    del small_only
    for label, case, detail in labelled(plain_cases(spec, stage, (17,))):
        if spec.op != "relayout" and not (
            spec.op == "linear" and stage.inputs_read(spec, case.config)
        ):
            for how in _APART:
                yield Cell(spec.id, "strides", f"{how}-{label}", case, tuple(detail.items()))
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
        return _apart(stage.trial(spec, case, **dict(cell.detail)), cell.label)
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


def _apart(trial: Trial, how: str) -> Outcome:
    """Call with the same x inside a matrix of NaN, of which not a byte may change."""
    x, *rest = trial.call.args
    whole = _laid_out(x, how)
    apart = _inside(whole, x, how).copy_(x)
    before = whole.view(torch.uint8).clone()
    # positions of a rotation may be a column of a table
    others = [_every_other(t) for t in rest]
    is_asked = how.startswith(_APART[0])
    own = replace(trial, call=Call((apart, *others), trial.call.kwargs))
    try:
        result = own()
    except InputError as error:
        if is_asked:
            raise
        return Outcome(Verdict.REFUSES, told(error), error.code)
    if not torch.equal(whole.view(torch.uint8), before):
        return fails("wrote between the rows of x, or into it", "mutates")
    return compared(own, result)


def _every_other(value: Any) -> Any:
    """Give integers as every other element of a row; what else a call takes as it is."""
    if isinstance(value, torch.Tensor) and value.dtype == torch.int64:
        return value.repeat_interleave(2)[::2]
    return value


def _laid_out(x: torch.Tensor, how: str) -> torch.Tensor:
    """Give a matrix of NaN, contiguous, that x fits into."""
    *outer, last = x.shape
    if how.startswith("x-columns-apart"):
        shape = (*outer[1:], last, outer[0])
    else:
        shape = (*outer, last + _GAP + how.startswith("x-rows-off"))
    return torch.full(shape, torch.nan, dtype=x.dtype, device="cpu").to(x.device)


def _inside(whole: torch.Tensor, x: torch.Tensor, how: str) -> torch.Tensor:
    """Give the part of the matrix that plays x."""
    if how.startswith("x-columns-apart"):
        return whole.movedim(-1, 0)
    return whole[..., : x.shape[-1]]
