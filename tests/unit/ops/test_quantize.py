"""The quantize reference against a slow, exact, independent implementation of its definition."""

import dataclasses
import math
from fractions import Fraction

import pytest
import torch

from quantmux.config import Block, ElementFormat, Operand, QuantizeConfig, layouts_for, operand
from quantmux.errors import ConfigError, DtypeError, InputError, LayoutError, ShapeError
from quantmux.ops.inputs import make_matrix
from quantmux.ops.quantize.reference import quantize
from quantmux.ops.quantized import empty_quantized

FP8 = ("fp8_tensor", "fp8_token", "fp8_group128", "fp8_group64")
POW2 = tuple(f"{name}_pow2" for name in FP8)
KINDS = ("normal", "zeros", "equal", "one_hot", "outliers", "wide", "pow2_edges", "ties")


def config(name, n, **changes):
    return QuantizeConfig(operand=name, n=n, **changes)


def check_against_oracle(q, x, oracle, *, static=None):
    """Recompute every scale and every code in exact fractions."""
    value = q.operand
    m, n = x.shape
    rounder = {"fp8_e4m3": oracle.e4m3, "fp8_e5m2": oracle.e5m2, "int8": oracle.int8}
    rounder = rounder[value.element]
    r = m if value.block.rows == -1 else 1
    c = n if value.block.cols == -1 else value.block.cols
    scales = q.scales.reshape(-1, 1) if value.block.kind == "tensor" else q.scales
    for i0 in range(0, m, max(r, 1)):
        for j0 in range(0, n, c):
            cells = [(i, j) for i in range(i0, i0 + r) for j in range(j0, min(j0 + c, n))]
            amax = max(abs(float(x[at])) for at in cells)
            s = static or oracle.scale(
                amax,
                value.max_value,
                eps=value.eps,
                ub=value.scale_ub,
                pow2=value.scale_rounding == "pow2",
            )
            assert Fraction(float(scales[i0 // max(r, 1), j0 // c])) == s
            for at in cells:
                want = oracle.code(float(x[at]), s, rounder)
                assert Fraction(float(q.data[at].float())) == want


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*FP8, *POW2, "int8_token", "int8_tensor"])
def test_agrees_with_the_definition_in_exact_fractions(name, kind, oracle):
    n = 72 if operand(name).block.cols == -1 else 200  # a partial group at the end
    x = make_matrix(kind, 3, n, "bf16", seed=5)
    check_against_oracle(quantize(x, config(name, n)), x, oracle)


@pytest.mark.parametrize("magnitude", [1e-12, 1e-8, 1e-4, 1e4, 1e36])
@pytest.mark.parametrize("name", ["fp8_token", "fp8_group64_pow2", "int8_token"])
def test_agrees_at_every_magnitude(name, magnitude, oracle):
    x = make_matrix("normal", 2, 80, "fp32", magnitude=magnitude, seed=6)
    check_against_oracle(quantize(x, config(name, 80, in_dtype="fp32")), x, oracle)


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("element", [ElementFormat.FP8_E5M2, ElementFormat.FP8_E4M3])
def test_agrees_for_both_fp8_formats_and_every_input_format(element, dtype, oracle):
    value = Operand(element=element, block=Block(rows=1, cols=32), eps=1e-4, scale_ub=2.0)
    x = make_matrix("wide", 3, 80, dtype, seed=7)
    check_against_oracle(quantize(x, config(value, 80, in_dtype=dtype)), x, oracle)


@pytest.mark.parametrize("name", ["fp8_tensor_static", "int8_tensor_static"])
def test_static_operands_use_the_given_scale_without_a_floor(name, oracle):
    x = make_matrix("wide", 3, 40, "bf16", magnitude=100.0, seed=8)
    given = torch.tensor([1e-11])  # below eps: it must be taken as it is
    q = quantize(x, config(name, 40), scale=given)
    check_against_oracle(q, x, oracle, static=Fraction(float(given)))
    assert q.scales.data_ptr() != given.data_ptr()


def test_static_codes_saturate_infinities_and_keep_nan():
    x = torch.tensor([[torch.inf, -torch.inf, torch.nan, 1.0]], dtype=torch.bfloat16)
    q = quantize(x, config("fp8_tensor_static", 4), scale=torch.ones(1))
    assert q.data.float()[0].tolist()[:2] == [448.0, -448.0]
    assert q.data.float().isnan().tolist() == [[False, False, True, False]]
    assert float(q.data[0, 3].float()) == 1.0
    i = quantize(x, config("int8_tensor_static", 4), scale=torch.ones(1))
    assert i.data.tolist() == [[127, -127, 0, 1]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("static", [False, True])
def test_nvfp4_agrees_with_the_definition_in_exact_fractions(kind, static, oracle):
    n = 40  # a partial block at the end
    x = make_matrix(kind, 3, n, "bf16", seed=9)
    given = torch.tensor([3.1e-4]) if static else None
    q = quantize(x, config("nvfp4_static" if static else "nvfp4", n), global_scale=given)
    amax = float(x.float().abs().max())
    g = Fraction(float(given)) if static else oracle.nvfp4_global(amax)
    assert Fraction(float(q.global_scale)) == g
    values = [*oracle.e2m1_values, *(-v for v in oracle.e2m1_values)]
    for i in range(3):
        for b in range(3):
            columns = range(16 * b, min(16 * b + 16, n))
            s = oracle.nvfp4_scale(max(abs(float(x[i, j])) for j in columns), g)
            assert Fraction(float(q.scales[i, b].float())) == s
            for j in columns:
                byte = int(q.data[i, j // 2])
                code = byte & 0xF if j % 2 == 0 else byte >> 4
                assert Fraction(values[code]) == oracle.nvfp4_code(float(x[i, j]), s, g)
    assert q.data[:, 20:].tolist() == [[0] * 4] * 3


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["fp8_group64", "fp8_group64_pow2", "fp8_token", "nvfp4"])
def test_a_non_finite_element_spoils_its_own_block_only(name, bad):
    value = operand(name)
    n = 192
    x = make_matrix("normal", 4, n, "bf16", seed=10)
    clean = quantize(x, config(name, n))
    spoiled = x.clone()
    # inside block (2, 0), where another element is larger: amax of the tensor must not change
    at = (2, int(x[2, :16].abs().argmin()))
    spoiled[at] = bad
    q = quantize(spoiled, config(name, n))
    width = n if value.block.cols == -1 else value.block.cols
    is_nan = q.scales.float().isnan()
    assert int(is_nan.sum()) == 1
    assert bool(is_nan[2, 0])
    if value.is_nvfp4:
        assert int(q.scales.view(torch.uint8)[2, 0]) == 0x7F
        assert torch.equal(q.global_scale, clean.global_scale)
    got, want = q.dequantize(), clean.dequantize()
    assert got[2, :width].isnan().all()
    got[2, :width] = want[2, :width]
    assert torch.equal(got, want)


def test_a_non_finite_element_spoils_the_whole_of_a_per_tensor_operand():
    x = torch.ones(2, 16, dtype=torch.bfloat16)
    x[1, 3] = torch.inf
    assert quantize(x, config("fp8_tensor", 16)).scales.isnan().all()


def test_an_all_zero_block_has_the_floor_as_its_scale_and_a_padded_one_has_zero():
    x = torch.zeros(2, 128, dtype=torch.bfloat16)
    q = quantize(x, config("fp8_group64", 128, padded_n=256))
    floor = float(torch.tensor(1e-10) / torch.tensor(448.0))
    assert q.scales.tolist() == [[floor, floor, 0.0, 0.0]] * 2
    assert not q.data.float().any()


@pytest.mark.parametrize("name", [*FP8, "fp8_group128_pow2", "int8_token", "nvfp4"])
def test_every_padded_byte_is_written_and_zero_whatever_the_buffer_held(name):
    value = operand(name)
    n, padded_n = (48, 128) if value.block.cols in (-1, 16) else (128, 384)
    for layout in layouts_for(value):
        for m in (0, 1, 5):
            made = config(name, n, layout=layout, padded_n=padded_n, padded_m_multiple=8)
            x = make_matrix("normal", m, n, "bf16", seed=11)
            out = empty_quantized(value, made.layout, m, n, "cpu")
            for tensor in out.tensors():
                storage = tensor.untyped_storage()
                torch.empty(0, dtype=torch.uint8).set_(storage).fill_(0xFF)
            q = quantize(x, made, out=out)
            assert q is out
            want = quantize(x, made)
            for got_part, want_part in zip(q.tensors(), want.tensors(), strict=True):
                a = torch.empty(0, dtype=torch.uint8).set_(got_part.untyped_storage())
                b = torch.empty(0, dtype=torch.uint8).set_(want_part.untyped_storage())
                assert torch.equal(a, b)
            data = q.data.view(torch.uint8)
            assert not data[m:].any()
            assert not data[:, n // 2 if value.is_nvfp4 else n :].any()


@pytest.mark.parametrize("name", [*FP8, "int8_token", "nvfp4"])
def test_padding_and_layout_change_no_number(name):
    value = operand(name)
    n = 128
    x = make_matrix("normal", 9, n, "bf16", seed=12)
    plain = quantize(x, config(name, n)).dequantize()
    for layout in layouts_for(value):
        padded = quantize(x, config(name, n, layout=layout, padded_n=256))
        padded.check()
        assert torch.equal(padded.dequantize(), plain)


def test_no_rows_give_no_codes_and_a_well_formed_result():
    q = quantize(torch.empty(0, 64, dtype=torch.bfloat16), config("fp8_group64", 64))
    q.check()
    assert q.dequantize().shape == (0, 64)


def test_strided_inputs_give_the_same_result():
    x = make_matrix("normal", 5, 128, "bf16", seed=13)
    wide = torch.zeros(5, 256, dtype=torch.bfloat16)
    wide[:, :128] = x
    for view in (wide[:, :128], x.t().contiguous().t()):
        got = quantize(view, config("fp8_group64", 128))
        want = quantize(x, config("fp8_group64", 128))
        assert torch.equal(got.data.view(torch.uint8), want.data.view(torch.uint8))
        assert torch.equal(got.scales, want.scales)


def test_the_input_is_not_changed():
    x = make_matrix("outliers", 5, 128, "fp32", seed=14)
    before = x.clone()
    quantize(x, config("fp8_group64", 128, in_dtype="fp32"))
    assert torch.equal(x, before)


def test_refuses_another_width():
    with pytest.raises(ShapeError, match="width"):
        quantize(torch.ones(2, 65, dtype=torch.bfloat16), config("fp8_token", 64))


def test_refuses_leading_dimensions():
    with pytest.raises(ShapeError, match="2 dimensions"):
        quantize(torch.ones(2, 2, 64, dtype=torch.bfloat16), config("fp8_token", 64))


def test_refuses_another_dtype():
    with pytest.raises(DtypeError, match="needs bf16, found fp32"):
        quantize(torch.ones(2, 64), config("fp8_token", 64))


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("fp8_tensor_static", {}, "needs scale="),
        ("fp8_tensor", {"scale": torch.ones(1)}, "computes its scales"),
        ("nvfp4_static", {}, "needs global_scale="),
        ("fp8_token", {"global_scale": torch.ones(1)}, "no global scale"),
    ],
)
def test_refuses_missing_and_superfluous_scales(name, given, message):
    x = torch.ones(2, 64, dtype=torch.bfloat16)
    with pytest.raises(InputError, match=message):
        quantize(x, config(name, 64), **given)


@pytest.mark.parametrize(
    ("scale", "error"), [(torch.ones(2), ShapeError), (torch.ones(1).double(), DtypeError)]
)
def test_refuses_a_malformed_scale(scale, error):
    x = torch.ones(2, 64, dtype=torch.bfloat16)
    with pytest.raises(error, match="scale"):
        quantize(x, config("fp8_tensor_static", 64), scale=scale)


def test_refuses_static_scales_that_are_not_per_tensor():
    static_rows = operand("fp8_token").replace(dynamic=False)
    x = torch.ones(2, 64, dtype=torch.bfloat16)
    with pytest.raises(ConfigError, match="per tensor"):
        quantize(x, config(static_rows, 64), scale=torch.ones(1))


def test_refuses_an_out_of_another_kind():
    made = config("fp8_group64", 64)
    x = torch.ones(2, 64, dtype=torch.bfloat16)
    other = empty_quantized(
        operand("fp8_group64"), made.layout.replace(scales="col_major"), 2, 64, "cpu"
    )
    with pytest.raises(LayoutError, match="another operand or layout"):
        quantize(x, made, out=other)
    taller = empty_quantized(made.operand, made.layout, 3, 64, "cpu")
    with pytest.raises(ShapeError, match="logical shape"):
        quantize(x, made, out=taller)
    broken = empty_quantized(made.operand, made.layout, 2, 64, "cpu")
    broken = dataclasses.replace(broken, scales=torch.empty(2, 2))
    with pytest.raises(ShapeError, match="scales"):
        quantize(x, made, out=broken)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_a_given_scale_that_is_no_scale_is_refused(bad):
    x = torch.ones(2, 64, dtype=torch.bfloat16)
    given = torch.tensor([bad])
    for name, argument in (
        ("fp8_tensor_static", "scale"),
        ("int8_tensor_static", "scale"),
        ("nvfp4_static", "global_scale"),
        ("nvfp4", "global_scale"),
    ):
        with pytest.raises(InputError, match=f"{argument} holds a value that is no scale") as error:
            quantize(x, config(name, 64), **{argument: given})
        assert error.value.code == "scale_value"


def test_a_given_scale_of_a_pow2_operand_is_a_power_of_two():
    value = operand("fp8_tensor_pow2").replace(dynamic=False)
    x = torch.ones(2, 64, dtype=torch.bfloat16)
    q = quantize(x, config(value, 64), scale=torch.tensor([0.25]))
    assert float(q.scales) == 0.25
    with pytest.raises(InputError, match="no power of two") as error:
        quantize(x, config(value, 64), scale=torch.tensor([0.3]))
    assert error.value.code == "scale_not_pow2"
