"""traced: the kernel is a lawful op of `torch.library`, and gives as such what it is to give."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

import torch

from quantmux.config.layouts import layouts_for, round_up
from quantmux.errors import ForcedKernelError, NoKernelError
from quantmux.ops.quantized import QuantizedTensor
from quantmux.runtime.context import Context
from quantmux.runtime.quarantine import Quarantine
from quantmux.runtime.traced.kernels import kernel_op
from quantmux.runtime.traced.producers import around, logical_shape
from quantmux.testing.answers import (
    agrees,
    changed_inputs,
    checksums,
    compared,
    fails,
    not_here,
    served,
)
from quantmux.testing.cell import Cell, Outcome, Verdict
from quantmux.testing.derive import labelled, plain_cases

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux.testing.stage import Stage, Trial

ALWAYS: Final = False
ROWS: Final = 8
"""A multiple of 4: opcheck clones what it calls with, and a clone loses the pad rows that lie
between the columns of aligned scales. Graphs hand scales on as they are."""

CELLS: Final = {"cpu": 1, "cuda": 8}
"""Schemes or operands of one kernel, at most: torch calls it about ten times in each, which an
interpreter on a CPU takes a second for. Every kernel is asked there, its variety on a GPU."""

UTILITIES: Final = ("test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
"""What torch asks. ``test_schema`` is asked here: torch's own compares inputs by an arithmetic that
it does not have for fp8."""

_contexts: WeakKeyDictionary[Stage, Context] = WeakKeyDictionary()


def cells(spec: KernelSpec, stage: Stage, small_only: bool) -> Iterator[Cell]:
    """Give cells for some schemes or operands of the kernel."""
    del small_only
    cases = labelled(plain_cases(spec, stage, (ROWS,)))
    plain = (c for c in cases if not _is_plugins_own(c[1].config))
    for label, case, detail in islice(plain, CELLS[stage.home.type]):
        yield Cell(spec.id, "traced", label, case, tuple(detail.items()))


def run(cell: Cell, stage: Stage) -> Outcome:
    """Ask `torch.library.opcheck`, look at the schema, and compare with the reference."""
    asked = served(cell, stage)
    if isinstance(asked, Outcome):
        return asked
    spec, case = asked
    case = replace(case, m=round_up(case.m, ROWS))
    trial = stage.trial(spec, case)
    weights = trial.call.args[1] if spec.op == "linear" else None
    try:
        # what a first use would find out is asked here, with more cases
        bound = kernel_op(
            spec.id,
            case.config,
            stage.device,
            weights,
            context=_context(stage),
            self_check="never",
        )
    except (ForcedKernelError, NoKernelError) as error:
        return not_here(f"alone it cannot be bound: {error.facts[0] if error.facts else error}")
    op, arguments = bound.arguments(*trial.inputs, **trial.call.kwargs)
    before = checksums(trial)
    result = op(*arguments)
    changed = changed_inputs(trial, before)
    if changed:
        return fails(f"as an op it changed its input: {changed}", "schema")
    shared = _shared(result, arguments)
    if shared:
        return fails(
            f"as an op it returned {shared}, and says that it returns new memory", "schema"
        )
    outcome = compared(trial, _whole(trial, result))
    if outcome.verdict is Verdict.FAILS:
        return outcome
    told = torch.library.opcheck(op, arguments, test_utils=UTILITIES, raise_exception=False)
    for name, answer in told.items():
        if answer != "SUCCESS":
            return fails(f"opcheck, {name}: {answer}"[:600], "opcheck")
    return agrees(outcome.error)


def _context(stage: Stage) -> Context:
    """Give the stage's plugins without a quarantine: what was put away is judged like any other."""
    found = _contexts.get(stage)
    if found is None:
        found = _contexts[stage] = Context(stage.registry, Quarantine())
    return found


def _is_plugins_own(config: Any) -> bool:
    """Tell whether a layout is a plugin's: what cannot be described has no fake."""
    layouts = [getattr(config, name, None) for name in ("layout", "source", "target")]
    return any(
        found is not None and found.scales not in layouts_for(config.operand) for found in layouts
    )


def _whole(trial: Trial, result: Any) -> Any:
    """Give what the op gave as the kernel gives it."""
    if isinstance(result, torch.Tensor):
        return result
    config: Any = trial.case.config
    x = trial.inputs[0]
    if config.op == "relayout":
        parts = [*result, *([] if x.global_scale is None else [x.global_scale])]
        return around(parts, config, config.target, x.logical_shape)
    given = trial.call.kwargs.get("global_scale")
    parts = [*result, *([] if given is None else [given])]
    return around(parts, config, config.layout, logical_shape(config, x.shape[0]))


def _shared(result: Any, arguments: tuple[Any, ...]) -> str:
    """Name a result in the memory of an argument or of another result, "" when there is none."""
    given = {_memory(t) for value in arguments for t in _tensors(value) if t.numel()}
    for tensor in _tensors(result):
        if tensor.numel() and _memory(tensor) in given:
            return "the memory of an argument, or one memory twice"
        given.add(_memory(tensor))
    return ""


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, QuantizedTensor):
        return list(value.tensors())
    if isinstance(value, list | tuple):
        return [t for inner in value for t in _tensors(inner)]
    return [value] if isinstance(value, torch.Tensor) else []


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
