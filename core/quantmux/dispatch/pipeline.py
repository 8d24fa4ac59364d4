"""Pipelines: the unit that is selected, timed, printed, compiled and counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from quantmux.config import LayerConfig
    from quantmux.dispatch.tier import Tier
    from quantmux.registry.kernel_spec import KernelSpec


APPROXIMATE_INPUT: Final = 0.05
"""Relative error of y whose x an approximate quantizer made, at most: most codes that differ are
ties, and how many there are is up to the scale. NVFP4 of normal bf16 numbers, reciprocals an ulp
off (a model of FlashInfer's arithmetic on a CPU, 2026-11-21): 0.04 under g = 2^-10, where one byte
in 50 differs, 0.008 to 0.023 under multiples of 1 / 2688, 0 under others."""


@dataclass(frozen=True, slots=True)
class Step:
    """One kernel of a pipeline with the config it is bound to."""

    kernel: KernelSpec
    config: LayerConfig


@dataclass(frozen=True, slots=True)
class Pipeline:
    """producer → (relayout) → consumer, or a single kernel.

    Attributes:
        steps: Kernels in the order of the call.
        tier: Relation of the last kernel to what was asked.
        m_min: First M it serves.
        m_max: Last M it serves, None is unbounded.
        m_multiple: M must be a multiple of it.
    """

    steps: tuple[Step, ...]
    tier: Tier
    m_min: int = 1
    m_max: int | None = None
    m_multiple: int = 1

    @property
    def ids(self) -> tuple[str, ...]:
        """Kernel ids in the order of the call."""
        return tuple(step.kernel.id for step in self.steps)

    @property
    def main(self) -> KernelSpec:
        """The kernel that gives the result: the consumer of a linear."""
        return self.steps[-1].kernel

    @property
    def weight_layout(self) -> str:
        """Prepared weight form of the consumer."""
        config, capability = self.steps[-1].config, self.main.capability
        if config.op != "linear":
            return capability.weight_layout
        return capability.weight_layout_for(config.n, config.k)

    @property
    def relayouts(self) -> int:
        """Number of relayout steps."""
        return sum(step.config.op == "relayout" for step in self.steps[:-1])

    @property
    def is_approximate(self) -> bool:
        """Tell whether a quantizer of it gives numbers near the definition's, not the same."""
        return any(step.kernel.capability.is_approximate for step in self.steps)

    @property
    def rel_tolerance(self) -> float | None:
        """Relative error that a linear may have beyond the op's bound; None where none is told."""
        own = self.main.capability.rel_tolerance
        if any(step.kernel.capability.is_approximate for step in self.steps[:-1]):
            return max(own or 0.0, APPROXIMATE_INPUT)
        return own

    @property
    def is_experimental(self) -> bool:
        """Tell whether any kernel of it is experimental."""
        return any(step.kernel.capability.is_experimental for step in self.steps)

    @property
    def launches(self) -> int | None:
        """Kernel launches of one call, None when a step is a composite."""
        total = 0
        for step in self.steps:
            count = step.kernel.capability.launches
            if count is None:
                return None
            total += count
        return total

    def serves(self, m: int) -> bool:
        """Tell whether it serves this M. M = 0 launches nothing, so every pipeline serves it."""
        if m == 0:
            return True
        below = self.m_max is None or m <= self.m_max
        return self.m_min <= m and below and m % self.m_multiple == 0

    def covers(self, first: int, last: int | None) -> bool:
        """Tell whether it serves every M from ``first`` to ``last`` (None = unbounded)."""
        if self.m_multiple > 1 and first != last:
            return False
        if not self.serves(first):
            return False
        return self.m_max is None or (last is not None and last <= self.m_max)

    def to_dict(self) -> dict[str, Any]:
        """Give the pipeline as JSON-ready data."""
        return {
            "pipeline": list(self.ids),
            "tier": str(self.tier),
            "approximate": self.is_approximate,
            "weight_layout": self.weight_layout,
            "launches": self.launches,
        }

    def __str__(self) -> str:
        return " -> ".join(self.ids)
