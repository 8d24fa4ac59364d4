"""torch/linear_scaled_mm_cpu: ``torch._scaled_mm`` on the host.

It keeps one byte a weight. torch widens the codes to fp32 in every call, so `linear_emulated`,
which does that once, is several times faster where its four bytes a weight fit.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Final

import torch

from quantmux.ops.quantized import DTYPES
from quantmux_torch.devices import moved
from quantmux_torch.outputs import require_output
from quantmux_torch.padding import channel_scales, shared

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LinearConfig
    from quantmux.ops.quantized import LinearWeights, QuantizedTensor
    from quantmux.registry.protocol import PreparedWeights


class LinearScaledMmCpu:
    """The checkpoint's own tensors; nothing is padded, as the host needs no alignment."""

    def prepare(
        self, weights: LinearWeights, config: LinearConfig, device: DeviceProfile
    ) -> PreparedWeights:
        """Share the canonical tensors."""
        return shared(moved(weights, device), config.n, config.k)

    def bind(
        self,
        config: LinearConfig,
        prepared: PreparedWeights,
        device: DeviceProfile,  # noqa: ARG002
    ) -> Callable[..., torch.Tensor]:
        """Give ``fn(q, *, out=None) -> y``, y [M, N] contiguous."""
        scaled_mm = torch._scaled_mm  # noqa: SLF001  (torch has no public name for it)
        weight_t = prepared.tensors["data"].T
        scale_b = prepared.tensors["scales"]
        activation = config.scheme.activation
        if activation is not None and activation.block.kind == "row":
            scale_b = channel_scales(scale_b, config.n, config.n).T
        # the host adds a bias of any dtype in fp32
        bias = prepared.tensors["bias"].to(torch.float32) if config.bias else None
        dtype, n = DTYPES[config.out_dtype], config.n

        def run(q: QuantizedTensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
            m = q.logical_shape[0]
            if out is not None:
                require_output(out, m, n, dtype, q.data.device)
            if m == 0:
                return q.data.new_empty((0, n), dtype=dtype) if out is None else out
            # torch writes into the storage of a strided out as if its rows were contiguous
            target = out if out is None or out.is_contiguous() else None
            # on the host torch makes it of a matmul, which autocast would narrow to 16 bit
            narrowed = torch.is_autocast_enabled("cpu")
            with torch.autocast("cpu", enabled=False) if narrowed else nullcontext():
                y = scaled_mm(
                    q.data,
                    weight_t,
                    scale_a=q.scales,
                    scale_b=scale_b,
                    bias=bias,
                    out_dtype=dtype,
                    out=target,
                )
            return y if out is None or out is target else out.copy_(y)

        return run

    def warmup(self, config: LinearConfig, ms: Sequence[int]) -> None:
        """Do nothing: no code depends on M."""


kernel: Final = LinearScaledMmCpu()
