"""What the kernels on ``torch._scaled_mm`` share: padded weights, the bias, and the call."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from quantmux.config.layouts import round_up
from quantmux.ops.quantized import DTYPES
from quantmux_torch.outputs import require_output, with_padded_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantmux.config import LinearConfig
    from quantmux.ops.quantized import QuantizedTensor
    from quantmux.registry.protocol import PreparedWeights

ALIGNMENT = 16
"""cuBLASLt wants N and K of FP8 matrices in multiples of it."""


def epilogue_bias(bias: torch.Tensor, out_dtype: torch.dtype, padded_n: int) -> torch.Tensor:
    """Give the bias [N] as [padded_n], zero beyond N, in a dtype that loses no bit of it.

    That is the output's dtype, which the GEMM adds in its own fp32 epilogue, or else fp32, which
    `bind_scaled_mm` adds by itself before it rounds.
    """
    narrow = bias.to(out_dtype)
    same = (narrow.to(torch.float64) == bias.to(torch.float64)) | torch.isnan(bias)
    chosen = narrow if bool(same.all()) else bias.to(torch.float32)
    return torch.nn.functional.pad(chosen, (0, padded_n - bias.shape[0]))


def split_bias(
    config: LinearConfig, prepared: PreparedWeights
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Give the bias that the GEMM adds, or else the one to be added to its fp32 result."""
    if not config.bias:
        return None, None
    bias = prepared.tensors["epilogue_bias"]
    if config.out_dtype == "fp32" or bias.dtype == torch.float32:
        return None, bias
    return bias, None


def bind_scaled_mm(config: LinearConfig, prepared: PreparedWeights) -> Callable[..., torch.Tensor]:
    """Give ``fn(q, *, out=None) -> y`` for scales per tensor, or per token and channel.

    y [M, N] has rows of stride ``round_up(N, 16)``. One launch, unless the bias has more bits than
    the output's dtype: then an fp32 result, the bias and the rounding are three.
    """
    scaled_mm = torch._scaled_mm  # noqa: SLF001  (torch has no public name for it)
    weight_t = prepared.tensors["data"].T
    padded_n = weight_t.shape[1]
    scale_b = prepared.tensors["scale_b"]
    scale_b = scale_b if scale_b.ndim == 1 else scale_b.T
    bias, wide_bias = split_bias(config, prepared)
    dtype, n = DTYPES[config.out_dtype], config.n
    is_fast = config.scheme.accumulation == "fast"

    def run(q: QuantizedTensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        m = q.logical_shape[0]
        target = None
        if out is not None:
            require_output(out, m, n, dtype, q.data.device)
            target = with_padded_rows(out, padded_n)
        if m == 0:
            return q.data.new_empty((0, n), dtype=dtype) if out is None else out
        y = scaled_mm(
            q.data,
            weight_t,
            scale_a=q.scales,
            scale_b=scale_b,
            bias=bias,
            out_dtype=dtype,
            use_fast_accum=is_fast,
            out=target,
        )
        return y if padded_n == n else y[:, :n]

    if wide_bias is None:
        return run

    def run_and_add(q: QuantizedTensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        m = q.logical_shape[0]
        if out is not None:
            require_output(out, m, n, dtype, q.data.device)
        if m == 0:
            return q.data.new_empty((0, n), dtype=dtype) if out is None else out
        y = scaled_mm(
            q.data,
            weight_t,
            scale_a=q.scales,
            scale_b=scale_b,
            out_dtype=torch.float32,
            use_fast_accum=is_fast,
        )
        y += wide_bias
        return y.to(dtype)[:, :n] if out is None else out.copy_(y[:, :n])

    return run_and_add


def padded_sizes(config: LinearConfig) -> tuple[int, int]:
    """Give N and K rounded up to what the GEMM wants."""
    return round_up(config.n, ALIGNMENT), round_up(config.k, ALIGNMENT)
