"""Where the experiments take place: device, plugins, and how much is measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch

from quantmux.bench.effort import Effort, effort_for
from quantmux.runtime.binding import BoundLinear, BoundProducer, bind, bind_producer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LayerConfig, LinearConfig
    from quantmux.ops.quantized import LinearWeights
    from quantmux.runtime.context import Context

Size = Literal["full", "quick", "tiny"]


@dataclass(frozen=True, slots=True)
class Stage:
    """What the experiments of one run share.

    Attributes:
        context: Plugins and policy.
        device: A device that is here.
        effort: Rounds, rotated bytes.
        size: ``full``, ``quick``; ``tiny`` on a host, where figures mean nothing.
        ceilings: Of this process, as in every result.
    """

    context: Context
    device: DeviceProfile
    effort: Effort
    size: Size = "full"
    ceilings: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_cuda(self) -> bool:
        """Tell whether times are a GPU's."""
        return self.device.is_cuda

    @property
    def is_tiny(self) -> bool:
        """Tell whether only the plumbing is tried."""
        return self.size == "tiny"

    @property
    def where(self) -> torch.device:
        """Give the device as torch names it."""
        return torch.device(self.device.torch_name)

    @property
    def cache_bytes(self) -> int:
        """Give the bytes of the L2 cache; of a device that tells none, what a rotation reaches."""
        rotated = self.effort.rotate_bytes
        cache = self.device.l2_mib
        return min(rotated, int(cache * (1 << 20))) if cache else rotated

    def copies(self, bytes_per_call: float) -> int:
        """Give how many copies of the buffers leave every call a cold cache."""
        return self.effort.copies(bytes_per_call)

    def producer(self, config: LayerConfig) -> BoundProducer:
        """Give a producer or a relayout as quantmux selects it, newly bound.

        ``.call(x, scale=…, global_scale=…, out=…)`` is what a caller calls; ``str(
        .pipeline_for(m))`` is what runs.
        """
        selection = self.context.select(config, self.device)
        return bind_producer(selection, context=self.context, wait=True)

    def linear(
        self, config: LinearConfig, weights: LinearWeights, *, force: str | None = None
    ) -> BoundLinear:
        """Give a linear as quantmux selects it for all M, newly bound to weights on the device.

        Args:
            config: What is wanted.
            weights: Canonical; not changed.
            force: A backend or a kernel id that must serve.
        """
        forced = {"force": force} if force else None
        selection = self.context.select(config, self.device, call_overrides=forced)
        return bind(selection, weights, context=self.context, wait=True)


def stage_for(
    context: Context, device: DeviceProfile, *, quick: bool = False, seed: int = 0
) -> Stage:
    """Give the stage of a device: the protocol's, a quick look, or a host's tiny form."""
    if not device.is_cuda:
        tiny = Effort(rounds=3, rotate_bytes=1 << 16, max_copies=2, round_us=200.0, seed=seed)
        return Stage(context, device, tiny, "tiny")
    return Stage(
        context,
        device,
        effort_for(device, quick=quick, seed=seed),
        "quick" if quick else "full",
    )
