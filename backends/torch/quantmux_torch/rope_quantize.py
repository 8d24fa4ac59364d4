"""torch/rope_quantize: the reference of RoPE and quantization with one given scale as a kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux.config import RopeQuantizeConfig
from quantmux.ops.rope_quantize.reference import rope_quantize
from quantmux_torch.devices import device_type, require_device_type, wrong_config

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from quantmux.capability.device import DeviceProfile
    from quantmux.config.layers import ProducerConfig
    from quantmux.ops.quantized import QuantizedTensor


class RopeQuantize:
    """Rotate x [T, heads, head_dim] and quantize it, by plain torch operations.

    On a GPU every call waits for the device: the reference reads the positions back to check them.
    """

    def bind(self, config: ProducerConfig, device: DeviceProfile) -> Callable[..., QuantizedTensor]:
        """Give ``fn(x, positions, cos_sin_cache, *, scale=None, out=None)``.

        Raises:
            ConfigError: The config is of another op.
        """
        if not isinstance(config, RopeQuantizeConfig):
            raise wrong_config("rope_quantize", config)
        want = device_type(device)

        def run(
            x: torch.Tensor,
            positions: torch.Tensor,
            cos_sin_cache: torch.Tensor,
            *,
            scale: torch.Tensor | None = None,
            out: QuantizedTensor | None = None,
        ) -> QuantizedTensor:
            require_device_type(x, want)
            return rope_quantize(x, positions, cos_sin_cache, config, scale=scale, out=out)

        return run

    def warmup(self, config: ProducerConfig, ms: Sequence[int]) -> None:
        """Do nothing: no code depends on the number of tokens."""


kernel: Final = RopeQuantize()
