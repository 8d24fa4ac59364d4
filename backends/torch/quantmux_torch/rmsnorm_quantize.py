"""torch/rmsnorm_quantize: the reference of RMSNorm and quantization, x [M, n] and a weight [n]."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux.config import RmsNormQuantizeConfig
from quantmux.ops.layouts import require_own
from quantmux.ops.rmsnorm_quantize.reference import rmsnorm_quantize
from quantmux_torch.devices import device_type, require_device_type, wrong_config

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from quantmux.capability.device import DeviceProfile
    from quantmux.config.layers import ProducerConfig
    from quantmux.ops.quantized import QuantizedTensor


class RmsNormQuantize:
    """Normalize x [M, n] and quantize it into any operand and layout, by plain torch operations."""

    def bind(self, config: ProducerConfig, device: DeviceProfile) -> Callable[..., QuantizedTensor]:
        """Give ``fn(x, weight, *, scale=None, global_scale=None, out=None)``.

        Raises:
            ConfigError: The config is of another op.
            LayoutError: The layout belongs to another backend.
        """
        if not isinstance(config, RmsNormQuantizeConfig):
            raise wrong_config("rmsnorm_quantize", config)
        require_own(config.layout)
        want = device_type(device)

        def run(
            x: torch.Tensor,
            weight: torch.Tensor,
            *,
            scale: torch.Tensor | None = None,
            global_scale: torch.Tensor | None = None,
            out: QuantizedTensor | None = None,
        ) -> QuantizedTensor:
            require_device_type(x, want)
            return rmsnorm_quantize(
                x, weight, config, scale=scale, global_scale=global_scale, out=out
            )

        return run

    def warmup(self, config: ProducerConfig, ms: Sequence[int]) -> None:
        """Do nothing: no code depends on M."""


kernel: Final = RmsNormQuantize()
