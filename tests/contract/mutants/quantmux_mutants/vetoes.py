"""Vetoes that contradict what is declared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantmux import Rejection, RejectionCode

if TYPE_CHECKING:
    from quantmux import DeviceProfile, LayerConfig


def no_gpu(config: LayerConfig, device: DeviceProfile) -> Rejection | None:
    del config
    if device.arch.vendor == "cpu":
        return None
    return Rejection(RejectionCode.ARCH, "arch", "cpu", str(device.arch))


def raises_for_odd_groups(config: LayerConfig, device: DeviceProfile) -> Rejection | None:
    del device
    if config.n // 128 % 2:
        raise ValueError(f"{config.n} columns are an odd number of groups")
    return None
