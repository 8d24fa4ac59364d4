"""Inverse RoPE with one program of one warp per token and head: the grid of vllm#42849, rewritten.

What the multi-token tiles of the backend's own kernel are compared with. The arithmetic is the
backend's, so that both give the same values; only the division of work differs.
"""
# ruff: noqa: ANN001 - device code: pointers have no Python type
# mypy: ignore-errors

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import triton
import triton.language as tl

from quantmux.ops.inverse_rope_quantize.spec import empty_grouped

if TYPE_CHECKING:
    import torch

    from quantmux.config import InverseRopeQuantizeConfig
    from quantmux.ops.quantized import QuantizedTensor


@triton.jit(do_not_specialize=["tokens", "scale_group", "scale_block"])
def _kernel(
    o,
    positions,
    cache,
    data,
    scales,
    tokens,
    scale_group,
    scale_block,
    HEADS: tl.constexpr,
    PER_GROUP: tl.constexpr,
    D: tl.constexpr,
    ROPE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    BLOCKS: tl.constexpr = D // BLOCK
    group, inner = head // PER_GROUP, head % PER_GROUP
    block = inner * BLOCKS + tl.arange(0, BLOCKS)
    place = scales + group * scale_group + block * scale_block + token
    if token >= tokens:
        tl.store(place, tl.zeros((BLOCKS,), tl.float32))
        return
    column = tl.arange(0, D)
    row = o + (token * HEADS + head) * D
    x = tl.load(row + column).to(tl.float32)
    turned = column - (D - ROPE)
    is_rope = turned >= 0
    partner = tl.load(row + (column ^ 1), mask=is_rope, other=0.0).to(tl.float32)
    angle = cache + tl.load(positions + token) * ROPE + (turned >> 1)
    cos = tl.load(angle, mask=is_rope, other=1.0)
    sin = tl.load(angle + ROPE // 2, mask=is_rope, other=0.0)
    first, second = x * cos, partner * sin
    x = tl.where(is_rope, tl.where((turned & 1) == 1, first - second, first + second), x)
    values = tl.reshape(x, (BLOCKS, BLOCK))
    amax = tl.maximum(tl.max(tl.abs(values), axis=1), 1e-10)
    bits = tl.div_rn(amax, tl.full((BLOCKS,), 448.0, tl.float32)).to(tl.int32, bitcast=True)
    scale = ((bits + 0x7FFFFF) & 0x7F800000).to(tl.float32, bitcast=True)
    # the scale is a power of two: its reciprocal is exact, and so is the division
    codes = tl.clamp(values * (1.0 / scale)[:, None], -448.0, 448.0).to(tl.float8e4nv)
    at = data + (group * tokens + token) * (PER_GROUP * D) + inner * D + column
    tl.store(at, tl.reshape(codes, (D,)))
    tl.store(place, scale)


def one_warp_per_head(config: InverseRopeQuantizeConfig) -> Callable[..., QuantizedTensor]:
    """Give the op of a config with `col_major_aligned4` scales: (o, positions, cache) → result."""
    kernel: Any = _kernel

    def run(o: torch.Tensor, positions: torch.Tensor, cache: torch.Tensor) -> QuantizedTensor:
        tokens = o.shape[0]
        q = empty_grouped(config, tokens, o.device)
        _, group, block = q.scales.stride()
        kernel[((tokens + 3) // 4 * 4, config.heads)](
            o,
            positions,
            cache,
            q.data,
            q.scales,
            tokens,
            group,
            block,
            HEADS=config.heads,
            PER_GROUP=config.heads // config.groups,
            D=config.head_dim,
            ROPE=config.rope_dim,
            BLOCK=config.operand.block.cols,
            num_warps=1,
            enable_fp_fusion=False,
        )
        return q

    return run
