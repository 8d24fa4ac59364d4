"""The checks, by name. Each gives its cells for a kernel, and runs one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from quantmux.testing.checks import (
    bounds,
    compiles,
    graph,
    host_sync,
    launches,
    memory,
    numbers,
    poisoned_scales,
    prepare,
    repeat,
    sources,
    strides,
    surroundings,
    threads,
    traced,
    variants,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux.testing.cell import Cell, Outcome
    from quantmux.testing.stage import Stage


class Check(Protocol):
    """One module of this folder."""

    ALWAYS: bool
    """Whether it asks something of a kernel that cannot run here."""

    def cells(self, spec: KernelSpec, stage: Stage, small_only: bool) -> Iterable[Cell]:
        """Give the cells of one kernel, the same in every process."""
        ...

    def run(self, cell: Cell, stage: Stage) -> Outcome:
        """Run one of them; what the kernel raises passes through."""
        ...


CHECKS: Final[dict[str, Check]] = {
    "numbers": numbers,
    "bounds": bounds,
    "prepare": prepare,
    "repeat": repeat,
    "memory": memory,
    "threads": threads,
    "poisoned_scales": poisoned_scales,
    "strides": strides,
    "surroundings": surroundings,
    "sources": sources,
    "variants": variants,
    "launches": launches,
    "graph": graph,
    "host_sync": host_sync,
    "traced": traced,
    "compiles": compiles,
}
"""Name → check, in the order in which they run."""
