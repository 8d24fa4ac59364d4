"""Outcomes, made and judged the same way by every check."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from quantmux.capability.rejection import RejectionCode
from quantmux.errors import QuantmuxError
from quantmux.ops.agreement import agreement
from quantmux.ops.layouts import flat_storage
from quantmux.ops.poison import PLAIN_POISON, POISON, poisoned_output
from quantmux.ops.quantized import QuantizedTensor
from quantmux.testing.addresses import placement_problem
from quantmux.testing.cell import Outcome, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from quantmux.capability.rejection import Rejection
    from quantmux.ops.spec import Case
    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux.testing.cell import Cell
    from quantmux.testing.stage import Stage, Trial

_NOT_HERE = frozenset(
    {
        RejectionCode.ARCH,
        RejectionCode.NEEDS_PACKAGE,
        RejectionCode.NEEDS_TOOL,
        RejectionCode.UNAVAILABLE,
    }
)

_SPOILED = frozenset({"nan", "inf", "mixed"})
"""Contents for which a whole result may be NaN, as its poison usually is."""


def agrees(error: float | None = None, reason: str = "") -> Outcome:
    """Give the outcome of a kernel that is right."""
    return Outcome(Verdict.AGREES, reason, error=error)


def fails(reason: str, code: str = "", error: float | None = None) -> Outcome:
    """Give the outcome of a kernel that is wrong; the reason is one line."""
    return Outcome(Verdict.FAILS, " ".join(reason.split()), code, error)


def not_here(reason: str, code: str = "") -> Outcome:
    """Give the outcome of a question that cannot be asked here."""
    return Outcome(Verdict.NOT_HERE, reason, code)


def refused(reasons: Iterable[Rejection]) -> Outcome:
    """Give the outcome of a case that selection refuses.

    A veto that raises is no refusal; a package that is missing here makes the cell *not here*.
    """
    found = tuple(reasons)
    first = found[0]
    for rejection in found:
        if rejection.code is RejectionCode.PLUGIN_ERROR:
            return fails(str(rejection), str(rejection.code))
        if rejection.code in _NOT_HERE:
            return not_here(str(rejection), str(rejection.code))
    return Outcome(Verdict.REFUSES, "; ".join(str(r) for r in found), str(first.code))


def served(cell: Cell, stage: Stage) -> tuple[KernelSpec, Case] | Outcome:
    """Give the kernel and the case of a cell, or the outcome of a kernel that does not serve it."""
    spec = stage.spec(cell.kernel)
    if cell.case is None:
        raise ValueError(f"{cell.id} has no case")
    reasons = stage.refusals(spec, cell.case.config, cell.case.m)
    return refused(reasons) if reasons else (spec, cell.case)


def told(error: BaseException) -> str:
    """Give an exception as one line."""
    text = str(error)
    if isinstance(error, QuantmuxError):
        text = "; ".join((error.headline, *error.facts))
    return f"{type(error).__name__}: {' '.join(text.split())}"[:600]


def judged(trial: Trial) -> Outcome:
    """Run a trial into a poisoned output, then into one of the kernel's own, and judge both."""
    poisoned = poisoned_output(
        trial.case.config,
        trial.case.m,
        _device_of(trial),
        row_multiple=trial.spec.capability.output_row_multiple,
        # where NaN is due, memory that was left as it was must not look like it
        byte=PLAIN_POISON if trial.case.kind in _SPOILED else POISON,
    )
    before = checksums(trial)
    result = trial(out=poisoned.out)
    problem = _into_problem(result, poisoned.out)
    if problem:
        return fails(problem, "out")
    if poisoned.overrun:
        where = ", ".join(poisoned.overrun)
        return fails(f"wrote beside its output: {where}", "overrun")
    if trial.case.m and poisoned.untouched:
        where = ", ".join(poisoned.untouched)
        return fails(f"left its output as it found it: {where}", "untouched")
    # first, as the reference would be asked about inputs that the kernel was not given
    changed = changed_inputs(trial, before)
    if changed:
        return fails(f"changed its input: {changed}", "mutates")
    outcome = compared(trial, result)
    if outcome.verdict is Verdict.FAILS:
        return outcome
    second = trial()
    if "deterministic" in trial.spec.capability.tags:
        differs = difference(result, second)
        if differs:
            return fails(f"without out= it gives another result: {differs}", "own_output")
    else:
        own = compared(trial, second)
        if own.verdict is Verdict.FAILS:
            return fails(f"without out=: {own.reason}", "own_output", own.error)
    return outcome


def compared(trial: Trial, result: Any) -> Outcome:
    """Compare a result with the reference, and its addresses with formulas of their own."""
    capability = trial.spec.capability
    loose, tags = capability.rel_tolerance, capability.tags
    found = agreement(trial.judged, trial.call, result, rel_tolerance=loose, tags=tags)
    if not found.ok:
        return fails(found.reason, "disagrees", found.error)
    if isinstance(result, QuantizedTensor):
        problem = placement_problem(result, trial)
        if problem:
            return fails(problem, "placement", found.error)
    return agrees(found.error)


def difference(a: Any, b: Any) -> str:
    """Give where two results of one kernel differ in a bit, "" if nowhere."""
    if type(a) is not type(b):
        return f"{type(a).__name__} and {type(b).__name__}"
    if isinstance(a, QuantizedTensor):
        if a.layout != b.layout or a.logical_shape != b.logical_shape:
            return "another layout or shape"
        named = zip(("data", "scales", "global_scale"), a.tensors(), strict=False)
        for (name, left), right in zip(named, b.tensors(), strict=True):
            if not torch.equal(stored_bytes(left), stored_bytes(right)):
                return name
        return ""
    if a.shape != b.shape or a.dtype != b.dtype:
        return f"{list(a.shape)} {a.dtype} and {list(b.shape)} {b.dtype}"
    left, right = logical_bytes(a), logical_bytes(b)
    if torch.equal(left, right):
        return ""
    wrong = (left != right).sum()
    return f"{int(wrong)} bytes of {left.numel()}"


def logical_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Give the bytes of the elements, without the gaps between rows."""
    flat = tensor.detach().reshape(-1)
    # a copy: a single element keeps the stride it had, with which it cannot be viewed as bytes
    return (
        torch.empty_like(flat, memory_format=torch.contiguous_format).copy_(flat).view(torch.uint8)
    )


def stored_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Give the bytes from a tensor's first element to its last, pad rows between included."""
    if tensor.numel() == 0:
        return torch.empty(0, dtype=torch.uint8, device=tensor.device)
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    extent = 1 + sum((size - 1) * stride for size, stride in sizes)
    return flat_storage(tensor, extent).view(torch.uint8)


def checksums(trial: Trial) -> dict[str, torch.Tensor]:
    """Give copies of the bytes of everything that a call may read and may not write."""
    return {name: logical_bytes(t) for name, t in _readable(trial).items()}


def changed_inputs(trial: Trial, before: dict[str, torch.Tensor]) -> str:
    """Give the names of the inputs that are no longer what they were, "" if all are."""
    now = _readable(trial)
    return ", ".join(
        name for name, bits in before.items() if not torch.equal(logical_bytes(now[name]), bits)
    )


def _readable(trial: Trial) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for place, value in enumerate(trial.inputs):
        if isinstance(value, QuantizedTensor):
            names = ("x.data", "x.scales", "x.global_scale")
            found |= dict(zip(names, value.tensors(), strict=False))
        else:
            found["x" if place == 0 else f"argument {place}"] = value
    found |= dict(trial.call.kwargs)
    if trial.spec.op == "linear":
        found |= {f"weights.{k}": v for k, v in trial.call.args[1].named().items()}
        found |= {f"prepared.{k}": v for k, v in trial.prepared.tensors.items()}
    return found


def _into_problem(result: Any, out: Any) -> str:
    """Say what is wrong with what a call that was given ``out`` returned."""
    if type(result) is not type(out):
        return f"out= needs to be returned, found {type(result).__name__}"
    have, want = ((q.tensors() if isinstance(q, QuantizedTensor) else (q,)) for q in (result, out))
    for left, right in zip(have, want, strict=False):
        if left.data_ptr() != right.data_ptr() or left.shape != right.shape:
            return "out= needs to be returned, found other memory"
    return ""


def _device_of(trial: Trial) -> torch.device:
    device: torch.device = trial.inputs[0].device
    return device
