"""FP8 weights padded once, when they are prepared, and given back bit for bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux.config.layouts import round_up
from quantmux.ops.quantized import LinearWeights
from quantmux.registry.protocol import PreparedWeights
from quantmux_flashinfer.layouts.matrices import aligned, padded, unpadded

if TYPE_CHECKING:
    import torch

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LinearConfig

ALIGNMENT: Final = 16
"""Bytes at a multiple of which a matrix needs to begin (TMA, vectors of 16 bytes)."""


def on_device(weights: LinearWeights, device: DeviceProfile) -> LinearWeights:
    """Give the weights on a device that is here; those already there are shared."""
    if device.is_present and weights.data.device.type != device.torch_name.partition(":")[0]:
        return weights.to(device.torch_name)
    return weights


def padded_weights(
    weights: LinearWeights,
    config: LinearConfig,
    device: DeviceProfile,
    *,
    pad_n_to: int,
    pad_k_to: int,
    weight_layout: str,
) -> PreparedWeights:
    """Give weights whose codes are [R(N), R(K)], zero beyond N and K, aligned.

    Pure and idempotent: logical N and K come from the config, the checkpoint's tensors stay as
    they are, and those that fit are shared. Scales keep their shape: the pads begin no new block.

    Args:
        weights: Canonical weights.
        config: Logical N and K.
        device: Where they go.
        pad_n_to: N is rounded up to a multiple of it.
        pad_k_to: K likewise.
        weight_layout: Name of the padded form; where nothing is padded it is ``canonical``.
    """
    here = on_device(weights, device)
    n, k = config.n, config.k
    padded_n, padded_k = round_up(n, pad_n_to), round_up(k, pad_k_to)
    data = aligned(padded(here.data, padded_n, padded_k), ALIGNMENT)
    tensors = {**here.named(), "data": data, "scales": here.scales.contiguous()}
    small = {name: tensor for name, tensor in tensors.items() if name != "data"}

    def restore() -> LinearWeights:
        return LinearWeights(data=unpadded(data, n, k), **small)

    return PreparedWeights(
        tensors=tensors,
        weight_layout="canonical" if (padded_n, padded_k) == (n, k) else weight_layout,
        n=n,
        k=k,
        restore=restore,
        facts={"padded_n": padded_n, "padded_k": padded_k},
    )


def codes_of(prepared: PreparedWeights, padded_n: int, padded_k: int) -> torch.Tensor:
    """Give prepared codes as a contiguous, aligned [padded_n, padded_k].

    They are those that `padded_weights` gave. Canonical ones that another backend has prepared may
    begin anywhere: those are copied, once, when the layer is bound.
    """
    return aligned(padded(prepared.tensors["data"], padded_n, padded_k), ALIGNMENT)
