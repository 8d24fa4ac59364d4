"""Ranking: tier → exact → not experimental → measured time → fewer relayouts → order → id."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantmux.dispatch.tuning import NOISE_BAND, tuning_key

if TYPE_CHECKING:
    from collections.abc import Iterable

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LayerConfig
    from quantmux.config.settings import Settings
    from quantmux.dispatch.pipeline import Pipeline
    from quantmux.dispatch.tuning import TuningTable

    StaticKey = tuple[int, bool, bool, int, int, float, int, bool, int, str, tuple[str, ...]]


class Ranking:
    """Orders pipelines of one config at any M."""

    def __init__(
        self,
        config: LayerConfig,
        device: DeviceProfile,
        settings: Settings,
        tuning: TuningTable,
    ) -> None:
        """Keep what every comparison needs; static keys are computed once per pipeline."""
        self._config = config
        self._device = device
        self._order = {name: i for i, name in enumerate(settings.order)}
        self._tuning = tuning
        self._place = tuning_key(config)
        self._keys: dict[int, StaticKey] = {}

    def order(self, pipelines: Iterable[Pipeline], m: int) -> list[Pipeline]:
        """Give the pipelines best first for this M."""
        ranked = sorted(pipelines, key=lambda p: self._key(p, m))
        if not len(self._tuning):
            return ranked
        result: list[Pipeline] = []
        group: list[Pipeline] = []
        for pipeline in ranked:
            if group and _class(pipeline) != _class(group[0]):
                result += self._by_time(group, m)
                group = []
            group.append(pipeline)
        return result + self._by_time(group, m)

    def slowdown(self, pipeline: Pipeline, best: Pipeline, m: int) -> float | None:
        """Give the measured time over that of ``best``, at one point near this shape, or None."""
        times = self._tuning.times(((pipeline.ids,), (best.ids,)), *self._place, m)
        return times[pipeline.ids] / times[best.ids] if times else None

    def why_first(
        self, winner: Pipeline, loser: Pipeline, pipelines: Iterable[Pipeline], m: int
    ) -> str | None:
        """Give the measured times of two consumers at this M, None where times do not decide.

        Args:
            winner: What goes first.
            loser: What does not.
            pipelines: All that compete.
            m: Rows.
        """
        if _class(winner) != _class(loser):
            return None
        rivals = [p for p in pipelines if p.serves(m) and _class(p) == _class(winner)]
        time_of = self._times(rivals, m)
        fastest: dict[str, float] = {}
        for pipeline in rivals:
            us = time_of.get(pipeline.ids)
            if us is not None:
                fastest[pipeline.main.id] = min(us, fastest.get(pipeline.main.id, us))
        first, other = fastest.get(winner.main.id), fastest.get(loser.main.id)
        if first is None or other is None:
            return None
        is_tie = other <= min(time_of.values()) * NOISE_BAND
        return f"measured {first:.4g} µs against {other:.4g} µs" + ", a tie" * is_tie

    def thresholds(self, pipelines: Iterable[Pipeline]) -> set[int]:
        """Give the Ms at which the measured winner among them may change."""
        if not len(self._tuning):
            return set()
        return self._tuning.thresholds((p.ids for p in pipelines), *self._place)

    def _by_time(self, group: list[Pipeline], m: int) -> list[Pipeline]:
        """Order one tier by time if every contender has been measured; ties keep their order.

        A contender is a consumer kernel, in its fastest measured pipeline: to ask for a row of
        every combination of producer and consumer would mean that none is ever used.
        """
        time_of = self._times(group, m)
        if not time_of:
            return group
        fastest = min(time_of.values())

        def key(item: tuple[int, Pipeline]) -> tuple[float, int]:
            position, pipeline = item
            us = time_of.get(pipeline.ids)
            if us is None:
                return (float("inf"), position)
            return (0.0 if us <= fastest * NOISE_BAND else us, position)

        return [pipeline for _, pipeline in sorted(enumerate(group), key=key)]

    def _times(self, group: Iterable[Pipeline], m: int) -> dict[tuple[str, ...], float]:
        contenders: dict[str, list[tuple[str, ...]]] = {}
        for pipeline in group:
            contenders.setdefault(pipeline.main.id, []).append(pipeline.ids)
        return self._tuning.times(contenders.values(), *self._place, m)

    def _key(self, pipeline: Pipeline, m: int) -> StaticKey:
        estimate = pipeline.main.estimate
        if estimate is None:
            known = self._keys.get(id(pipeline))
            if known is not None:
                return known
        us = 0.0
        if estimate is not None:
            try:
                us = float(estimate(self._config, self._device, m))
            # an estimate only orders its own backend's kernels; a broken one must not cost more
            except Exception:  # noqa: BLE001
                us = float("inf")
        last = len(self._order)
        head = pipeline.steps[0].kernel
        key = (
            *_class(pipeline),
            pipeline.relayouts,
            self._order.get(pipeline.main.backend, last),
            us,
            # of two producers of one operand: a kernel of its own before the composite reference
            0 if len(pipeline.steps) == 1 else 1,
            head.capability.is_reference,
            self._order.get(head.backend, last),
            pipeline.main.id,
            pipeline.ids,
        )
        self._keys[id(pipeline)] = key
        return key


def _class(pipeline: Pipeline) -> tuple[int, bool, bool]:
    """Give what goes before any measured time."""
    # exact before tried: what is experimental is checked before its first use, while a fallback
    # from an exact quantizer to another one must find an exact one as long as there is any
    return pipeline.tier.rank, pipeline.is_approximate, pipeline.is_experimental
