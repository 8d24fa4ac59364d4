"""torch/inverse_rope_quantize: the reference of inverse RoPE and quantization as a kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux.config import InverseRopeQuantizeConfig
from quantmux.ops.inverse_rope_quantize.reference import inverse_rope_quantize
from quantmux.ops.layouts import require_own
from quantmux_torch.devices import device_type, require_device_type, wrong_config

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from quantmux.capability.device import DeviceProfile
    from quantmux.config.layers import ProducerConfig
    from quantmux.ops.quantized import QuantizedTensor


class InverseRopeQuantize:
    """Undo RoPE on o [T, heads, head_dim] and quantize per head group, by plain torch operations.

    On a GPU every call waits for the device: the reference reads the positions back to check them.
    """

    def bind(self, config: ProducerConfig, device: DeviceProfile) -> Callable[..., QuantizedTensor]:
        """Give ``fn(o, positions, cos_sin_cache, *, out=None)`` for o [T, heads, head_dim].

        Raises:
            ConfigError: The config is of another op.
            LayoutError: The layout belongs to another backend.
        """
        if not isinstance(config, InverseRopeQuantizeConfig):
            raise wrong_config("inverse_rope_quantize", config)
        require_own(config.layout)
        want = device_type(device)

        def run(
            o: torch.Tensor,
            positions: torch.Tensor,
            cos_sin_cache: torch.Tensor,
            *,
            out: QuantizedTensor | None = None,
        ) -> QuantizedTensor:
            require_device_type(o, want)
            return inverse_rope_quantize(o, positions, cos_sin_cache, config, out=out)

        return run

    def warmup(self, config: ProducerConfig, ms: Sequence[int]) -> None:
        """Do nothing: no code depends on the number of tokens."""


kernel: Final = InverseRopeQuantize()
