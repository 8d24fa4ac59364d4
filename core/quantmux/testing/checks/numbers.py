"""numbers: every case of the op and of the capability agrees with the reference, or is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux.ops.spec import op_spec
from quantmux.testing.answers import judged, not_here, served
from quantmux.testing.cell import Cell, Outcome
from quantmux.testing.derive import Derived, derived, labelled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux.testing.stage import Stage

ALWAYS: Final = False


def cells(spec: KernelSpec, stage: Stage, small_only: bool) -> Iterator[Cell]:
    """Give the cases of the op, then those of the capability.

    Shapes of real layers come where they are quick: on a GPU.
    """
    small_only = small_only or not stage.device.is_cuda
    cases: list[Derived] = [
        (c, {}) for c in op_spec(spec.op).cases() if c.is_small or not small_only
    ]
    for label, case, detail in labelled([*cases, *derived(spec, stage)]):
        yield Cell(spec.id, "numbers", label, case, tuple(detail.items()))
    for offer in spec.capability.produces:
        for name in offer.layouts:
            if ":" in name:
                yield Cell(spec.id, "numbers", f"{offer.element}-{name}")


def run(cell: Cell, stage: Stage) -> Outcome:
    """Give the verdict of selection where it refuses, else that of the reference."""
    if cell.case is None:
        layout = cell.label.partition("-")[2]
        return not_here(f"{layout} is a layout that only its plugin knows", "layout_undefined")
    asked = served(cell, stage)
    if isinstance(asked, Outcome):
        return asked
    spec, case = asked
    return judged(stage.trial(spec, case, **dict(cell.detail)))
