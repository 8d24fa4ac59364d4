"""Canonical weights under the names of a state dict, and back."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import torch

from quantmux.config._base import closest
from quantmux.errors import ConfigError, InputError
from quantmux.ops.quantized import LinearWeights

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quantmux.config import LinearConfig

NAMES: Final[dict[str, str]] = {
    "weight": "data",
    "weight_scale": "scales",
    "weight_global_scale": "global_scale",
    "bias": "bias",
    "input_scale": "input_scale",
    "input_global_scale": "input_global_scale",
}
"""Name in a state dict → attribute of `LinearWeights`."""

_SCALARS: Final = ("weight_global_scale", "input_scale", "input_global_scale")


def to_state(weights: LinearWeights) -> dict[str, torch.Tensor]:
    """Give the tensors that are present by their names in a state dict."""
    pairs = ((name, getattr(weights, attribute)) for name, attribute in NAMES.items())
    return {name: tensor for name, tensor in pairs if tensor is not None}


def from_state(tensors: Mapping[str, torch.Tensor]) -> LinearWeights:
    """Build canonical weights from named tensors; one-element scales may have any shape.

    Raises:
        ConfigError: A name is not one of a linear's.
        InputError: ``weight`` or ``weight_scale`` is missing, or something is no tensor.
    """
    for name, tensor in tensors.items():
        if name not in NAMES:
            near = closest(name, NAMES)
            raise ConfigError(
                f'a linear has no tensor "{name}"',
                facts=["tensors: " + " ".join(NAMES)],
                hint=f'did you mean "{near}"?' if near else None,
            )
        if not isinstance(tensor, torch.Tensor):
            raise InputError(f"{name} needs a tensor, found {type(tensor).__name__}")
    for name in ("weight", "weight_scale"):
        if name not in tensors:
            raise InputError(
                f"{name} is missing", facts=["given: " + " ".join(tensors)], code="missing_tensor"
            )
    shaped = {
        NAMES[name]: tensor.reshape(1) if name in _SCALARS and tensor.numel() == 1 else tensor
        for name, tensor in tensors.items()
    }
    scales = shaped["scales"]
    if scales.ndim == 0:
        shaped["scales"] = scales.reshape(1)
    return LinearWeights(**shaped)


def expected_names(config: LinearConfig) -> tuple[str, ...]:
    """Give the names of the tensors that a linear of this config has in a state dict."""
    scheme, names = config.scheme, ["weight", "weight_scale"]
    if scheme.weight.is_nvfp4:
        names.append("weight_global_scale")
    if config.bias:
        names.append("bias")
    activation = scheme.activation
    if activation is not None and not activation.dynamic:
        names.append("input_scale")
    if activation is not None and activation.global_scale == "static":
        names.append("input_global_scale")
    return tuple(names)


def only_used(weights: LinearWeights, config: LinearConfig) -> LinearWeights:
    """Give the weights without activation scales that the scheme computes from x anyway."""
    names = expected_names(config)
    if "input_scale" not in names:
        weights = replace(weights, input_scale=None)
    return weights if "input_global_scale" in names else replace(weights, input_global_scale=None)
