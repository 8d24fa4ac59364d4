"""Dequantization: one rounding, padding left out, every weight form."""

from fractions import Fraction

import pytest
import torch

from quantmux.config import QuantizeConfig, operand, scheme
from quantmux.config.schemes import SCHEMES
from quantmux.ops.dequantize import dequantize, dequantize_weights
from quantmux.ops.inputs import make_matrix
from quantmux.ops.linear.weights import quantize_weight
from quantmux.ops.quantize.reference import quantize


@pytest.mark.parametrize("name", ["fp8_token", "fp8_group64", "int8_token", "nvfp4"])
def test_each_value_is_code_times_scale_rounded_once(name, oracle):
    x = make_matrix("normal", 3, 80, "bf16", seed=1)
    q = quantize(x, QuantizeConfig(operand=name, n=80, padded_n=128))
    got = dequantize(q)
    assert got.shape == (3, 80)
    assert got.dtype == torch.float32
    values = [*oracle.e2m1_values, *(-v for v in oracle.e2m1_values)]
    width = 80 if operand(name).block.cols == -1 else operand(name).block.cols
    for i in range(3):
        for j in range(80):
            s = Fraction(float(q.scales[i, j // width].float()))
            if name == "nvfp4":
                byte = int(q.data[i, j // 2])
                code = Fraction(values[byte >> 4 if j % 2 else byte & 0xF])
                s *= Fraction(float(q.global_scale))
            else:
                code = Fraction(float(q.data[i, j].float()))
            assert Fraction(float(got[i, j])) == oracle.f32(code * s)


def test_the_method_of_the_tensor_casts():
    q = quantize(make_matrix("normal", 3, 64, "bf16"), QuantizeConfig(operand="fp8_token", n=64))
    assert q.dequantize(torch.bfloat16).dtype == torch.bfloat16
    assert torch.equal(q.dequantize(), dequantize(q))


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize(("n", "k"), [(1, 1), (7, 17), (130, 200), (128, 256)])
def test_weights_of_every_scheme_come_back_near_the_float_weight(name, n, k):
    weight = make_matrix("normal", n, k, "fp32", seed=2)
    made = scheme(name)
    back = dequantize_weights(quantize_weight(weight, made), made.weight, n, k)
    assert back.shape == (n, k)
    error = float((back - weight).norm() / weight.norm())
    assert error < {"nvfp4": 0.15, "int8_token": 0.02}.get(made.weight.family, 0.06)


def test_block_scales_apply_to_their_own_block():
    weight = torch.ones(130, 200)
    weight[128:, :128] = 2.0
    weight[:128, 128:] = 4.0
    weight[128:, 128:] = 8.0
    made = scheme("fp8_block128")
    weights = quantize_weight(weight, made)
    assert (weights.scales * 448.0).round().tolist() == [[1.0, 4.0], [2.0, 8.0]]
    back = dequantize_weights(weights, made.weight, 130, 200)
    assert torch.allclose(back, weight, rtol=1e-6)
