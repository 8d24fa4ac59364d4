"""rope_quantize against loops, as the inverse of inverse_rope, and its one scale."""

import math
from fractions import Fraction

import pytest
import torch

from quantmux.config import Block, ElementFormat, Operand, RopeQuantizeConfig
from quantmux.errors import ConfigError, DtypeError, InputError, LayoutError, ShapeError
from quantmux.ops.agreement import agreement
from quantmux.ops.inputs import make_matrix
from quantmux.ops.inverse_rope_quantize.reference import inverse_rope
from quantmux.ops.quantize.compare import compare_quantized
from quantmux.ops.rope import make_cos_sin_cache
from quantmux.ops.rope_quantize.reference import rope, rope_quantize
from quantmux.ops.rope_quantize.spec import empty_heads
from quantmux.ops.spec import Call

E5M2 = Operand(element=ElementFormat.FP8_E5M2, block=Block(rows=-1, cols=-1), dynamic=False)
PLACES = [("first", False), ("first", True), ("last", False), ("last", True)]
SCALE = torch.tensor([0.0123])


def config(at="first", interleaved=False, **changes):
    fields = {"heads": 3, "head_dim": 24, "rope_dim": 16, **changes}
    return RopeQuantizeConfig(rope_at=at, interleaved=interleaved, **fields)


def inputs(made, t, seed=0, kind="normal"):
    x = make_matrix(kind, t * made.heads, made.head_dim, made.in_dtype, seed=seed)
    positions = torch.randint(0, 50, (t,), generator=torch.Generator().manual_seed(seed))
    cache = make_cos_sin_cache(50, made.rope_dim)
    return x.view(t, made.heads, made.head_dim), positions, cache


def pairs(at, interleaved, head_dim, rope_dim):
    """Give the columns (a, b) of every pair, the angle being that of its place in the list."""
    start = 0 if at == "first" else head_dim - rope_dim
    half = rope_dim // 2
    if interleaved:
        return [(start + 2 * i, start + 2 * i + 1) for i in range(half)]
    return [(start + i, start + i + half) for i in range(half)]


@pytest.mark.parametrize(("at", "interleaved"), PLACES)
def test_every_element_is_rotated_and_quantized_as_written(at, interleaved, oracle):
    made = config(at, interleaved)
    x, positions, cache = inputs(made, 3)
    q = rope_quantize(x, positions, cache, made, scale=SCALE)
    values = rope(x, positions, cache, at=at, interleaved=interleaved)
    s, f, half = Fraction(float(SCALE)), oracle.f32, made.rope_dim // 2
    columns = pairs(at, interleaved, made.head_dim, made.rope_dim)
    rotated = {c for pair in columns for c in pair}
    assert len(rotated) == made.rope_dim
    for t in range(3):
        for h in range(made.heads):
            row = [Fraction(float(v)) for v in x[t, h]]
            want = dict(enumerate(row))
            for i, (a, b) in enumerate(columns):
                cos = Fraction(float(cache[positions[t], i]))
                sin = Fraction(float(cache[positions[t], half + i]))
                want[a] = f(f(row[a] * cos) - f(row[b] * sin))
                want[b] = f(f(row[b] * cos) + f(row[a] * sin))
            for c, value in want.items():
                assert Fraction(float(values[t, h, c])) == value
                assert Fraction(float(q.data[t, h, c])) == oracle.code(value, s, oracle.e4m3)
    assert q.scales.tolist() == SCALE.tolist()
    assert q.data.shape == (3, 3, 24)
    assert q.data.is_contiguous()


def test_inverse_rope_undoes_the_interleaved_rotation_of_the_last_columns():
    made = config("last", True, in_dtype="fp32")
    x, positions, cache = inputs(made, 5)
    rotated = rope(x, positions, cache, at="last", interleaved=True)
    assert (rotated - x).abs().max() > 0.1
    assert (inverse_rope(rotated, positions, cache) - x).abs().max() < 1e-5


def test_the_two_kinds_of_pairs_are_one_rotation_of_columns_in_another_order():
    x, positions, cache = inputs(config(head_dim=16), 5)
    order = torch.arange(16).view(8, 2).t().reshape(-1)  # 0 2 4 … 1 3 5 …
    halves = rope(x[..., order], positions, cache, at="first", interleaved=False)
    neighbours = rope(x, positions, cache, at="first", interleaved=True)
    assert torch.equal(halves, neighbours[..., order])


def test_position_zero_changes_nothing():
    made = config()
    x, _, cache = inputs(made, 4)
    at_zero = torch.zeros(4, dtype=torch.int64)
    assert torch.equal(rope(x, at_zero, cache, at="first", interleaved=False), x.float())


@pytest.mark.parametrize("operand", ["fp8_tensor_static", E5M2])
def test_a_scale_in_the_config_is_the_scale_of_the_call(operand):
    made = config(operand=operand)
    known = config(operand=operand, static_scale=0.0123)
    call = inputs(made, 7)
    got, want = rope_quantize(*call, known), rope_quantize(*call, made, scale=SCALE)
    assert torch.equal(got.data.view(torch.uint8), want.data.view(torch.uint8))
    assert torch.equal(got.scales, want.scales)
    assert (got.dequantize() - want.dequantize()).abs().max() == 0
    assert got.dequantize().shape == (7, 3, 24)


def test_the_scale_comes_from_exactly_one_place():
    call = inputs(config(), 2)
    with pytest.raises(InputError, match="needs scale="):
        rope_quantize(*call, config())
    with pytest.raises(InputError, match=r"static_scale = 0\.5"):
        rope_quantize(*call, config(static_scale=0.5), scale=SCALE)
    with pytest.raises(InputError, match="no scale"):
        rope_quantize(*call, config(), scale=torch.tensor([0.0]))


def test_a_scale_of_the_config_is_an_fp32_number_and_has_a_reciprocal():
    assert config(static_scale=0.1).static_scale == float(torch.tensor(0.1))
    assert config(static_scale=0.1) == config(static_scale=float(torch.tensor(0.1)))
    for bad in (0.0, -1.0, math.inf, math.nan, 1e-40, 1e39):
        with pytest.raises(ConfigError, match="static_scale"):
            config(static_scale=bad)


def test_configs_that_mean_nothing_are_refused():
    for changes, text in (
        ({"rope_dim": 15}, "rope_dim must be even"),
        ({"rope_dim": 26}, "at most head_dim"),
        ({"rope_at": "middle"}, "rope_at"),
        ({"operand": "fp8_tensor"}, "one given scale"),
        ({"operand": "fp8_token"}, "one given scale"),
        ({"operand": "int8_tensor_static"}, "one given scale"),
        ({"layout": "row_major"}, "no layout row_major"),
        ({"layout": "acme:tiles"}, "has one scale"),
        ({"padded_n": 32}, "does not pad"),
        ({"n": 16}, "n is head_dim"),
    ):
        fields = {"heads": 3, "head_dim": 24, "rope_dim": 16, **changes}
        with pytest.raises(ConfigError, match=text):
            RopeQuantizeConfig(**fields)


def test_writing_into_a_dirty_out_gives_the_same_bytes_its_scale_too():
    made = config()
    call = inputs(made, 5)
    out = empty_heads(made, 5, "cpu")
    for tensor in out.tensors():
        tensor.view(torch.uint8).fill_(0xFF)
    got = rope_quantize(*call, made, scale=SCALE, out=out)
    want = rope_quantize(*call, made, scale=SCALE)
    assert got is out
    assert torch.equal(got.data.view(torch.uint8), want.data.view(torch.uint8))
    assert torch.equal(got.scales, want.scales)


@pytest.mark.parametrize("operand", ["fp8_tensor_static", E5M2])
def test_nan_stays_nan_in_its_own_pair_and_infinity_saturates(operand):
    made = config(operand=operand, head_dim=24)
    x, positions, cache = inputs(made, 3)
    x[1, 2, 20] = math.nan  # not rotated
    x[0, 0, 21] = math.inf  # not rotated
    x[2, 1, 3] = math.nan  # its pair is column 11
    q = rope_quantize(x, positions, cache, made, scale=SCALE)
    bad = q.dequantize().isnan().nonzero().tolist()
    assert bad == [[1, 2, 20], [2, 1, 3], [2, 1, 11]]
    assert float(q.data[0, 0, 21]) == made.operand.max_value


def test_heads_inside_a_wider_row_are_read_where_they_lie():
    made = config(heads=2)
    x, positions, cache = inputs(made, 3)
    fused = torch.full((3, 7 * 24), math.nan, dtype=torch.bfloat16)
    fused[:, 24:72] = x.reshape(3, 48)
    heads = fused[:, 24:72].view(3, 2, 24)
    assert not heads.is_contiguous()
    got = rope_quantize(heads, positions, cache, made, scale=SCALE)
    want = rope_quantize(x, positions, cache, made, scale=SCALE)
    assert torch.equal(got.dequantize(), want.dequantize())


def test_refuses_wrong_inputs():
    made = config()
    x, positions, cache = inputs(made, 3)
    for call, error, text in (
        ((x[:, :2], positions, cache), ShapeError, "x has the wrong shape"),
        ((x.float(), positions, cache), DtypeError, "x needs bf16"),
        ((x, positions[:2], cache), ShapeError, "positions"),
        ((x, positions.int(), cache), DtypeError, "int64"),
        ((x, positions, cache[:, :8]), ShapeError, "cos_sin_cache"),
        ((x, positions, cache.double()), DtypeError, "cos_sin_cache"),
        ((x, positions + 50, cache), InputError, "outside cos_sin_cache"),
        ((x, positions - 50, cache), InputError, "outside cos_sin_cache"),
    ):
        with pytest.raises(error, match=text):
            rope_quantize(*call, made, scale=SCALE)
    other = rope_quantize(x[:2], positions[:2], cache, made, scale=SCALE)
    with pytest.raises(ShapeError, match="logical shape"):
        rope_quantize(x, positions, cache, made, scale=SCALE, out=other)


def test_heads_that_do_not_follow_each_other_are_no_result():
    made = config()
    good = rope_quantize(*inputs(made, 3), made, scale=SCALE)
    good.check()
    apart = torch.empty(3, 3, 32, dtype=torch.float8_e4m3fn)[..., :24]
    other = type(good)(apart, good.scales, None, good.operand, good.layout, good.logical_shape)
    with pytest.raises(LayoutError, match="strides"):
        other.check()
    two = type(good)(good.data, torch.ones(2), None, good.operand, good.layout, good.logical_shape)
    with pytest.raises(ShapeError, match="scales"):
        two.check()


def test_a_wrong_code_a_wrong_scale_and_a_rotation_the_other_way_are_found():
    made = config()
    x, positions, cache = call = inputs(made, 9)
    values = rope(x, positions, cache, at="first", interleaved=False)

    def fresh():
        return rope_quantize(*call, made, scale=SCALE)

    want, far = fresh(), fresh()
    assert compare_quantized(fresh(), want).ok
    assert compare_quantized(fresh(), want, values=values).ok
    far.data.view(torch.uint8)[4, 1, 2] ^= 0x12
    for found in (
        compare_quantized(far, want),
        compare_quantized(far, want, values=values),
    ):
        assert not found.ok
        assert found.part == "data"
    drifted = fresh()
    drifted.scales.mul_(1.0 + 2.0**-22)
    assert compare_quantized(drifted, want, values=values).part == "scales"
    back = rope_quantize(x, positions, cache * torch.tensor([1.0] * 8 + [-1.0] * 8), made,
                         scale=SCALE)  # fmt: skip
    assert not agreement(made, Call(call, {"scale": SCALE}), back).ok
    other = rope_quantize(*call, config("first", True), scale=SCALE)
    assert not compare_quantized(other, want, values=values).ok
