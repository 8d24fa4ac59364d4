"""strides: rows of a linear's output lie as the capability says, in memory of its own too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux.capability.rejection import RejectionCode
from quantmux.config import LinearConfig
from quantmux.config.layouts import round_up
from quantmux.ops.spec import Case
from quantmux.testing.answers import agrees, compared, fails, refused
from quantmux.testing.cell import Cell, Verdict
from quantmux.testing.derive import rows_served, schemes_served, suiting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux.testing.cell import Outcome
    from quantmux.testing.stage import Stage

ALWAYS: Final = False


def cells(spec: KernelSpec, stage: Stage, small_only: bool) -> Iterator[Cell]:
    """Give widths on and off 8 and the kernel's own multiple, with and without contiguous rows."""
    del small_only
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
    """Look at the strides of an output that the kernel allocates."""
    spec, case = stage.spec(cell.kernel), cell.case
    if case is None:
        raise ValueError(f"{cell.id} has no case")
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
