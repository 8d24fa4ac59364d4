"""torch/linear_emulated: weights dequantized once, and a product in fp32 on any device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from quantmux.ops.dequantize import dequantize, dequantize_weights
from quantmux.ops.quantized import DTYPES
from quantmux.registry.protocol import PreparedWeights
from quantmux_torch.devices import device_type, moved, require_device_type
from quantmux_torch.outputs import require_output

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LinearConfig
    from quantmux.ops.quantized import LinearWeights, QuantizedTensor

_FULL_FP32: Final = ("none", "ieee")


class LinearEmulated:
    """Values in fp32 instead of codes: ``y = round(x · Wᵀ + bias)``, bias added in fp32.

    Four bytes a weight. Dequantization cannot be undone bit for bit, so there is no ``restore``.
    """

    def prepare(
        self, weights: LinearWeights, config: LinearConfig, device: DeviceProfile
    ) -> PreparedWeights:
        """Dequantize the weight to fp32 [N, K]; the small tensors are shared."""
        here = moved(weights, device)
        small = {
            name: tensor
            for name, tensor in here.named().items()
            if name in ("bias", "input_scale", "input_global_scale")
        }
        weight = dequantize_weights(here, config.scheme.weight, config.n, config.k)
        return PreparedWeights(
            tensors={"weight": weight, **small},
            weight_layout="torch:dequantized",
            n=config.n,
            k=config.k,
        )

    def bind(
        self, config: LinearConfig, prepared: PreparedWeights, device: DeviceProfile
    ) -> Callable[..., torch.Tensor]:
        """Give ``fn(x, *, out=None) -> y``, y [M, N] contiguous; x plain or quantized."""
        weight_t = prepared.tensors["weight"].T
        bias = prepared.tensors["bias"].to(torch.float32) if config.bias else None
        want = device_type(device)
        dtype, n = DTYPES[config.out_dtype], config.n

        def run(
            x: torch.Tensor | QuantizedTensor, *, out: torch.Tensor | None = None
        ) -> torch.Tensor:
            values = x.to(torch.float32) if isinstance(x, torch.Tensor) else dequantize(x)
            require_device_type(values, want)
            if out is not None:
                require_output(out, values.shape[0], n, dtype, values.device)
            y = fp32_product(values, weight_t)
            if bias is not None:
                y += bias
            return y.to(dtype) if out is None else out.copy_(y)

        return run

    def warmup(self, config: LinearConfig, ms: Sequence[int]) -> None:
        """Do nothing: no code depends on M."""


def fp32_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Give a · b of fp32 matrices, in full fp32 whatever the process allows its matmuls.

    Where something narrower is allowed, the product is taken in fp64 (which no setting narrows)
    rather than touching a setting of the process.
    """
    if multiplies_in_fp32(a.device.type):
        return a @ b
    return (a.to(torch.float64) @ b.to(torch.float64)).to(torch.float32)


def multiplies_in_fp32(device_type: str) -> bool:
    """Tell whether fp32 matmuls here keep fp32's 24 bits: no TF32, no bf16, no autocast."""
    if torch.is_autocast_enabled(device_type):
        return False
    backend = torch.backends.cuda if device_type == "cuda" else torch.backends.mkldnn
    # the attribute is newer than the oldest torch supported, and holds the newer settings too
    precision = getattr(getattr(backend, "matmul", None), "fp32_precision", None)
    if precision is None:
        return torch.get_float32_matmul_precision() == "highest"
    return precision in _FULL_FP32


kernel: Final = LinearEmulated()
