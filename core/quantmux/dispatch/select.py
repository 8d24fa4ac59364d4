"""select: a pure function of config, device, kernels, settings and measured times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux.capability.rejection import Rejection, RejectionCode
from quantmux.config._base import closest
from quantmux.dispatch.candidates import Survey, Surveyor
from quantmux.dispatch.eligible import reject
from quantmux.dispatch.nearest import nearest_miss
from quantmux.dispatch.ranges import PROBE_MS, RangeChoice, choose_weight_layouts, m_ranges
from quantmux.dispatch.rank import Ranking
from quantmux.dispatch.selection import Selection
from quantmux.errors import ForcedKernelError, NoKernelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LayerConfig
    from quantmux.config.settings import Settings
    from quantmux.dispatch.inventory import Inventory
    from quantmux.dispatch.pipeline import Pipeline


APPROXIMATE: Final = "approximate: its quantized numbers may differ from the definition's"
"""Why an approximate kernel stands behind exact ones of its tier."""


def survey(
    config: LayerConfig,
    device: DeviceProfile,
    settings: Settings,
    inventory: Inventory,
    m: int | None = None,
) -> Selection:
    """Give the selection even if nothing can serve (``ranges`` is empty then).

    Args:
        config: What is wanted.
        device: Where.
        settings: Effective policy.
        inventory: Kernels and what is known of them.
        m: One M only; None covers every M from 1.
    """
    found = Surveyor(config, device, settings, inventory).survey()
    ranking = Ranking(config, device, settings, inventory.tuning)
    pipelines = found.pipelines
    layouts: frozenset[str] = frozenset()
    if config.op == "linear" and pipelines:
        probe = PROBE_MS if m is None else (max(m, 1),)
        layouts = choose_weight_layouts(pipelines, ranking, settings.weight_copies, probe)
        pipelines = [p for p in pipelines if p.weight_layout in layouts]
    ranges = m_ranges(pipelines, ranking, m)
    rejected = _losers(found, ranges, layouts, ranking, m)
    kernels = inventory.of_op(config.op)
    winner = ranges[0].pipeline if ranges else None
    used = frozenset(i for choice in ranges for p in choice.candidates for i in p.ids)
    return Selection(
        config=config,
        device=device,
        ranges=ranges,
        rejected=rejected,
        producers=found.producers,
        assumptions=_assumptions(inventory, used),
        nearest_miss=nearest_miss(kernels, rejected, winner, settings.order),
        settings=settings,
        weight_layouts=tuple(sorted(layouts)),
    )


def select(
    config: LayerConfig,
    device: DeviceProfile,
    settings: Settings,
    inventory: Inventory,
    m: int | None = None,
) -> Selection:
    """Give the selection, or raise with every kernel's rejections.

    Raises:
        ForcedKernelError: A kernel or backend was forced and cannot serve.
        NoKernelError: Nothing can serve.
    """
    selection = survey(config, device, settings, inventory, m)
    if selection.is_served:
        return selection
    raise no_kernel(selection, inventory, m)


def no_kernel(
    selection: Selection, inventory: Inventory, m: int | None = None
) -> NoKernelError | ForcedKernelError:
    """Build the error for a selection that serves nothing."""
    config, device, force = selection.config, selection.device, selection.settings.force
    asked = f"{config}" + (f", M={m}" if m is not None else "") + f", on {device}"
    if force is not None:
        forced = {
            name: reasons
            for name, reasons in selection.rejected.items()
            if any(r.code != RejectionCode.NOT_FORCED for r in reasons)
        }
        facts = _table(forced)
        known = {k.id for k in inventory.kernels} | {k.backend for k in inventory.kernels}
        hint = f"drop force={force!r}, or change what its rejections name"
        if force not in known:
            near = closest(force, sorted(known))
            hint = f'did you mean "{near}"?' if near else "quantmux plugins lists what is here"
            here = " ".join(sorted({k.backend for k in inventory.kernels})) or "none"
            facts = [
                f"no registered kernel has the id or the backend {force!r}",
                f"backends with kernels: {here}",
            ]
        return ForcedKernelError(
            f"{force} was forced and cannot serve {asked}",
            selection=selection,
            rejected=dict(selection.rejected),
            facts=facts,
            hint=hint,
        )
    facts = _table(selection.rejected)
    miss = selection.nearest_miss
    return NoKernelError(
        f"no kernel for {asked}",
        selection=selection,
        rejected=dict(selection.rejected),
        facts=facts or [f"no registered kernel has the op {config.op}"],
        hint=miss.text if miss else "run: quantmux doctor",
    )


def _losers(
    found: Survey,
    ranges: tuple[RangeChoice, ...],
    layouts: frozenset[str],
    ranking: Ranking,
    m: int | None,
) -> dict[str, tuple[Rejection, ...]]:
    """Give every kernel its reasons: those found before, and why the eligible ones lost."""
    rejected = dict(found.rejected)
    taken = {choice.pipeline.main.id for choice in ranges}
    best: dict[str, Pipeline] = {}
    for pipeline in found.pipelines:
        known = best.get(pipeline.main.id)
        if known is None or (known.is_approximate and not pipeline.is_approximate):
            best[pipeline.main.id] = pipeline
    for kernel_id, pipeline in best.items():
        reasons = list(found.limits.get(kernel_id, ()))
        reasons += (
            _lost(pipeline, choice, layouts, ranking, found.pipelines)
            for choice in ranges
            if choice.pipeline.main.id != kernel_id and _overlaps(choice, pipeline)
        )
        if reasons:
            rejected[kernel_id] = tuple(reasons)
        elif kernel_id not in taken:
            limit = "any M" if m is None else f"M = {m}"
            text = f"to serve {limit}"
            rejected[kernel_id] = (reject(RejectionCode.M_RANGE, "m", text, "no M in range"),)
    return rejected


def _overlaps(choice: RangeChoice, pipeline: Pipeline) -> bool:
    below = choice.m_max is not None and choice.m_max < pipeline.m_min
    above = pipeline.m_max is not None and choice.m_min > pipeline.m_max
    return not (below or above)


def _lost(
    pipeline: Pipeline,
    choice: RangeChoice,
    layouts: frozenset[str],
    ranking: Ranking,
    rivals: list[Pipeline],
) -> Rejection:
    """Say why an eligible kernel is not taken in a range: outranked, or on other weights."""
    winner = choice.pipeline
    if layouts and pipeline.weight_layout not in layouts:
        first = ranking.order([winner, pipeline], max(choice.m_min, pipeline.m_min))[0]
        if first is pipeline:
            return Rejection(
                code=RejectionCode.WEIGHT_LAYOUT,
                field="weight_layout",
                required=", ".join(sorted(layouts)),
                actual=pipeline.weight_layout,
                hint="weight_copies = 2 in the policy allows a second prepared copy",
                m_min=choice.m_min,
                m_max=choice.m_max,
            )
    return Rejection(
        code=RejectionCode.OUTRANKED,
        field="rank",
        required=f"{winner.main.id} ({winner.tier})",
        actual=f"{pipeline.main.id} ({pipeline.tier})",
        hint=_why(pipeline, choice, ranking, rivals),
        m_min=choice.m_min,
        m_max=choice.m_max,
    )


def _why(
    pipeline: Pipeline, choice: RangeChoice, ranking: Ranking, rivals: list[Pipeline]
) -> str | None:
    """Say what put the winner first, where it is neither the tier nor the order."""
    winner = choice.pipeline
    if pipeline.tier is winner.tier and pipeline.is_approximate and not winner.is_approximate:
        return APPROXIMATE
    if choice.m_min != choice.m_max:
        return None  # over a range of M there is no one time
    return ranking.why_first(winner, pipeline, rivals, choice.m_min)


def _assumptions(inventory: Inventory, used: frozenset[str]) -> tuple[str, ...]:
    lines = (line for kernel in used for line in inventory.assumptions.get(kernel, ()))
    return tuple(sorted(set(lines)))


def _table(rejected: Mapping[str, tuple[Rejection, ...]]) -> list[str]:
    """Give one aligned line per rejection: kernel, code, field, need against value."""
    rows = [
        (name, str(r.code), r.text) for name, reasons in sorted(rejected.items()) for r in reasons
    ]
    width = max((len(name) for name, _, _ in rows), default=0)
    code_width = max((len(code) for _, code, _ in rows), default=0)
    return [f"{name:<{width}}  {code:<{code_width}}  {text}" for name, code, text in rows]
