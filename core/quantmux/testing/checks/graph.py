"""graph: a captured call replays to the bits of an eager one, on contents that came later."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.ops.quantized import QuantizedTensor
from quantmux.testing.answers import (
    agrees,
    compared,
    difference,
    fails,
    not_here,
    served,
    stored_bytes,
)
from quantmux.testing.cell import Cell, Outcome, Verdict
from quantmux.testing.derive import labelled, plain_cases

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux.testing.stage import Stage, Trial

ALWAYS: Final = False


def cells(spec: KernelSpec, stage: Stage, small_only: bool) -> Iterator[Cell]:
    """Give one cell per scheme or operand at few and at many rows."""
    del small_only
    if not stage.device.is_cuda:
        yield Cell(spec.id, "graph", "no GPU")
        return
    if "cuda_graph" not in spec.capability.tags:
        yield Cell(spec.id, "graph", "no tag")
        return
    for label, case, detail in labelled(plain_cases(spec, stage, (1, 16, 1024))):
        yield Cell(spec.id, "graph", label, case, tuple(detail.items()))


def run(cell: Cell, stage: Stage) -> Outcome:
    """Capture on some contents, replay on others, and on the first again."""
    if cell.case is None:
        why = "a CPU has no graphs" if cell.label == "no GPU" else "it has no tag cuda_graph"
        return not_here(why, "gpu" if cell.label == "no GPU" else "cuda_graph")
    asked = served(cell, stage)
    if isinstance(asked, Outcome):
        return asked
    spec, case = asked
    trial, later = (stage.trial(spec, case, other=i) for i in (0, 1))
    first = [t.clone() for t in _tensors(trial)]
    stage.registry.load_kernel(spec.id).warmup(case.config, [case.m])
    trial()
    torch.cuda.synchronize(stage.home)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = trial()
    for contents, name in ((_tensors(later), "other contents"), (first, "the first contents")):
        for target, source in zip(_tensors(trial), contents, strict=True):
            target.copy_(source)
        for part in _parts(captured):
            stored_bytes(part).fill_(0xFF)
        graph.replay()
        torch.cuda.synchronize(stage.home)
        outcome = compared(trial, captured)
        if outcome.verdict is Verdict.FAILS:
            return fails(f"a replay on {name}: {outcome.reason}", "graph", outcome.error)
        differs = difference(captured, trial())
        if differs and "deterministic" in spec.capability.tags:
            return fails(f"a replay on {name} differs from a call: {differs}", "graph")
    return agrees(outcome.error)


def _tensors(trial: Trial) -> list[torch.Tensor]:
    """Give the tensors of the inputs that may hold something else at every call."""
    return [part for value in trial.inputs for part in _parts(value)]


def _parts(value: Any) -> tuple[torch.Tensor, ...]:
    return value.tensors() if isinstance(value, QuantizedTensor) else (value,)
