"""launches: the profiler counts what the capability declares, and nothing for no rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from quantmux.ops.quantized import QuantizedTensor
from quantmux.ops.spec import Case, op_spec
from quantmux.testing.answers import agrees, fails, not_here, served
from quantmux.testing.cell import Cell, Outcome
from quantmux.testing.derive import labelled, plain_cases
from quantmux.testing.launches import launches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux.testing.stage import Stage

ALWAYS: Final = False
CALLS: Final = 4


def cells(spec: KernelSpec, stage: Stage, small_only: bool) -> Iterator[Cell]:
    """Give one cell per scheme or operand at few and at many rows."""
    del small_only
    if not stage.device.is_cuda:
        yield Cell(spec.id, "launches", "no GPU")
        return
    ms = (16, 1024) if spec.op == "linear" else (16,)
    if is_bare_composite(spec):
        yield Cell(spec.id, "launches", "composite")
        return
    for label, case, detail in labelled(plain_cases(spec, stage, ms)):
        config = case.config
        if spec.op == "linear" and config.bias and config.out_dtype != "fp32":
            # the number that is declared holds for a bias that the output's dtype can hold
            detail["bias"] = config.out_dtype
        yield Cell(spec.id, "launches", label, case, tuple(detail.items()))


def run(cell: Cell, stage: Stage) -> Outcome:
    """Count what reaches the GPU."""
    if cell.case is None:
        return no_promise(cell, "a CPU launches no kernels")
    asked = served(cell, stage)
    if isinstance(asked, Outcome):
        return asked
    spec, case = asked
    stage.registry.load_kernel(spec.id).warmup(case.config, [case.m])
    names = [] if _holds_bytes(case) else launched(stage.trial(spec, Case(case.config, 0)), 1)
    if names:
        return fails(f"M = 0 launches {len(names)}: {_shown(names)}", "empty")
    declared = spec.capability.launches
    if declared is None:
        return not_here("it declares no number of launches", "launches")
    names = launched(stage.trial(spec, case, **dict(cell.detail)), CALLS)
    if len(names) != declared * CALLS:
        seen = f"{len(names) / CALLS:g}: {_shown(names)}"
        return fails(f"declares {declared} launches, found {seen}", "launches")
    return agrees()


def is_bare_composite(spec: KernelSpec) -> bool:
    """Tell whether a kernel is torch operations in a row that promise neither speed nor capture.

    They may launch for no rows, and wait for the GPU.
    """
    return "composite" in spec.capability.tags and "cuda_graph" not in spec.capability.tags


def no_promise(cell: Cell, on_cpu: str) -> Outcome:
    """Give the outcome of a cell without a case: there is no GPU, or no promise to keep."""
    if cell.label == "composite":
        return not_here("a composite without the tag cuda_graph promises nothing", "composite")
    return not_here(on_cpu, "gpu")


def _holds_bytes(case: Case) -> bool:
    """Tell whether a result of no rows has something to write: the scale of a whole tensor."""
    fake = op_spec(case.config.op).fake(case.config, 0)
    parts = fake.tensors() if isinstance(fake, QuantizedTensor) else (fake,)
    return any(part.numel() for part in parts)


def launched(call: Callable[[], Any], calls: int) -> list[str]:
    """Give the names of everything that runs on the GPU during some calls, warm ones."""
    return [launch.name for one in launches(call, calls=calls).calls for launch in one]


def _shown(names: list[str]) -> str:
    return ", ".join(sorted({name[:60] for name in names}))
