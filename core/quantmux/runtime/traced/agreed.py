"""Agreed: the settings under which a fused producer is looked for. All that it serves allow it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from quantmux.capability.evidence import EvidenceLevel
from quantmux.config.policy import STAGES, FallbackPolicy

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from quantmux.config.settings import Settings

_TOLD: Final = {
    "call": "the layer's own policy",
    "context": "the policy that the layer was bound under",
}
"""How a report names where a member's setting came from, by the first word of its origin."""

_WISHES: Final = ("order", "self_check", "capture")


def agreed(
    asked: Sequence[Settings], members: Sequence[Settings], forced: str | None = None
) -> Settings:
    """Give settings that allow a producer only what the pass and every member allow.

    ``deny`` is all that any of them denies, ``require_evidence`` the most that one requires: a
    policy over the members may forbid more, not less. ``order``, ``self_check``, ``capture`` and
    ``fallback`` are what the pass says, else what the first member says that was told so itself,
    else what holds for the producer's op. What a linear says of lossy kernels and of copies of its
    weights is no matter of producers.

    Args:
        asked: What holds for the producer's op, one per name of a layer; the first counts.
        members: What the linears or the quantizer were selected under.
        forced: What they force to quantize; None where they do not.
    """
    first = asked[0]
    deny, by = _denied(asked, members)
    levels = [EvidenceLevel(one.require_evidence) for one in (*asked, *members)]
    level = max(levels, key=lambda one: one.rank)
    changes: dict[str, Any] = {"deny": deny, "require_evidence": level.value}
    origins = {**first.origins, "deny": by} if deny else dict(first.origins)
    for name in _WISHES:
        told = _told(name, first, members)
        if told is not None:
            changes[name] = getattr(told, name)
            origins[name] = _origin(told, name)
    if forced is not None:
        changes["force"] = forced
        origins["force"] = _TOLD["call"]
    actions: dict[str, Any] = first.fallback.given()
    for stage in STAGES:
        told = _told(f"fallback.{stage}", first, members)
        if told is not None:
            actions[stage] = told.on_fallback(stage)
            origins[f"fallback.{stage}"] = _origin(told, f"fallback.{stage}")
    changes["fallback"] = FallbackPolicy(**actions)
    return replace(first, **changes, origins=origins)


def _denied(asked: Iterable[Settings], members: Iterable[Settings]) -> tuple[tuple[str, ...], str]:
    """Give all patterns that are denied, and who says so."""
    deny: dict[str, None] = {}
    by: dict[str, None] = {}
    for one, is_member in (*((s, False) for s in asked), *((s, True) for s in members)):
        more = [pattern for pattern in one.deny if pattern not in deny]
        if more:
            deny |= dict.fromkeys(more)
            by[_origin(one, "deny") if is_member else one.origin("deny")] = None
    return tuple(deny), ", ".join(by)


def _told(name: str, first: Settings, members: Iterable[Settings]) -> Settings | None:
    """Give the member that was told a setting itself; None where the pass says it, or nobody."""
    if _level(first, name) in _TOLD:
        return None
    return next((one for one in members if _level(one, name) in _TOLD), None)


def _level(settings: Settings, name: str) -> str:
    return settings.origin(name).partition(" ")[0]


def _origin(settings: Settings, name: str) -> str:
    return _TOLD.get(_level(settings, name), settings.origin(name))


__all__ = ["agreed"]
