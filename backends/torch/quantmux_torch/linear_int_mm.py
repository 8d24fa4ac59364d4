"""torch/linear_int_mm: int8 by int8 with an int32 sum, by ``torch._int_mm``, on GPU and host.

``y = round(fp32(Σ) · s_a · s_w + bias)``. The sum is exact; its conversion, the two products and
the addition each round once in fp32, which is far below what the op allows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from quantmux.config.layouts import round_up
from quantmux.ops.quantized import DTYPES
from quantmux_torch.devices import moved
from quantmux_torch.dry_run import dry_run
from quantmux_torch.outputs import require_output
from quantmux_torch.padding import channel_scales, padded_matrix, prepared_with, shared

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LinearConfig
    from quantmux.ops.quantized import LinearWeights, QuantizedTensor
    from quantmux.registry.protocol import PreparedWeights

_FEW_ROWS: Final = 16
"""torch refuses this many rows or fewer on a GPU."""


class LinearIntMm:
    """Codes [R8(N), R16(K)] on a GPU.

    torch wants more than 16 rows there, so for fewer x arrives on 32 rows, the rest zero.
    """

    def prepare(
        self, weights: LinearWeights, config: LinearConfig, device: DeviceProfile
    ) -> PreparedWeights:
        """Pad N to 8 and K to 16."""
        here = moved(weights, device)
        return prepared_with(
            here,
            padded_matrix(here.data, round_up(config.n, 8), round_up(config.k, 16)),
            {},
            weight_layout="torch:padded_int8",
            n=config.n,
            k=config.k,
        )

    def bind(
        self,
        config: LinearConfig,
        prepared: PreparedWeights,
        device: DeviceProfile,  # noqa: ARG002
    ) -> Callable[..., torch.Tensor]:
        """Give ``fn(q, *, out=None) -> y``, y [M, N] contiguous."""
        int_mm = torch._int_mm  # noqa: SLF001  (torch has no public name for it)
        weight_t = prepared.tensors["data"].T
        dtype, n = DTYPES[config.out_dtype], config.n
        scale_w = channel_scales(prepared.tensors["scales"], n, n).T
        bias = prepared.tensors["bias"].to(torch.float32) if config.bias else None

        def run(q: QuantizedTensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
            m = q.logical_shape[0]
            if out is not None:
                require_output(out, m, n, dtype, q.data.device)
            if m == 0:
                return q.data.new_empty((0, n), dtype=dtype) if out is None else out
            sums = int_mm(q.data, weight_t)[:m, :n]
            # a scale tensor of padded rows has rows that belong to none of y
            y = sums * (q.scales if q.scales.ndim == 1 else q.scales[:m])
            y *= scale_w
            if bias is not None:
                y += bias
            return y.to(dtype) if out is None else out.copy_(y)

        return run

    def warmup(self, config: LinearConfig, ms: Sequence[int]) -> None:
        """Run once per M on zeros, so that cuBLASLt loads its kernels outside a capture."""
        activation = config.scheme.activation
        scales = "scalar" if activation and activation.block.kind == "tensor" else "row_major"
        few, many = [m for m in ms if m <= _FEW_ROWS], [m for m in ms if m > _FEW_ROWS]
        dry_run(self, config, few, scales=scales, pad_k_to=16, pad_m_to=32)
        dry_run(self, config, many, scales=scales, pad_k_to=16)


class LinearIntMmHost(LinearIntMm):
    """The checkpoint's own codes on the host, which takes any N, K and M."""

    def prepare(
        self, weights: LinearWeights, config: LinearConfig, device: DeviceProfile
    ) -> PreparedWeights:
        """Share the canonical tensors."""
        return shared(moved(weights, device), config.n, config.k)

    def warmup(self, config: LinearConfig, ms: Sequence[int]) -> None:
        """Do nothing: no code depends on M."""


kernel: Final = LinearIntMm()
host_kernel: Final = LinearIntMmHost()
