"""Selection: the answer for one config on one device, with a reason for everything else."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quantmux.capability.device import DeviceProfile
    from quantmux.capability.rejection import Rejection
    from quantmux.config import LayerConfig
    from quantmux.config.settings import Settings
    from quantmux.dispatch.nearest import NearestMiss
    from quantmux.dispatch.pipeline import Pipeline
    from quantmux.dispatch.ranges import RangeChoice


@dataclass(frozen=True, eq=False)
class Selection:
    """Pipelines per M range, and every other kernel of the op with its rejections.

    Attributes:
        config: What was asked.
        device: For which device.
        ranges: Choices by ascending M; empty when nothing can serve.
        rejected: Kernel id → rejections, for every kernel of the op that is not taken for all M.
        producers: Kernel id → rejections, for producers that were looked at and cannot serve.
        assumptions: Packages and tools taken as present because the device is not here.
        nearest_miss: The smallest change that would let a better kernel serve, or None.
        settings: Effective policy with the origin of each setting.
        weight_layouts: Prepared weight forms in use, normally one.
    """

    config: LayerConfig
    device: DeviceProfile
    ranges: tuple[RangeChoice, ...]
    rejected: Mapping[str, tuple[Rejection, ...]]
    producers: Mapping[str, tuple[Rejection, ...]]
    assumptions: tuple[str, ...]
    nearest_miss: NearestMiss | None
    settings: Settings
    weight_layouts: tuple[str, ...] = ()
    _cache: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def is_served(self) -> bool:
        """Tell whether any M can be served."""
        return bool(self.ranges)

    def range_for(self, m: int) -> RangeChoice | None:
        """Give the choice for M rows, or None if nothing serves it. M = 0 takes the first."""
        for choice in self.ranges:
            if choice.m_min <= max(m, 1) and (choice.m_max is None or m <= choice.m_max):
                return choice
        if m == 0 and self.ranges:
            return self.ranges[0]
        return None

    def pipeline_for(self, m: int) -> Pipeline | None:
        """Give the winner for M rows, or None."""
        choice = self.range_for(m)
        return choice.pipeline if choice else None

    @property
    def kernels(self) -> tuple[str, ...]:
        """Ids of all kernels in use, in order of first use."""
        return tuple(dict.fromkeys(i for choice in self.ranges for i in choice.pipeline.ids))

    def explain(self) -> str:
        """Tell in plain text what was taken, what was not and why, and what would change it."""
        from quantmux.dispatch.explain import explain

        return explain(self)

    def to_dict(self) -> dict[str, Any]:
        """Give the selection as JSON-ready data."""
        miss = self.nearest_miss
        return {
            "config": self.config.model_dump(mode="json"),
            "device": self.device.name,
            "arch": str(self.device.arch),
            "assumptions": list(self.assumptions),
            "ranges": [choice.to_dict() for choice in self.ranges],
            "weight_layouts": list(self.weight_layouts),
            "rejected": _reasons(self.rejected),
            "rejected_producers": _reasons(self.producers),
            "nearest_miss": miss.to_dict() if miss else None,
            "settings": self.settings.to_dict(),
        }

    def digest(self) -> str:
        """Give a short stable hash of the answer, the same in every process."""
        known = self._cache.get("digest")
        if known is None:
            text = json.dumps(self.to_dict(), sort_keys=True)
            known = hashlib.sha256(text.encode()).hexdigest()[:16]
            self._cache["digest"] = known
        return str(known)


def _reasons(rejected: Mapping[str, tuple[Rejection, ...]]) -> dict[str, list[dict[str, Any]]]:
    return {name: [r.to_dict() for r in rejected[name]] for name in sorted(rejected)}
