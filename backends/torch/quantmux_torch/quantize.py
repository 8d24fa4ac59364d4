"""torch/quantize: the reference quantizer as a kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux.config import QuantizeConfig
from quantmux.ops.layouts import require_own
from quantmux.ops.quantize.reference import quantize
from quantmux_torch.devices import device_type, require_device_type, wrong_config

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from quantmux.capability.device import DeviceProfile
    from quantmux.config.layers import ProducerConfig
    from quantmux.ops.quantized import QuantizedTensor


class Quantize:
    """x [M, n] into any operand and layout, by plain torch operations."""

    def bind(self, config: ProducerConfig, device: DeviceProfile) -> Callable[..., QuantizedTensor]:
        """Give ``fn(x, *, scale=None, global_scale=None, out=None)`` for x [M, n].

        Raises:
            ConfigError: The config is of another op.
            LayoutError: The layout belongs to another backend.
        """
        if not isinstance(config, QuantizeConfig):
            raise wrong_config("quantize", config)
        require_own(config.layout)
        want = device_type(device)

        def run(
            x: torch.Tensor,
            *,
            scale: torch.Tensor | None = None,
            global_scale: torch.Tensor | None = None,
            out: QuantizedTensor | None = None,
        ) -> QuantizedTensor:
            require_device_type(x, want)
            return quantize(x, config, scale=scale, global_scale=global_scale, out=out)

        return run

    def warmup(self, config: ProducerConfig, ms: Sequence[int]) -> None:
        """Do nothing: no code depends on M."""


kernel: Final = Quantize()
