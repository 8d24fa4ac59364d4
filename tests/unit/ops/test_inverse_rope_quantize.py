"""inverse_rope_quantize against loops, and as the inverse of the rotation itself."""

import math
from fractions import Fraction

import pytest
import torch

from quantmux.config import Block, InverseRopeQuantizeConfig, operand
from quantmux.errors import DtypeError, InputError, ShapeError
from quantmux.ops.inputs import make_matrix
from quantmux.ops.inverse_rope_quantize.reference import inverse_rope, inverse_rope_quantize
from quantmux.ops.inverse_rope_quantize.spec import empty_grouped, make_cos_sin_cache


def config(layout="col_major_aligned4", **changes):
    fields = {"heads": 4, "head_dim": 64, "rope_dim": 16, "groups": 2, **changes}
    fields.setdefault("operand", operand("fp8_group64_pow2").replace(block=Block(rows=1, cols=32)))
    return InverseRopeQuantizeConfig(layout=layout, **fields)


def inputs(made, t, seed=0, dtype="bf16", kind="normal"):
    o = make_matrix(kind, t * made.heads, made.head_dim, dtype, seed=seed)
    positions = torch.randint(0, 50, (t,), generator=torch.Generator().manual_seed(seed))
    cache = make_cos_sin_cache(50, made.rope_dim)
    return o.view(t, made.heads, made.head_dim), positions, cache


def test_every_element_is_rotated_as_written_with_each_operation_rounded(oracle):
    made = config()
    o, positions, cache = inputs(made, 3)
    got = inverse_rope(o, positions, cache)
    half = made.rope_dim // 2
    start = made.head_dim - made.rope_dim
    for t in range(3):
        for h in range(made.heads):
            assert torch.equal(got[t, h, :start], o[t, h, :start].float())
            for pair in range(half):
                cos = Fraction(float(cache[positions[t], pair]))
                sin = Fraction(float(cache[positions[t], half + pair]))
                even = Fraction(float(o[t, h, start + 2 * pair]))
                odd = Fraction(float(o[t, h, start + 2 * pair + 1]))
                f = oracle.f32
                want_even = f(f(even * cos) + f(odd * sin))
                want_odd = f(f(odd * cos) - f(even * sin))
                assert Fraction(float(got[t, h, start + 2 * pair])) == want_even
                assert Fraction(float(got[t, h, start + 2 * pair + 1])) == want_odd


def test_it_undoes_the_forward_rotation():
    made = config(rope_dim=64)
    o, positions, cache = inputs(made, 5, dtype="fp32")
    cos, sin = cache[positions][:, None].chunk(2, dim=-1)
    rotated = torch.empty_like(o)
    rotated[..., 0::2] = o[..., 0::2] * cos - o[..., 1::2] * sin
    rotated[..., 1::2] = o[..., 1::2] * cos + o[..., 0::2] * sin
    back = inverse_rope(rotated, positions, cache)
    assert (back - o).abs().max() < 1e-5


@pytest.mark.parametrize("layout", ["col_major_aligned4", "packed_pow2"])
@pytest.mark.parametrize("t", [0, 1, 3, 4, 5, 17])
def test_codes_and_scales_lie_per_group_with_zero_pad_rows(layout, t, oracle):
    made = config(layout, heads=6, groups=3)
    o, positions, cache = inputs(made, t, seed=t)
    q = inverse_rope_quantize(o, positions, cache, made)
    q.check()
    groups, n, width = made.groups, made.n, 32
    values = inverse_rope(o, positions, cache).reshape(t, groups, n)
    blocks = n // width
    rows = -(-t // 4) * 4
    stored = -(-blocks // 4) if layout == "packed_pow2" else blocks
    data = q.data.as_strided((groups * t * n,), (1,)).float()
    storage = q.scales.as_strided((groups * stored * rows,), (1,))
    if layout == "packed_pow2":
        raw = storage.view(torch.uint8).view(groups, stored, rows, 4)
    else:
        raw = storage.view(groups, stored, rows)
    assert not raw[:, :, t:].any()
    for i in range(t):
        for g in range(groups):
            for b in range(blocks):
                cells = values[i, g, b * width : (b + 1) * width].tolist()
                s = oracle.scale(max(map(abs, cells)), 448, pow2=True)
                if layout == "packed_pow2":
                    assert Fraction(2) ** (int(raw[g, b // 4, i, b % 4]) - 127) == s
                else:
                    assert Fraction(float(raw[g, b, i])) == s
                for k, x in enumerate(cells):
                    at = (g * t + i) * n + b * width + k
                    assert Fraction(float(data[at])) == oracle.code(x, s, oracle.e4m3)


def test_the_two_layouts_hold_the_same_numbers():
    o, positions, cache = inputs(config(), 7)
    plain = inverse_rope_quantize(o, positions, cache, config())
    packed = inverse_rope_quantize(o, positions, cache, config("packed_pow2"))
    assert torch.equal(plain.dequantize(), packed.dequantize())
    want = inverse_rope(o, positions, cache).reshape(7, 2, -1)
    assert (plain.dequantize() - want).norm() < 0.05 * want.norm()


def test_writing_into_a_dirty_out_gives_the_same_bytes():
    for layout in ("col_major_aligned4", "packed_pow2"):
        made = config(layout)
        o, positions, cache = inputs(made, 5)
        out = empty_grouped(made, 5, "cpu")
        for tensor in out.tensors():
            torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage()).fill_(0xFF)
        got = inverse_rope_quantize(o, positions, cache, made, out=out)
        want = inverse_rope_quantize(o, positions, cache, made)
        assert got is out
        for a, b in zip(got.tensors(), want.tensors(), strict=True):
            left = torch.empty(0, dtype=torch.uint8).set_(a.untyped_storage())
            right = torch.empty(0, dtype=torch.uint8).set_(b.untyped_storage())
            assert torch.equal(left, right)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_non_finite_element_spoils_its_own_group_only(bad):
    made = config("packed_pow2")
    o, positions, cache = inputs(made, 3)
    o[1, 2, 3] = bad  # head 2 is the first of the second group, not rotated
    q = inverse_rope_quantize(o, positions, cache, made)
    is_nan = q.dequantize().isnan()
    assert is_nan[1, 1, :32].all()
    assert int(is_nan.sum()) == 32
    assert int(q.scales[1, 1, 0]) & 0xFF == 0xFF


def test_strided_heads_are_read_where_they_lie():
    made = config()
    o, positions, cache = inputs(made, 3)
    wide = torch.zeros(3, 4, 128, dtype=torch.bfloat16)
    wide[..., :64] = o
    got = inverse_rope_quantize(wide[..., :64], positions, cache, made)
    want = inverse_rope_quantize(o, positions, cache, made)
    assert torch.equal(got.dequantize(), want.dequantize())


def test_refuses_wrong_inputs():
    made = config()
    o, positions, cache = inputs(made, 3)
    with pytest.raises(ShapeError, match="o has the wrong shape"):
        inverse_rope_quantize(o[:, :2], positions, cache, made)
    with pytest.raises(DtypeError, match="o needs bf16"):
        inverse_rope_quantize(o.float(), positions, cache, made)
    with pytest.raises(ShapeError, match="positions"):
        inverse_rope_quantize(o, positions[:2], cache, made)
    with pytest.raises(DtypeError, match="int64"):
        inverse_rope_quantize(o, positions.int(), cache, made)
    with pytest.raises(ShapeError, match="cos_sin_cache"):
        inverse_rope_quantize(o, positions, cache[:, :8], made)
    with pytest.raises(DtypeError, match="fp32"):
        inverse_rope_quantize(o, positions, cache.double(), made)


@pytest.mark.parametrize("bad", [-1, 50])
def test_refuses_a_position_outside_the_cache(bad):
    made = config()
    o, positions, cache = inputs(made, 3)
    positions[1] = bad
    with pytest.raises(InputError, match="outside cos_sin_cache") as error:
        inverse_rope_quantize(o, positions, cache, made)
    assert str(bad) in str(error.value)
