"""Where a kernel was bound, and whether a tensor is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantmux.errors import ConfigError, InputError

if TYPE_CHECKING:
    import torch

    from quantmux.capability.device import DeviceProfile
    from quantmux.ops.quantized import LinearWeights


def device_type(device: DeviceProfile) -> str | None:
    """Give ``cuda`` or ``cpu``, or None for a vendor whose torch name is not known here."""
    return {"nvidia": "cuda", "amd": "cuda", "cpu": "cpu"}.get(device.arch.vendor)


def require_device_type(tensor: torch.Tensor, want: str | None) -> None:
    """Check that x is on the kind of device its kernel was bound for.

    Raises:
        InputError: It is elsewhere.
    """
    if want is not None and tensor.device.type != want:
        raise InputError(
            f"x is on {tensor.device}, the kernel was bound for {want}",
            hint="move x, or select for the device where x is",
            code="device",
        )


def moved(weights: LinearWeights, device: DeviceProfile) -> LinearWeights:
    """Give the weights on the device; tensors that are on one of its kind are shared."""
    want = device_type(device)
    if not device.is_present or want is None or weights.data.device.type == want:
        return weights
    name = want if device.index is None else f"{want}:{device.index}"
    return weights.to(name)


def wrong_config(op: str, config: object) -> ConfigError:
    """Give the error for a config of another op."""
    return ConfigError(f"a kernel of {op} was given {type(config).__name__}")
