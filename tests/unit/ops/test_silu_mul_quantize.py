"""silu_mul_quantize: fp32 throughout, every operand and layout of quantize."""

import math

import pytest
import torch

from quantmux.config import QuantizeConfig, SiluMulQuantizeConfig, layouts_for, operand
from quantmux.errors import DtypeError, InputError, ShapeError
from quantmux.ops.inputs import make_matrix
from quantmux.ops.quantize.reference import quantize
from quantmux.ops.silu_mul_quantize.reference import silu_mul, silu_mul_quantize


def f32(value):
    return float(torch.tensor(value, dtype=torch.float32))


def test_silu_mul_agrees_with_double_precision_to_a_few_ulp():
    x = make_matrix("normal", 4, 64, "bf16", magnitude=4.0, seed=1)
    got = silu_mul(x)
    for i in range(4):
        for j in range(32):
            g, u = float(x[i, j]), float(x[i, 32 + j])
            want = g / (1.0 + math.exp(-g)) * u
            assert abs(float(got[i, j]) - want) <= 2.0**-21 * abs(want)


def test_gate_is_the_first_half_and_up_the_second():
    x = torch.tensor([[2.0, -3.0, 10.0, 20.0]])
    want = [2.0 / (1 + math.exp(-2.0)) * 10.0, -3.0 / (1 + math.exp(3.0)) * 20.0]
    assert silu_mul(x)[0].tolist() == pytest.approx(want, rel=1e-6)


def test_large_gates_neither_overflow_nor_give_nan():
    x = torch.tensor([[1e4, -1e4, 300.0, -300.0, 1.0, 1.0, 1.0, 1.0]])
    assert silu_mul(x)[0].tolist() == [1e4, 0.0, 300.0, 0.0]


def test_the_product_is_not_rounded_to_bf16_before_amax():
    x = make_matrix("normal", 8, 256, "bf16", seed=2)
    made = SiluMulQuantizeConfig(operand="fp8_group128", n=128)
    fused = silu_mul_quantize(x, made)
    rounded = silu_mul(x).to(torch.bfloat16)
    unfused = quantize(rounded, QuantizeConfig(operand="fp8_group128", n=128))
    assert not torch.equal(fused.scales, unfused.scales)
    assert torch.equal(fused.scales[:, 0], silu_mul(x).abs().amax(1) / torch.tensor(448.0))


@pytest.mark.parametrize(
    "name", ["fp8_tensor", "fp8_token", "fp8_group64_pow2", "int8_token", "nvfp4"]
)
def test_every_layout_and_padding_of_quantize_is_offered_with_the_same_bits(name):
    value = operand(name)
    n, padded_n = 128, 256
    x = make_matrix("normal", 9, 2 * n, "bf16", seed=3)
    for layout in layouts_for(value):
        made = SiluMulQuantizeConfig(operand=name, n=n, layout=layout, padded_n=padded_n)
        plain = QuantizeConfig(operand=name, n=n, layout=layout, padded_n=padded_n, in_dtype="fp32")
        got, want = silu_mul_quantize(x, made), quantize(silu_mul(x), plain)
        got.check()
        for a, b in zip(got.tensors(), want.tensors(), strict=True):
            assert torch.equal(a.float(), b.float())


def test_a_small_amax_keeps_its_scale_above_the_floor_of_amax():
    """Floors on the scale instead of amax differ here by orders of magnitude."""
    x = make_matrix("normal", 4, 256, "bf16", magnitude=1e-3, seed=4)
    q = silu_mul_quantize(x, SiluMulQuantizeConfig(operand="fp8_group128", n=128))
    assert torch.equal(q.scales[:, 0], silu_mul(x).abs().amax(1) / torch.tensor(448.0))
    assert bool((q.data.float().abs().amax(1) == 448.0).all())


@pytest.mark.parametrize(
    ("gate", "up"), [(math.nan, 1.0), (1.0, math.nan), (math.inf, 1.0), (-math.inf, 1.0)]
)
def test_a_non_finite_product_spoils_its_own_block_only(gate, up):
    x = torch.ones(2, 256, dtype=torch.bfloat16)
    x[1, 70], x[1, 128 + 70] = gate, up
    q = silu_mul_quantize(x, SiluMulQuantizeConfig(operand="fp8_group64", n=128))
    assert q.scales.isnan().tolist() == [[False, False], [False, True]]


def test_scale_ub_bounds_amax_and_not_the_scale():
    value = operand("fp8_group128").replace(scale_ub=1.0)
    x = make_matrix("normal", 3, 256, "bf16", magnitude=100.0, seed=5)
    q = silu_mul_quantize(x, SiluMulQuantizeConfig(operand=value, n=128))
    assert q.scales[:, 0].tolist() == [f32(1.0 / 448.0)] * 3


def test_no_rows_are_legal():
    made = SiluMulQuantizeConfig(operand="nvfp4", n=64, layout="swizzled_128x4")
    q = silu_mul_quantize(torch.empty(0, 128, dtype=torch.bfloat16), made)
    q.check()
    assert q.dequantize().shape == (0, 64)


def test_refuses_wrong_inputs():
    made = SiluMulQuantizeConfig(operand="fp8_tensor_static", n=64)
    with pytest.raises(ShapeError, match="width"):
        silu_mul_quantize(torch.ones(2, 64, dtype=torch.bfloat16), made, scale=torch.ones(1))
    with pytest.raises(DtypeError, match="bf16"):
        silu_mul_quantize(torch.ones(2, 128), made, scale=torch.ones(1))
    with pytest.raises(InputError, match="scale="):
        silu_mul_quantize(torch.ones(2, 128, dtype=torch.bfloat16), made)


def test_silu_far_below_zero_is_minus_zero_and_nan_at_minus_infinity():
    gate = torch.tensor([[-88.0, -89.0, -1e30, -torch.inf, torch.inf]])
    y = silu_mul(torch.cat((gate, torch.ones(1, 5)), dim=1))[0]
    assert float(y[0]) < 0.0
    assert y[1:3].tolist() == [0.0, 0.0]
    assert torch.signbit(y[1:3]).all()
    assert y[3].isnan()
    assert y[4] == torch.inf
