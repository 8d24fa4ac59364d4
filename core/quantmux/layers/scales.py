"""Static activation scales of a linear: given, or the scheme is another; never assumed to be 1."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.errors import ConfigError, InputError

if TYPE_CHECKING:
    from quantmux.config import Scheme

_log: Final = logging.getLogger("quantmux.layers")


def runnable_scheme(
    scheme: Scheme, input_scale: object, input_global_scale: object, layer: str | None
) -> Scheme:
    """Give the scheme that the scales at hand allow: none is ever assumed to be 1."""
    activation = scheme.activation
    if activation is None:
        return scheme
    if not activation.dynamic and input_scale is None:
        raise ConfigError(
            f"scheme {scheme.name} needs input_scale" + (f" for {layer}" if layer else ""),
            facts=["its activations are quantized with a scale found beforehand"],
            hint="find it with quantmux.calibrate(model, batches), or use a dynamic scheme "
            'such as "fp8_tensor"',
            code="calibration",
        )
    if activation.global_scale == "static" and input_global_scale is None:
        dynamic = scheme.replace(activation=activation.replace(global_scale="dynamic"))
        _log.info(
            "%s: scheme %s without input_global_scale becomes %s",
            layer or "linear",
            scheme.name,
            dynamic.name,
        )
        return dynamic
    return scheme


def needed_scale(
    value: torch.Tensor | float | None, name: str, scheme: Scheme, device: torch.device
) -> torch.Tensor | None:
    """Give the scale if the scheme has a use for it.

    Raises:
        ConfigError: It has none: the caller believes in another scheme than the one that runs.
    """
    found = scalar(value, name, device)
    activation = scheme.activation
    is_used = activation is not None and (
        not activation.dynamic if name == "input_scale" else activation.global_scale == "static"
    )
    if found is not None and not is_used:
        raise ConfigError(
            f"scheme {scheme.name} has no {name}",
            hint="leave it out, or use a static scheme such as fp8_tensor_static or nvfp4",
        )
    return found


def scalar(value: Any, name: str, device: torch.device) -> torch.Tensor | None:
    """Give a scale as fp32 [1] on the device; a number is accepted, None stays None.

    Raises:
        InputError: Not one finite positive number.
    """
    if value is None:
        return None
    try:
        tensor = torch.as_tensor(value, dtype=torch.float32).detach().reshape(-1).to(device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} needs one number, found {value!r}") from error
    if tensor.numel() != 1:
        raise InputError(f"{name} needs one number, found {tensor.numel()}")
    number = float(tensor)
    if not 0 < number < float("inf"):
        raise InputError(
            f"{name} needs to be finite and positive, found {number}",
            hint="find it with quantmux.calibrate",
            code="scale_value",
        )
    return tensor
