"""Dequantization: the values that codes and scales stand for, in fp32."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from quantmux.ops.layouts import canonical_scales
from quantmux.ops.numerics import decode_e2m1, expand_blocks, unpack_fp4

if TYPE_CHECKING:
    from quantmux.config import Block, Operand
    from quantmux.ops.quantized import LinearWeights, QuantizedTensor


def dequantize(q: QuantizedTensor) -> torch.Tensor:
    """Give the values of a quantized tensor: ``RN(code · s)``, for NVFP4 ``RN(code · s · g)``.

    Each has one rounding: ``code · s`` of NVFP4 is exact in fp32. Padding is left out.

    Returns:
        fp32 of the logical shape: [M, n], or [T, G, n] for heads.

    Raises:
        LayoutError: The layout belongs to a plugin.
    """
    codes, scales = decoded(q), canonical_scales(q).to(torch.float32)
    if q.layout.scales == "scalar":
        return codes * scales.reshape(())
    if q.is_grouped:
        return codes * scales.repeat_interleave(q.operand.block.cols, dim=-1)
    values = codes * expand_blocks(scales, q.operand.block, q.m, q.n)
    return values if q.global_scale is None else values * q.global_scale


def decoded(q: QuantizedTensor) -> torch.Tensor:
    """Give the codes as fp32 numbers [M, n] (or [T, G, n]): no padding, scales not applied."""
    if len(q.logical_shape) == 3:
        return q.data.to(torch.float32)
    return decode_data(q.data, q.operand, q.n)[: q.m]


def decode_data(data: torch.Tensor, operand: Operand, n: int) -> torch.Tensor:
    """Give stored elements [rows, ...] as fp32 numbers [rows, n]."""
    if operand.is_nvfp4:
        return decode_e2m1(unpack_fp4(data)[:, :n])
    return data[:, :n].to(torch.float32)


def dequantize_weights(weights: LinearWeights, operand: Operand, n: int, k: int) -> torch.Tensor:
    """Give the values [N, K] of canonical weights in fp32, rounded as `dequantize` does.

    Args:
        weights: Canonical weights.
        operand: ``scheme.weight``.
        n: Logical N.
        k: Logical K.
    """
    scales = weight_scales(weights.scales, operand.block, n, k)
    values = decode_data(weights.data, operand, k)[:n] * scales
    return values if weights.global_scale is None else values * weights.global_scale


def weight_scales(scales: torch.Tensor, block: Block, n: int, k: int) -> torch.Tensor:
    """Give canonical weight scales ([1], [N, 1] or the block grid) as fp32 [n, k], one each."""
    rows, cols = block.grid(n, k)
    return expand_blocks(scales.to(torch.float32).reshape(rows, cols), block, n, k)
