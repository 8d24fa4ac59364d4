"""Candidates: every pipeline that could serve, and every kernel's verdict."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from quantmux.capability.rejection import Rejection, RejectionCode
from quantmux.config.layers import QuantizeConfig, RelayoutConfig
from quantmux.config.layouts import layouts_for
from quantmux.dispatch.eligible import Verdict, judge, reject
from quantmux.dispatch.join import input_of
from quantmux.dispatch.pipeline import Pipeline, Step
from quantmux.dispatch.tier import Tier

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LayerConfig, LinearConfig
    from quantmux.config.settings import Settings
    from quantmux.dispatch.inventory import Inventory
    from quantmux.registry.kernel_spec import KernelSpec


@dataclass(slots=True)
class Survey:
    """Everything found before ranking.

    Attributes:
        pipelines: All that can serve at least some M.
        rejected: Reasons per kernel of the asked op that hold for every M.
        limits: Reasons per kernel of the asked op that hold for some M.
        producers: The same for the producers that were looked at, per kernel.
    """

    pipelines: list[Pipeline] = field(default_factory=list)
    rejected: dict[str, tuple[Rejection, ...]] = field(default_factory=dict)
    limits: dict[str, tuple[Rejection, ...]] = field(default_factory=dict)
    producers: dict[str, tuple[Rejection, ...]] = field(default_factory=dict)


class Surveyor:
    """Looks at every kernel for one config on one device."""

    def __init__(
        self,
        config: LayerConfig,
        device: DeviceProfile,
        settings: Settings,
        inventory: Inventory,
    ) -> None:
        """Keep what every look needs."""
        self._config = config
        self._device = device
        self._settings = settings
        self._inventory = inventory
        self._producers: dict[QuantizeConfig, list[tuple[Step, ...]]] = {}
        self._survey = Survey()

    def survey(self) -> Survey:
        """Give all pipelines and all rejections."""
        config, survey = self._config, self._survey
        for spec in self._inventory.kernels:
            if spec.op != config.op:
                continue
            forced = self._forced(spec)
            if forced:  # what else it lacks nobody asked
                survey.rejected[spec.id] = tuple(forced)
                continue
            verdict = self._judge(spec, config)
            survey.limits[spec.id] = verdict.limits
            if verdict.rejections:
                survey.rejected[spec.id] = verdict.rejections
            elif config.op == "linear":
                self._consumer(spec, config, verdict)
            else:
                step = Step(spec, config)
                survey.pipelines.append(_pipeline((step,), verdict.tier or Tier.NATIVE))
        return survey

    def _judge(self, spec: KernelSpec, config: LayerConfig) -> Verdict:
        return judge(spec, config, self._device, self._settings, self._inventory)

    def _forced(self, spec: KernelSpec) -> list[Rejection]:
        force = self._settings.force
        if force is None or self._settings.forces(spec.id):
            return []
        if "/" in force and any(k.id == force and k.op != spec.op for k in self._inventory.kernels):
            return []  # the force names a kernel of another op of the pipeline
        if "/" not in force and spec.op != self._config.op:
            return []  # a forced backend binds the asked op; its producers may come from anywhere
        need = f"{force} (by {self._settings.origin('force')})"
        return [reject(RejectionCode.NOT_FORCED, "force", need, spec.id)]

    def _consumer(self, spec: KernelSpec, config: LinearConfig, verdict: Verdict) -> None:
        offer, tier = verdict.offer, verdict.tier
        if offer is None or tier is None:
            return
        last = Step(spec, config)
        plain = offer.activation is None or offer.quantizes_inside
        if plain or config.scheme.activation is None or offer.activation is None:
            self._survey.pipelines.append(_pipeline((last,), tier))
            return
        wanted = input_of(
            spec.capability, offer.activation, config.scheme.activation, config.k, config.in_dtype
        )
        found = False
        for quantize in wanted:
            for steps in self._inputs(quantize):
                self._survey.pipelines.append(_pipeline((*steps, last), tier))
                found = True
        if not found:
            self._survey.rejected[spec.id] = (
                _no_producer(config, wanted, offer.activation.layouts),
            )

    def _inputs(self, config: QuantizeConfig) -> list[tuple[Step, ...]]:
        """Give every way to make this quantized input: directly, or through one relayout."""
        known = self._producers.get(config)
        if known is None:
            known = [(step,) for step in self._direct(config)]
            if not known:
                known = self._relaid(config)
            self._producers[config] = known
        return known

    def _direct(self, config: QuantizeConfig) -> list[Step]:
        steps: list[Step] = []
        for spec in self._inventory.kernels:
            if spec.op != "quantize":
                continue
            forced = self._forced(spec)
            reasons = tuple(forced) if forced else self._judge(spec, config).rejections
            if reasons:
                self._survey.producers.setdefault(spec.id, reasons)
            else:
                steps.append(Step(spec, config))
        return steps

    def _relaid(self, target: QuantizeConfig) -> list[tuple[Step, ...]]:
        """Give producer → relayout chains; looked for only where nothing writes the layout."""
        chains: list[tuple[Step, ...]] = []
        for name in layouts_for(target.operand):
            if name == target.layout.scales:
                continue
            source = target.replace(layout=target.layout.replace(scales=name))
            move = RelayoutConfig(
                operand=target.operand, n=target.n, source=source.layout, target=target.layout
            )
            movers = [
                Step(spec, move)
                for spec in self._inventory.kernels
                if spec.op == "relayout"
                and self._judge(spec, move).is_eligible
                and not self._forced(spec)
            ]
            if movers:
                chains += [(step, mover) for step in self._direct(source) for mover in movers]
        return chains


def _pipeline(steps: tuple[Step, ...], tier: Tier) -> Pipeline:
    """Combine the M ranges of the steps."""
    m_min, m_max, multiple = 1, None, 1
    for step in steps:
        capability = step.kernel.capability
        m_min = max(m_min, capability.m_min)
        if capability.m_max is not None:
            m_max = capability.m_max if m_max is None else min(m_max, capability.m_max)
        if capability.m_multiple > 1:
            multiple = capability.m_multiple * multiple // _gcd(capability.m_multiple, multiple)
    return Pipeline(steps, tier, m_min, m_max, multiple)


def _gcd(a: int, b: int) -> int:
    while b:
        a, b = b, a % b
    return a


def _no_producer(
    config: LinearConfig, wanted: tuple[QuantizeConfig, ...], layouts: tuple[str, ...]
) -> Rejection:
    need = " or ".join(str(w.layout) for w in wanted) or " or ".join(layouts)
    name = config.scheme.activation.name if config.scheme.activation else "plain"
    return reject(
        RejectionCode.NO_PRODUCER,
        "producer",
        f"a producer of {name} in {need}",
        "none that can serve here",
    )
