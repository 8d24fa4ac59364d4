"""Who is timed in a cell: what selection compares and takes, and what each backend has alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quantmux.bench.contenders import pipelines_of
from quantmux.dispatch.candidates import Surveyor

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux.dispatch.pipeline import Pipeline
    from quantmux.dispatch.selection import Selection
    from quantmux.runtime.context import Context

COMMON = "torch"
"""The backend that everybody has: its quantizers stand in for those that another one lacks."""


class Entrants:
    """The pipelines of one config.

    Args:
        config: Of a linear.
        context: Plugins and policy.
        device: A device that is here.
    """

    def __init__(self, config: Any, context: Context, device: DeviceProfile) -> None:
        self._config = config
        self._context = context
        self._device = device
        settings = context.settings(config, device)
        self._all = Surveyor(config, device, settings, context.inventory(device)).survey().pipelines
        self.selection: Selection = context.survey(config, device)

    def compared(self, m: int) -> list[Pipeline]:
        """Give what competes for M rows, and what selection takes, should that not be among it."""
        found = pipelines_of(self._config, m, self._context, self._device)
        pick = self.pick(m)
        if pick is not None and pick.ids not in {p.ids for p in found}:
            found.append(pick)
        return found

    def pick(self, m: int) -> Pipeline | None:
        """Give what selection takes for M rows, over all M on its weight layout."""
        return self.selection.pipeline_for(m)

    def alone(self, consumer: Pipeline, m: int) -> Pipeline | None:
        """Give the pipeline that a consumer has without another backend's quantizer.

        Where its own backend has none that fits, `COMMON`'s stands before it; None where that
        does not fit either, or where the pipeline given is such a one already.
        """
        backend = consumer.main.backend
        if backends_of(consumer.ids) <= {backend, COMMON}:
            return None
        mine = [
            p
            for p in self._all
            if p.main.id == consumer.main.id
            and p.tier is consumer.tier
            and p.serves(m)
            and backends_of(p.ids) <= {backend, COMMON}
        ]
        return min(
            mine, key=lambda p: (COMMON in backends_of(p.ids[:-1]), p.relayouts), default=None
        )


def backends_of(ids: tuple[str, ...]) -> set[str]:
    """Give the backends of kernel ids."""
    return {name.partition("/")[0] for name in ids}
