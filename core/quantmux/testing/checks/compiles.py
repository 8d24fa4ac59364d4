"""compiles: the kernel's device code is machine code for every named GPU it claims."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux.testing.compile_cells import compile_cells, run_compile_cell

if TYPE_CHECKING:
    from collections.abc import Iterable

    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux.testing.cell import Cell, Outcome
    from quantmux.testing.stage import Stage

ALWAYS: Final = True


def cells(spec: KernelSpec, stage: Stage, small_only: bool) -> Iterable[Cell]:
    """Give one cell per named profile that the kernel claims."""
    del small_only
    return compile_cells(stage.registry, kernels=(spec.id,))


def run(cell: Cell, stage: Stage) -> Outcome:
    """Compile for the profile; needs no GPU."""
    return run_compile_cell(cell, stage.registry)
