"""What the relayout kernel refuses that its capability cannot say. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantmux.capability.rejection import Rejection, RejectionCode
from quantmux.config import RelayoutConfig

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LayerConfig


def veto(config: LayerConfig, device: DeviceProfile) -> Rejection | None:
    """Refuse padded rows, which lie in one of the two layouts only."""
    del device
    if not isinstance(config, RelayoutConfig):
        return None
    multiple = max(config.source.padded_m_multiple, config.target.padded_m_multiple)
    if multiple == 1:
        return None
    return Rejection(RejectionCode.PADDED_M, "padded_m_multiple", "1", str(multiple))
