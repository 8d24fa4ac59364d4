"""What the RMSNorm kernel refuses that its capability cannot say. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantmux.capability.rejection import Rejection, RejectionCode
from quantmux.config import RmsNormQuantizeConfig

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LayerConfig


def veto(config: LayerConfig, device: DeviceProfile) -> Rejection | None:
    """Refuse a weight of another format than x: its bits would be read as x's."""
    del device
    if not isinstance(config, RmsNormQuantizeConfig) or config.weight_dtype == config.in_dtype:
        return None
    return Rejection(
        RejectionCode.IN_DTYPE,
        "weight_dtype",
        f"{config.in_dtype}, as x",
        config.weight_dtype,
        "fp32_weight=False",
    )
