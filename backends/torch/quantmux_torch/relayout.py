"""torch/relayout: any layout of an operand into any other one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux.ops.layouts import require_own
from quantmux.ops.relayout.reference import relayout
from quantmux_torch.devices import device_type, require_device_type

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import RelayoutConfig
    from quantmux.ops.quantized import QuantizedTensor


class Relayout:
    """The reference of relayout as a kernel; no number changes."""

    def bind(self, config: RelayoutConfig, device: DeviceProfile) -> Callable[..., QuantizedTensor]:
        """Give ``fn(q, *, out=None)``, which moves q into ``config.target``.

        Raises:
            LayoutError: A layout belongs to another backend.
        """
        require_own(config.source)
        require_own(config.target)
        want = device_type(device)

        def run(q: QuantizedTensor, *, out: QuantizedTensor | None = None) -> QuantizedTensor:
            require_device_type(q.data, want)
            return relayout(q, config, out=out)

        return run

    def warmup(self, config: RelayoutConfig, ms: Sequence[int]) -> None:
        """Do nothing: no code depends on M."""


kernel: Final = Relayout()
