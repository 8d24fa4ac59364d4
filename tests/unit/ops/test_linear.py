"""The linear reference against exact fractions, for every scheme."""

import dataclasses
from fractions import Fraction

import pytest
import torch

from quantmux.config import LinearConfig, QuantizeConfig, layouts_for, operand
from quantmux.config.schemes import SCHEMES
from quantmux.errors import DtypeError, InputError, LayoutError, ShapeError
from quantmux.ops.inputs import make_matrix
from quantmux.ops.linear.reference import (
    linear,
    linear_exact,
    linear_quantized,
    linear_weight_only,
    quantize_input,
)
from quantmux.ops.linear.spec import empty_output
from quantmux.ops.linear.weights import quantize_weight
from quantmux.ops.quantize.reference import quantize

FORMS = {"bf16": (7, -126), "fp16": (10, -14), "fp32": (23, -126)}
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def layer(scheme, n, k, *, bias=False, seed=0, **changes):
    config = LinearConfig.model_validate(
        {"in_features": k, "out_features": n, "scheme": scheme, "bias": bias, **changes}
    )
    weight = make_matrix("normal", n, k, "fp32", seed=seed)
    weights = quantize_weight(
        weight,
        config.scheme,
        bias=make_matrix("normal", 1, n, "bf16", seed=seed + 1)[0] if bias else None,
        input_scale=torch.tensor([0.01]),
        input_global_scale=torch.tensor([0.0015]),
    )
    return config, weights


def code(data, value, i, j):
    if value.is_nvfp4:
        byte = int(data[i, j // 2])
        bits = byte >> 4 if j % 2 else byte & 0xF
        return Fraction(E2M1[bits & 7]) * (-1 if bits & 8 else 1)
    return Fraction(float(data[i, j].float()))


def scale_at(scales, value, i, j):
    block = value.block
    if block.kind == "tensor":
        return Fraction(float(scales.reshape(-1)[0]))
    row = i // block.rows
    column = 0 if block.cols == -1 else j // block.cols
    return Fraction(float(scales[row, column].float()))


@pytest.mark.parametrize("out_dtype", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_element_is_the_exact_sum_rounded_once(scheme, out_dtype, oracle):
    config, weights = layer(scheme, 130, 136, bias=True, out_dtype=out_dtype)
    x = make_matrix("normal", 3, 136, "bf16", seed=4)
    y = linear(x, weights, config)
    act = config.scheme.activation
    q = quantize_input(x, weights, config) if act is not None else None
    alpha = Fraction(1)
    if weights.global_scale is not None:
        alpha = Fraction(float(weights.global_scale))
        if q is not None:
            alpha = oracle.f32(alpha * Fraction(float(q.global_scale)))
    for i, j in [(0, 0), (0, 129), (1, 64), (2, 127), (2, 128)]:
        total = Fraction(0)
        for k in range(136):
            if q is None:
                a = Fraction(float(x[i, k]))
            else:
                a = code(q.data, act, i, k) * scale_at(q.scales, act, i, k)
            w = config.scheme.weight
            total += a * code(weights.data, w, j, k) * scale_at(weights.scales, w, j, k)
        exact = alpha * total + Fraction(float(weights.bias[j]))
        assert Fraction(float(y[i, j])) == oracle.round_to(exact, *FORMS[out_dtype])


@pytest.mark.parametrize("scheme", ["fp8_block128", "nvfp4_dynamic", "fp8_channel_token"])
def test_a_quantized_input_in_any_layout_gives_the_same_bits(scheme):
    config, weights = layer(scheme, 24, 256)
    x = make_matrix("normal", 9, 256, "bf16", seed=4)
    want = linear(x, weights, config)
    act = config.scheme.activation
    for name in layouts_for(act):
        made = QuantizeConfig(operand=act, n=256, layout=name, padded_n=384)
        assert torch.equal(linear_quantized(quantize(x, made), weights, config), want)


def test_large_weights_are_summed_in_parts_without_a_change(monkeypatch):
    x = make_matrix("normal", 2, 256, "bf16", seed=4)
    for scheme in SCHEMES:
        config, weights = layer(scheme, 300, 256, bias=True)
        whole = linear_exact(x, weights, config)
        monkeypatch.setattr("quantmux.ops.linear.reference._CHUNK_ELEMENTS", 256 * 100)
        parts = linear_exact(x, weights, config)
        monkeypatch.undo()
        assert torch.allclose(parts, whole, rtol=1e-13, atol=1e-13)


def test_int8_sums_are_exact_integers():
    config, weights = layer("int8_channel_token", 16, 4096, out_dtype="fp32")
    x = make_matrix("equal", 2, 4096, "bf16")
    ones = dataclasses.replace(
        weights,
        data=torch.full((16, 4096), 127, dtype=torch.int8),
        scales=torch.ones(16, 1),
    )
    s = float(torch.tensor(1.0) / torch.tensor(127.0))
    assert (
        linear(x, ones, config).tolist() == [[float(torch.tensor(127 * 127 * 4096 * s))] * 16] * 2
    )


def test_weight_only_ignores_the_activation_operand():
    config, weights = layer("fp8_channel_token", 24, 64)
    lossless = config.replace(scheme="fp8_w8a16")
    x = make_matrix("normal", 3, 64, "bf16", seed=4)
    assert torch.equal(linear_weight_only(x, weights, config), linear(x, weights, lossless))
    assert not torch.equal(linear_weight_only(x, weights, config), linear(x, weights, config))


def test_no_rows_give_an_empty_output():
    for scheme in SCHEMES:
        config, weights = layer(scheme, 24, 32)
        y = linear(torch.empty(0, 32, dtype=torch.bfloat16), weights, config)
        assert y.shape == (0, 24)


def test_a_nan_input_spoils_its_row_only():
    config, weights = layer("fp8_channel_token", 24, 64)
    x = make_matrix("normal", 3, 64, "bf16", seed=4)
    clean = linear(x, weights, config)
    x[1, 5] = torch.nan
    y = linear(x, weights, config)
    assert y[1].isnan().all()
    assert torch.equal(y[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize(
    ("n", "contiguous", "stride"), [(16, False, 16), (17, False, 24), (17, True, 17), (1, False, 8)]
)
def test_outputs_are_contiguous_or_their_rows_eight_elements_aligned(n, contiguous, stride):
    config, weights = layer("fp8_w8a16", n, 32, contiguous_output=contiguous)
    y = linear(make_matrix("normal", 3, 32, "bf16"), weights, config)
    assert y.shape == (3, n)
    assert y.stride() == (stride, 1)


def test_empty_output_takes_other_row_multiples():
    assert empty_output(2, 30, torch.bfloat16, "meta", row_multiple=16).stride() == (32, 1)
    assert empty_output(2, 32, torch.bfloat16, "meta", row_multiple=16).is_contiguous()


def test_out_is_written_and_returned():
    config, weights = layer("fp8_w8a16", 17, 32)
    x = make_matrix("normal", 3, 32, "bf16")
    out = torch.full((3, 17), torch.nan, dtype=torch.bfloat16)
    assert linear(x, weights, config, out=out) is out
    assert torch.equal(out, linear(x, weights, config))
    with pytest.raises(ShapeError, match="out"):
        linear(x, weights, config, out=torch.empty(3, 16, dtype=torch.bfloat16))
    with pytest.raises(DtypeError, match="out"):
        linear(x, weights, config, out=torch.empty(3, 17))


def test_refuses_wrong_inputs():
    config, weights = layer("fp8_block128", 16, 128)
    with pytest.raises(ShapeError, match="width"):
        linear(torch.ones(2, 64, dtype=torch.bfloat16), weights, config)
    with pytest.raises(DtypeError, match="needs bf16, found fp16"):
        linear(torch.ones(2, 128, dtype=torch.float16), weights, config)
    x = torch.ones(2, 128, dtype=torch.bfloat16)
    other = quantize(x, QuantizeConfig(operand="fp8_token", n=128))
    with pytest.raises(LayoutError, match="fp8_token"):
        linear(other, weights, config)
    narrow = QuantizeConfig(operand=operand("fp8_group128"), n=64)
    with pytest.raises(ShapeError, match="logical shape"):
        linear(quantize(x[:, :64], narrow), weights, config)


def test_refuses_a_quantized_input_where_the_scheme_reads_sixteen_bits():
    config, weights = layer("fp8_w8a16", 16, 128)
    x = torch.ones(2, 128, dtype=torch.bfloat16)
    q = quantize(x, QuantizeConfig(operand="fp8_token", n=128))
    with pytest.raises(LayoutError, match="plain bf16"):
        linear(q, weights, config)
    with pytest.raises(InputError, match="does not quantize its input"):
        quantize_input(x, weights, config)
