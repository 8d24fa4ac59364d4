# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="no-untyped-def"
"""Inverse RoPE and quantization with one warp and one head a program, as peers launch it.

Our own writing, with the arguments that decide what Triton compiles: the number of tokens and every
stride are plain integers, so each that is made of the number of tokens may change the compiled code
when it becomes 1, or a multiple of 16, or neither. Grid (tokens rounded up to 4, heads). The
rotation loads its partner a second time; scales are ``2 ** ceil(log2(amax / 448))``, fp32, with
columns along the tokens. Imported only where Triton is about to be used.

Not decorated here: `inverse_rope_ways` decorates it with the pinning that is measured.
"""

import triton.language as tl


def one_head(
    o, positions, cache, data, scales, num_tokens,
    o_token_stride, o_head_stride, cache_row_stride,
    data_group_stride, data_token_stride, scale_group_stride, scale_column_stride,
    HEADS_OF_GROUP: tl.constexpr, D: tl.constexpr, ROPE: tl.constexpr, GROUP: tl.constexpr,
    FMAX: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    """Rotate back and quantize one head of one token.

    Args:
        o: Values [T, H, D].
        positions: int64 [T], rows of the cache.
        cache: fp32 [P, ROPE] = cos | sin.
        data: fp8 [G, T, H / G · D].
        scales: fp32 [G, S, T rounded up to 4], pad rows written and zero.
        num_tokens: T.
        o_token_stride: Elements between tokens of o.
        o_head_stride: Elements between heads of o.
        cache_row_stride: Elements between rows of the cache.
        data_group_stride: Elements between groups of data, T times a row.
        data_token_stride: Elements between tokens of data.
        scale_group_stride: Elements between groups of scales.
        scale_column_stride: Elements between columns of scales, T rounded up to 4.
        HEADS_OF_GROUP: Heads of a group.
        D: Columns of a head.
        ROPE: Rotated columns of a head, its last.
        GROUP: Columns that share a scale.
        FMAX: Largest magnitude of a code.
        EPS: Floor of a group's amax.
    """
    PER_HEAD: tl.constexpr = D // GROUP
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    group, inside = head // HEADS_OF_GROUP, head % HEADS_OF_GROUP
    column = inside * PER_HEAD + tl.arange(0, PER_HEAD)
    to = scales + group * scale_group_stride + column * scale_column_stride + token
    if token >= num_tokens:
        tl.store(to, tl.zeros((PER_HEAD,), tl.float32))
        return
    at = tl.arange(0, D)
    base = o + token * o_token_stride + head * o_head_stride
    x = tl.load(base + at).to(tl.float32)
    turned = at - (D - ROPE)
    turns = turned >= 0
    partner = tl.load(base + (at ^ 1), mask=turns, other=0.0).to(tl.float32)
    angle = cache + tl.load(positions + token) * cache_row_stride + tl.maximum(turned >> 1, 0)
    cos = tl.load(angle, mask=turns, other=1.0)
    sin = tl.load(angle + ROPE // 2, mask=turns, other=0.0)
    rotated = tl.where((turned & 1) == 1, x * cos - partner * sin, x * cos + partner * sin)
    y = tl.reshape(tl.where(turns, rotated, x), (PER_HEAD, GROUP))
    amax = tl.maximum(tl.max(tl.abs(y), axis=1), EPS)
    scale = tl.exp2(tl.ceil(tl.log2(amax * (1.0 / FMAX))))
    codes = tl.clamp(y / scale[:, None], -FMAX, FMAX).to(data.dtype.element_ty)
    row = data + group * data_group_stride + token * data_token_stride + inside * D
    tl.store(row + at, tl.reshape(codes, (D,)))
    tl.store(to, scale)
