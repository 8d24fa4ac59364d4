"""torch/linear_reference: the definition of ``linear`` as a kernel. Slow, and always there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from quantmux.ops.linear.reference import linear
from quantmux.ops.quantized import DTYPES, LinearWeights
from quantmux_torch.devices import device_type, moved, require_device_type
from quantmux_torch.padding import shared

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LinearConfig
    from quantmux.ops.quantized import QuantizedTensor
    from quantmux.registry.protocol import PreparedWeights


class LinearReference:
    """fp64 product of the checkpoint's own tensors, one rounding.

    It checks weights and x in every call, which on a GPU waits for the device.
    """

    def prepare(
        self, weights: LinearWeights, config: LinearConfig, device: DeviceProfile
    ) -> PreparedWeights:
        """Share the canonical tensors."""
        return shared(moved(weights, device), config.n, config.k)

    def bind(
        self, config: LinearConfig, prepared: PreparedWeights, device: DeviceProfile
    ) -> Callable[..., torch.Tensor]:
        """Give ``fn(x, *, out=None) -> y``, y [M, N] contiguous.

        x is a plain matrix (quantized here by the reference if the scheme says so) or a
        QuantizedTensor in any layout, padded or not.
        """
        weights = LinearWeights(**prepared.tensors)
        want = device_type(device)
        dtype, n = DTYPES[config.out_dtype], config.n

        def run(
            x: torch.Tensor | QuantizedTensor, *, out: torch.Tensor | None = None
        ) -> torch.Tensor:
            data = x if isinstance(x, torch.Tensor) else x.data
            require_device_type(data, want)
            if out is None:
                m = x.shape[0] if isinstance(x, torch.Tensor) else x.m
                out = data.new_empty((m, n), dtype=dtype)
            return linear(x, weights, config, out=out)

        return run

    def warmup(self, config: LinearConfig, ms: Sequence[int]) -> None:
        """Do nothing: no code depends on M."""


kernel: Final = LinearReference()
