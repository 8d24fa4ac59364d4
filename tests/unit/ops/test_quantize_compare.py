"""Comparing quantized tensors: one changed bit is seen, and only allowed freedom is given."""

import dataclasses

import pytest
import torch

from quantmux.config import QuantizeConfig, SiluMulQuantizeConfig, layouts_for, operand
from quantmux.errors import LayoutError, NumericsError
from quantmux.ops.inputs import make_matrix
from quantmux.ops.inverse_rope_quantize.reference import inverse_rope_quantize
from quantmux.ops.inverse_rope_quantize.spec import build_spec as build_rope
from quantmux.ops.quantize.compare import compare_quantized
from quantmux.ops.quantize.reference import quantize, quantize_values
from quantmux.ops.silu_mul_quantize.reference import silu_mul, silu_mul_quantize

NAMES = ("fp8_tensor", "fp8_token", "fp8_group64", "fp8_group64_pow2", "int8_token", "nvfp4")


def made(name, layout, kind="normal", m=5):
    value = operand(name)
    width = {-1: 16}.get(value.block.cols, value.block.cols)
    config = QuantizeConfig(
        operand=name, n=width * 3, layout=layout, padded_n=width * 5, padded_m_multiple=4
    )
    return quantize(make_matrix(kind, m, config.n, "bf16", seed=1), config)


def raw(tensor):
    return torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())


@pytest.mark.parametrize("name", NAMES)
def test_every_stored_byte_is_compared_padding_included(name):
    for layout in layouts_for(operand(name)):
        want = made(name, layout)
        assert compare_quantized(made(name, layout), want).ok
        for part, expected in (("data", "data"), ("scales", "scales")):
            size = raw(getattr(want, part)).numel()
            for at in range(0, size, max(1, size // 97)):
                got = made(name, layout)
                raw(getattr(got, part))[at] ^= 0x01
                found = compare_quantized(got, want)
                assert not found.ok
                assert found.part == expected
                assert found.mismatches == 1


def test_the_first_bad_coordinate_is_named():
    want, got = made("fp8_group64", "row_major"), made("fp8_group64", "row_major")
    got.data.view(torch.uint8)[3, 17] ^= 0x10
    got.data.view(torch.uint8)[3, 90] ^= 0x10
    found = compare_quantized(got, want)
    assert found.coordinate == (3, 17)
    assert found.mismatches == 2
    assert found.got == float(got.data[3, 17].float())
    assert found.want == float(want.data[3, 17].float())
    with pytest.raises(NumericsError, match="acme/quant disagrees") as error:
        found.require("acme/quant")
    assert "[3, 17]" in str(error.value)


def test_a_changed_global_scale_is_seen():
    want, got = made("nvfp4", "row_major"), made("nvfp4", "row_major")
    got.global_scale.mul_(1.0000002)
    assert compare_quantized(got, want).part == "global_scale"


@pytest.mark.parametrize("name", ["fp8_group64", "fp8_group64_pow2", "nvfp4"])
def test_codes_are_left_open_in_nan_blocks_only(name):
    want, got = made(name, "row_major", "nan"), made(name, "row_major", "nan")
    row = int(want.scales.float().isnan().any(1).nonzero()[0])
    block = int(want.scales.float()[row].isnan().nonzero()[0])
    per = 2 if name == "nvfp4" else 1
    width = operand(name).block.cols // per
    codes = got.data.view(torch.uint8)
    codes[row, block * width : (block + 1) * width] = 0x11
    assert compare_quantized(got, want).ok
    codes[row, (block + 1) % 3 * width] ^= 0x01
    assert not compare_quantized(got, want).ok


def test_the_payload_of_a_nan_scale_is_left_open_for_fp32_scales_only():
    want, got = made("fp8_group64", "row_major", "nan"), made("fp8_group64", "row_major", "nan")
    bits = got.scales.view(torch.int32)
    bits[got.scales.isnan()] = 0x7FC0BEEF
    assert compare_quantized(got, want).ok
    packed = made("fp8_group64_pow2", "packed_pow2", "nan")
    broken = made("fp8_group64_pow2", "packed_pow2", "nan")
    exponents = raw(broken.scales)
    assert (exponents == 0xFF).any()
    exponents[exponents == 0xFF] = 0xFE
    assert not compare_quantized(broken, packed).ok


def test_tensors_of_different_kinds_are_not_compared():
    with pytest.raises(LayoutError, match="different kinds"):
        compare_quantized(made("fp8_group64", "col_major"), made("fp8_group64", "row_major"))


def silu(name, layout="row_major", m=6, n=192, seed=1):
    config = SiluMulQuantizeConfig(operand=name, n=n, layout=layout, padded_n=n + 128)
    x = make_matrix("normal", m, 2 * n, "bf16", seed=seed)
    return x, config


@pytest.mark.parametrize(
    "name", ["fp8_token", "fp8_group64", "fp8_group64_pow2", "int8_token", "nvfp4"]
)
def test_loosely_the_reference_agrees_and_so_do_slightly_disturbed_values(name):
    for layout in layouts_for(operand(name)):
        x, config = silu(name, layout)
        want, values = silu_mul_quantize(x, config), silu_mul(x)
        assert compare_quantized(want, want, values=values).ok
        noise = 1 + (torch.rand(values.shape) - 0.5) * 2.0**-21
        near = quantize_values(values * noise, config.operand, config.layout)
        assert compare_quantized(near, want, values=values).ok


@pytest.mark.parametrize(
    "name", ["fp8_token", "fp8_group64", "fp8_group64_pow2", "int8_token", "nvfp4"]
)
def test_loosely_a_bf16_round_trip_is_refused(name):
    x, config = silu(name, n=1024)
    want, values = silu_mul_quantize(x, config), silu_mul(x)
    rounded = quantize_values(values.bfloat16().float(), config.operand, config.layout)
    assert not compare_quantized(rounded, want, values=values).ok


@pytest.mark.parametrize("name", ["fp8_group64", "fp8_group64_pow2", "nvfp4"])
def test_loosely_wrong_scales_are_refused(name):
    x, config = silu(name)
    want, values = silu_mul_quantize(x, config), silu_mul(x)
    for change in (2.0, 0.5, 1.01, 0.0):
        if name == "fp8_group64_pow2" and change == 1.01:
            continue
        got = silu_mul_quantize(x, config)
        wide = got.scales.float()
        wide[2, 1] *= change
        if name == "nvfp4" and change == 1.01:
            wide[2, 1] = want.scales.float()[2, 1] * 1.125
        got.scales.copy_(wide.to(got.scales.dtype))
        found = compare_quantized(got, want, values=values)
        assert not found.ok
        assert found.part == "scales"


def test_loosely_codes_may_be_one_step_off_in_a_few_places_only():
    x, config = silu("fp8_group64", m=16, n=256)  # 4096 codes: 2 may differ
    want, values = silu_mul_quantize(x, config), silu_mul(x)
    got = silu_mul_quantize(x, config)
    codes = got.data.view(torch.uint8)
    codes[0, 3] ^= 1
    codes[1, 4] ^= 1
    found = compare_quantized(got, want, values=values)
    assert found.ok
    assert found.mismatches == 2
    codes[2, 5] ^= 1
    assert compare_quantized(got, want, values=values).part == "data"
    far = silu_mul_quantize(x, config)
    far.data.view(torch.uint8)[0, 3] ^= 2
    assert not compare_quantized(far, want, values=values).ok


def test_loosely_minus_zero_is_zero_and_neighbours_across_it_are_two_steps():
    config = QuantizeConfig(operand="fp8_group64", n=64, in_dtype="fp32")
    values = torch.zeros(1, 64)
    values[0, 0] = 448.0
    want = quantize(values, config)
    got = quantize(values, config)
    got.data.view(torch.uint8)[0, 5] = 0x80
    assert compare_quantized(got, want, values=values).mismatches == 0
    values[0, 5] = 2.0**-9
    want = quantize(values, config)
    got = quantize(values, config)
    got.data.view(torch.uint8)[0, 5] = 0x81
    assert not compare_quantized(got, want, values=values).ok


def test_loosely_padding_is_still_compared_to_the_bit():
    for name, layout in (("fp8_group64", "col_major_aligned4"), ("nvfp4", "swizzled_128x4")):
        x, config = silu(name, layout)
        want, values = silu_mul_quantize(x, config), silu_mul(x)
        dirty = silu_mul_quantize(x, config)
        raw(dirty.scales)[-1] = 1
        assert compare_quantized(dirty, want, values=values).part == "padding of scales"
        dirty = silu_mul_quantize(x, config)
        raw(dirty.data)[-1] = 1
        assert compare_quantized(dirty, want, values=values).part == "padding of data"


def test_loosely_a_nan_block_needs_a_nan_scale():
    x, config = silu("fp8_group64")
    x[2, 70] = torch.nan
    want, values = silu_mul_quantize(x, config), silu_mul(x)
    assert compare_quantized(want, want, values=values).ok
    got = silu_mul_quantize(x, config)
    got.scales[2, 1] = 1.0
    assert compare_quantized(got, want, values=values).part == "scales"


@pytest.mark.parametrize("index", [4, 12, 30])
def test_head_groups_are_compared_in_both_ways(index):
    spec = build_rope()
    case = [c for c in spec.cases() if c.is_small and c.m > 1 and c.kind == "normal"][index]
    call = spec.inputs(case, "cpu", 0)
    values = spec.values(*call.args, case.config)
    want = inverse_rope_quantize(*call.args, case.config)
    for loose in (None, values):
        got = inverse_rope_quantize(*call.args, case.config)
        assert compare_quantized(got, want, values=loose).ok
        raw(got.scales)[-1] ^= 0x40
        assert not compare_quantized(got, want, values=loose).ok
        got = inverse_rope_quantize(*call.args, case.config)
        raw(got.data)[7] ^= 0x20
        assert not compare_quantized(got, want, values=loose).ok


def test_a_malformed_tensor_is_refused_before_it_is_compared():
    want = made("fp8_group64", "row_major")
    broken = dataclasses.replace(want, scales=want.scales.t().contiguous().t())
    with pytest.raises(LayoutError, match="strides"):
        compare_quantized(broken, want)


@pytest.mark.parametrize("factor", [3.7, 1.0 + 2.0**-23])
@pytest.mark.parametrize(
    ("name", "argument"),
    [("fp8_tensor_static", "scale"), ("int8_tensor_static", "scale"),
     ("nvfp4_static", "global_scale")],
)  # fmt: skip
def test_a_given_scale_agrees_to_the_bit_even_loosely(name, argument, factor):
    config = QuantizeConfig(operand=name, n=64, layout="scalar" if "8" in name else "row_major")
    x = make_matrix("normal", 4, 64, "bf16", seed=5)
    given = torch.tensor([0.01])
    want = quantize(x, config, **{argument: given})
    got = quantize(x, config, **{argument: given * factor})
    assert compare_quantized(want, want, values=x.float()).ok
    found = compare_quantized(got, want, values=x.float())
    assert not found.ok
    assert found.part == ("global_scale" if argument == "global_scale" else "scales")
    assert found.want == float(given)
