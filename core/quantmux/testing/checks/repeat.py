"""repeat: the same call gives the same, another input gives another, and no input is changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from quantmux.testing.answers import (
    agrees,
    changed_inputs,
    checksums,
    compared,
    difference,
    fails,
    served,
)
from quantmux.testing.cell import Cell, Outcome, Verdict
from quantmux.testing.derive import labelled, plain_cases

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux.testing.stage import Stage

ALWAYS: Final = False
CALLS: Final = 10
"""Calls that a deterministic kernel must give the same bits for."""


def cells(spec: KernelSpec, stage: Stage, small_only: bool) -> Iterator[Cell]:
    """Give one cell per scheme or operand."""
    del small_only
    for label, case, detail in labelled(plain_cases(spec, stage, (33,))):
        yield Cell(spec.id, "repeat", label, case, tuple(detail.items()))


def run(cell: Cell, stage: Stage) -> Outcome:
    """Call with one input, with another, and with the first again.

    A kernel that gives what it gave the last time, or keeps something per shape, is found by the
    second; one that is tagged ``deterministic`` must repeat itself to the bit.
    """
    asked = served(cell, stage)
    if isinstance(asked, Outcome):
        return asked
    spec, case = asked
    first, second = (stage.trial(spec, case, other=i) for i in (0, 1))
    before = checksums(first)
    result = first()
    changed = changed_inputs(first, before)
    if changed:
        return fails(f"changed its input: {changed}", "mutates")
    worst = 0.0
    for name, trial, found in (
        ("", first, result),
        ("with other contents: ", second, second()),
        ("with the first contents again: ", first, first()),
    ):
        outcome = compared(trial, found)
        if outcome.verdict is Verdict.FAILS:
            return fails(name + outcome.reason, outcome.code, outcome.error)
        worst = max(worst, outcome.error or 0.0)
    _bind_neighbour(spec, case.config, stage)
    outcome = compared(first, first())
    if outcome.verdict is Verdict.FAILS:
        return fails(f"after another config was bound: {outcome.reason}", "shared_state")
    # the first result must not have been written to by the calls after it
    outcome = compared(first, result)
    if outcome.verdict is Verdict.FAILS:
        return fails(f"a later call changed an earlier result: {outcome.reason}", "shared_output")
    if "deterministic" in spec.capability.tags:
        for call in range(2, CALLS + 1):
            differs = difference(result, first())
            if differs:
                return fails(f"deterministic, and call {call} differs: {differs}", "repeat")
    changed = changed_inputs(first, before)
    if changed:
        return fails(f"changed its input: {changed}", "mutates")
    return agrees(worst)


def _bind_neighbour(spec: KernelSpec, config: Any, stage: Stage) -> None:
    """Bind the kernel for a config that differs in numbers and not in shape, if it serves one.

    What it keeps on itself is then that config's. Linears are asked so by the check `prepare`.
    """
    if config.op in ("linear", "relayout"):
        return
    operand, kernel = config.operand, stage.registry.load_kernel(spec.id)
    near: list[dict[str, Any]] = [{"in_dtype": dtype} for dtype in ("fp16", "fp32", "bf16")]
    if not operand.is_nvfp4:
        near = [{"operand": operand.replace(eps=0.75)}, *near]
    if config.op == "rmsnorm_quantize":
        near = [{"norm_eps": 0.5}, *near]
    if config.op == "rope_quantize":
        scale = 0.5 if config.static_scale is None else 16 * config.static_scale
        near = [{"static_scale": scale}, {"interleaved": not config.interleaved}, *near]
    for changes in near:
        other = config.replace(**changes)
        if other != config and stage.verdict(spec, other).is_eligible:
            kernel.bind(other, stage.device)
            return
