# ruff: noqa: ANN001, ANN201
"""Inverse RoPE + quantization, one warp and one head a program: what others launch, our writing.

Grid (tokens rounded up to 4, heads); strides are arguments; the rotation loads a second time. Not
decorated: `inverse_rope_variants.py` decorates it with the pinning that it measures.
"""

import triton.language as tl


def one_head(
    o, positions, cache, data, scales, num_tokens, heads_per_group, o_token, o_head,
    data_group, data_token, scale_group, scale_token, scale_column, eps,
    D: tl.constexpr, ROPE_DIM: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    per_head: tl.constexpr = D // WIDTH
    group, inside = head // heads_per_group, head % heads_per_group
    column = inside * per_head + tl.arange(0, per_head)
    to = scales + group * scale_group + token * scale_token + column * scale_column
    if token >= num_tokens:
        tl.store(to, tl.zeros((per_head,), tl.float32))
        return
    at = tl.arange(0, D)
    base = o + token * o_token + head * o_head
    x = tl.load(base + at).to(tl.float32)
    turned = at - (D - ROPE_DIM)
    turns = turned >= 0
    partner = tl.load(base + (at ^ 1), mask=turns, other=0.0).to(tl.float32)
    angle = cache + tl.load(positions + token) * ROPE_DIM + tl.maximum(turned >> 1, 0)
    cos = tl.load(angle, mask=turns, other=1.0)
    sin = tl.load(angle + ROPE_DIM // 2, mask=turns, other=0.0)
    rotated = tl.where((turned & 1) == 1, x * cos - partner * sin, x * cos + partner * sin)
    y = tl.reshape(tl.where(turns, rotated, x), (per_head, WIDTH))
    amax = tl.maximum(tl.max(tl.abs(y), axis=1), eps)
    scale = tl.exp2(tl.ceil(tl.log2(amax * (1.0 / 448.0))))
    codes = tl.clamp(y / scale[:, None], -448.0, 448.0).to(tl.float8e4nv)
    tl.store(data + group * data_group + token * data_token + inside * D + at,
             tl.reshape(codes, (D,)))  # fmt: skip
    tl.store(to, scale)
