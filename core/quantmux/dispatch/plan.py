"""Plan: selections for all layers of a model; serializable and the same every time."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LayerConfig
    from quantmux.dispatch.selection import Selection


_WORTH_SAYING: Final = ("reference", "weight_only")
"""Tiers that a reader of a plan should hear of."""


@dataclass(frozen=True, slots=True)
class PlannedLayer:
    """One layer of a plan: its name, its config, and the hash of its selection."""

    name: str
    config: LayerConfig
    selection: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Selections for the layers of a model on one device.

    Attributes:
        device: The device.
        layers: Every layer in the order given.
        selections: Hash → selection; layers with the same answer share one.
        warnings: What a reader should know: lossy steps, reference tiers, unserved layers.
    """

    device: DeviceProfile
    layers: tuple[PlannedLayer, ...]
    selections: Mapping[str, Selection]
    warnings: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Give the plan as JSON-ready data."""
        configs: dict[LayerConfig, dict[str, Any]] = {}
        for layer in self.layers:
            if layer.config not in configs:
                configs[layer.config] = layer.config.model_dump(mode="json")
        return {
            "device": self.device.name,
            "selections": {key: self.selections[key].to_dict() for key in sorted(self.selections)},
            "layers": [
                {"name": x.name, "config": configs[x.config], "selection": x.selection}
                for x in self.layers
            ],
            "warnings": list(self.warnings),
        }

    def to_json(self, indent: int | None = None) -> str:
        """Give the plan as JSON, byte-identical for the same inputs."""
        return json.dumps(self.to_dict(), indent=indent, sort_keys=True)


def plan(
    layers: Iterable[tuple[str, LayerConfig]],
    device: DeviceProfile,
    choose: Callable[[str, LayerConfig], Selection],
    warnings: Iterable[str] = (),
) -> Plan:
    """Select for every layer.

    Args:
        layers: Names and configs; experts are linears like all others.
        device: Where the model shall run.
        choose: ``(layer name, config) -> Selection``, a survey: it does not raise when nothing
            serves, so that one layer without a kernel does not hide the answer for the others.
        warnings: What the reader of the checkpoint already noted.
    """
    planned: list[PlannedLayer] = []
    selections: dict[str, Selection] = {}
    digests: dict[int, str] = {}
    kept: list[Selection] = []  # ids of selections are keys while they live
    for name, config in layers:
        selection = choose(name, config)
        digest = digests.get(id(selection))
        if digest is None:
            digest = selection.digest()
            digests[id(selection)] = digest
            kept.append(selection)
            selections.setdefault(digest, selection)
        planned.append(PlannedLayer(name, config, digest))
    notes = dict.fromkeys(warnings)
    notes.update(dict.fromkeys(_warnings(planned, selections)))
    return Plan(device, tuple(planned), selections, tuple(notes))


def _warnings(layers: list[PlannedLayer], selections: Mapping[str, Selection]) -> list[str]:
    counts: dict[str, list[str]] = {}
    fine = {
        digest
        for digest, found in selections.items()
        if found.is_served and not any(c.tier in _WORTH_SAYING for c in found.ranges)
    }
    for layer in layers:
        if layer.selection in fine:
            continue
        selection = selections[layer.selection]
        scheme = getattr(layer.config, "scheme", None)
        label = scheme.name if scheme is not None else str(layer.config)
        if not selection.is_served:
            counts.setdefault(f"no kernel serves {label}", []).append(layer.name)
            continue
        for tier in {choice.tier for choice in selection.ranges}:
            if tier in _WORTH_SAYING:
                counts.setdefault(f"{label} runs at tier {tier}", []).append(layer.name)
    lines: list[str] = []
    for what, names in sorted(counts.items()):
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        lines.append(f"{what}: {names[0]}{more}")
    return lines
