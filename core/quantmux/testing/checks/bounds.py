"""bounds: every declared bound, from both sides.

A cell changes one thing of a config that the kernel serves. Inside the bound it must run and agree;
outside, selection must refuse with the code that is due, and with no other: a refusal for another
reason says nothing about the bound.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from quantmux.capability.rejection import RejectionCode
from quantmux.testing.answers import agrees, fails, judged, not_here, refused
from quantmux.testing.cell import Cell, Outcome, Verdict
from quantmux.testing.derive import plain_cases
from quantmux.testing.edges import arch_fits, edges

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux.testing.stage import Stage

ALWAYS: Final = True
"""Which architectures it refuses can be asked anywhere."""


def cells(spec: KernelSpec, stage: Stage, small_only: bool) -> Iterator[Cell]:
    """Give the cells of the architectures, then those of every bound."""
    del small_only
    for profile in stage.registry.profiles():
        yield Cell(spec.id, "bounds", f"arch-{profile}", detail=(("arch", profile),))
    if stage.blocked(spec) is not None:
        yield Cell(spec.id, "bounds", "not here")
        return
    seen: set[str] = set()
    for edge in edges(spec, stage):
        if edge.label not in seen:
            seen.add(edge.label)
            due = ",".join(sorted(edge.due))
            detail: tuple[tuple[str, Any], ...] = (("due", due),)
            yield Cell(spec.id, "bounds", edge.label, edge.case, detail)


def run(cell: Cell, stage: Stage) -> Outcome:
    """Ask selection; inside the bound, ask the kernel too."""
    spec = stage.spec(cell.kernel)
    detail = dict(cell.detail)
    if "arch" in detail:
        return _arch(spec, stage, detail["arch"])
    case = cell.case
    if case is None:
        blocked = stage.blocked(spec)
        return not_here(str(blocked), str(blocked.code) if blocked else "")
    due = frozenset(code for code in detail["due"].split(",") if code)
    reasons = stage.refusals(spec, case.config, case.m)
    codes = {str(r.code) for r in reasons}
    if due:
        if not reasons:
            return fails(f"needs a refusal with {', '.join(due)}, found none", "bound")
        if not codes <= due:
            found = "; ".join(str(r) for r in reasons)
            return fails(f"needs a refusal with {', '.join(due)} alone, found {found}", "bound")
        return refused(reasons)
    if reasons:
        answer = refused(reasons)
        if spec.veto is not None and answer.verdict is Verdict.REFUSES and len(reasons) == 1:
            return answer  # what data cannot say, a veto adds
        return fails(f"declared, and refused: {answer.reason}", "bound")
    return judged(stage.trial(spec, case))


def _arch(spec: KernelSpec, stage: Stage, name: str) -> Outcome:
    profile = stage.registry.profiles()[name]
    fits = any(arch_fits(str(arch), str(profile.arch)) for arch in spec.capability.arch)
    # a veto is asked only about what the data declares; without one such config it cannot speak
    bare = replace(spec, veto=None)
    declared = plain_cases(bare, stage.on(profile), (8,))
    config = declared[0][0].config if declared else stage.any_config(spec)
    reasons = stage.verdict_on(spec, config, profile).rejections
    refusals = [r for r in reasons if r.code is RejectionCode.ARCH]
    if fits and refusals:
        return fails(f"declared for {profile}, and refused: {refusals[0]}", "bound")
    if fits:
        return agrees(reason=f"declared for {profile}")
    if not refusals:
        return fails(f"not declared for {profile}, and not refused with arch", "bound")
    return Outcome(Verdict.REFUSES, str(refusals[0]), str(RejectionCode.ARCH))
