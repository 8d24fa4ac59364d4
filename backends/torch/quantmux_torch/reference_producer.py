"""What the reference quantizers have in common as kernels: checks once, then the definition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quantmux.ops.layouts import require_own
from quantmux_torch.devices import device_type, require_device_type, wrong_config

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from quantmux.capability.device import DeviceProfile
    from quantmux.config.layers import ProducerConfig
    from quantmux.ops.quantized import QuantizedTensor


class ReferenceProducer:
    """An op's reference on x [M, width], into any operand and layout, by plain torch operations.

    Args:
        op: Name of the op, for errors.
        kind: Its config class.
        reference: ``reference(x, config, *, scale, global_scale, out)``.
    """

    def __init__(self, op: str, kind: type[Any], reference: Callable[..., QuantizedTensor]) -> None:
        self._op = op
        self._kind = kind
        self._reference = reference

    def bind(self, config: ProducerConfig, device: DeviceProfile) -> Callable[..., QuantizedTensor]:
        """Give ``fn(x, *, scale=None, global_scale=None, out=None)``.

        Raises:
            ConfigError: The config is of another op.
            LayoutError: The layout belongs to another backend.
        """
        if not isinstance(config, self._kind):
            raise wrong_config(self._op, config)
        require_own(config.layout)
        want, reference = device_type(device), self._reference

        def run(
            x: torch.Tensor,
            *,
            scale: torch.Tensor | None = None,
            global_scale: torch.Tensor | None = None,
            out: QuantizedTensor | None = None,
        ) -> QuantizedTensor:
            require_device_type(x, want)
            return reference(x, config, scale=scale, global_scale=global_scale, out=out)

        return run

    def warmup(self, config: ProducerConfig, ms: Sequence[int]) -> None:
        """Do nothing: no code depends on M."""
