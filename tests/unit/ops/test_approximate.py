"""Quantizers tagged approximate or finite_only: what they may do, and what is still refused.

The quantizer here computes as a vendor's does: reciprocals by an instruction that is off by an ulp,
and products with them in place of divisions.
"""

from typing import Any

import pytest
import torch

from quantmux.config import QuantizeConfig
from quantmux.ops.agreement import Agreement, agreement
from quantmux.ops.inputs import make_matrix, static_global_scale
from quantmux.ops.layouts import place_scales
from quantmux.ops.numerics import block_amax, encode_e2m1
from quantmux.ops.quantize.reference import quantize, write_data
from quantmux.ops.quantized import QuantizedTensor, empty_quantized
from quantmux.ops.spec import Call

APPROXIMATE = frozenset({"approximate"})
BOTH = frozenset({"approximate", "finite_only"})
KINDS = ("normal", "outliers", "wide", "ties", "equal", "one_hot", "zeros", "pow2_edges", "rising")


def config(layout: str = "swizzled_128x4", n: int = 1024) -> QuantizeConfig:
    return QuantizeConfig(operand="nvfp4_static", n=n, layout=layout)


def off_by_an_ulp(values: torch.Tensor, ulps: int) -> torch.Tensor:
    bits = values.view(torch.int32)
    return torch.where((bits & 0x7FFFFFFF) > 0, bits + ulps, bits).view(torch.float32)


def near(x: torch.Tensor, g: torch.Tensor, asked: QuantizeConfig, ulps: int = 1) -> QuantizedTensor:
    """Quantize with reciprocals that are ``ulps`` off; a NaN is not seen."""
    values = x.float()
    m, n = values.shape
    amax = block_amax(torch.nan_to_num(values, nan=0.0), asked.operand.block)
    encode = off_by_an_ulp(1 / g, ulps)
    sixth = off_by_an_ulp(torch.full_like(g, 1 / 6), ulps)
    scales = (encode * (amax * sixth)).clamp(max=448.0).to(torch.float8_e4m3fn)
    multiplier = off_by_an_ulp(1 / (scales.float() * off_by_an_ulp(1 / encode, ulps)), ulps)
    multiplier = torch.where(amax == 0, 0.0, multiplier)
    wide = multiplier.repeat_interleave(16, dim=1)[:, :n]
    out = empty_quantized(asked.operand, asked.layout, m, n, "cpu")
    write_data(out.data, encode_e2m1(values * wide), asked.operand, asked.layout)
    place_scales(scales, asked.operand, asked.layout, m, into=out.scales)
    assert out.global_scale is not None
    out.global_scale.copy_(g)
    return out


def judged(
    kind: str = "normal", tags: frozenset[str] = APPROXIMATE, ulps: int = 1, m: int = 64
) -> Agreement:
    asked = config()
    g = torch.ones(1) if kind == "ties" else static_global_scale(1.0, "cpu")
    x = make_matrix(kind, m, asked.n, "bf16", seed=3)
    call = Call((x,), {"global_scale": g})
    return agreement(asked, call, near(x, g, asked, ulps), tags=tags)


def test_without_the_tag_a_quantizer_agrees_to_the_bit_or_not_at_all() -> None:
    found = judged("ties", tags=frozenset())
    assert not found.ok
    assert "data" in found.reason or "scales" in found.reason


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ulps", [-1, 1])
def test_with_the_tag_arithmetic_that_is_an_ulp_off_agrees(kind: str, ulps: int) -> None:
    found = judged(kind, ulps=ulps)
    assert found.ok, found.reason


def test_ties_decide_for_more_codes_than_the_share_that_is_counted() -> None:
    # so the rule for ties is needed, and the share alone would not do
    asked, g = config(), torch.ones(1)
    x = make_matrix("ties", 64, asked.n, "bf16", seed=3)
    made, want = near(x, g, asked), quantize(x, asked, global_scale=g)
    assert int((made.data != want.data).sum()) > 5e-4 * x.numel()
    assert agreement(asked, Call((x,), {"global_scale": g}), made, tags=APPROXIMATE).ok


def broken(change: Any, tags: frozenset[str] = BOTH) -> Agreement:
    asked, g = config(), static_global_scale(1.0, "cpu")
    x = make_matrix("normal", 64, asked.n, "bf16", seed=3)
    made = near(x, g, asked)
    change(made)
    return agreement(asked, Call((x,), {"global_scale": g}), made, tags=tags)


def scale_one_step_off(q: QuantizedTensor) -> None:
    q.scales.view(torch.uint8)[0, 0] += 1


def scales_zero(q: QuantizedTensor) -> None:
    q.scales.view(torch.uint8).zero_()


def code_two_steps_off(q: QuantizedTensor) -> None:
    low = q.data[0] & 0x7
    column = int((low >= 2).nonzero()[0])
    q.data[0, column] -= 2


def every_hundredth_code_one_step_off(q: QuantizedTensor) -> None:
    flat = q.data.view(-1)
    some = flat[::50]
    flat[::50] = torch.where((some & 0x7) > 0, some - 1, some)


def everything_zero(q: QuantizedTensor) -> None:
    q.data.zero_()
    scales_zero(q)


def another_global_scale(q: QuantizedTensor) -> None:
    assert q.global_scale is not None
    q.global_scale.mul_(1 + 2.0**-23)


def dirty_padding(q: QuantizedTensor) -> None:
    q.scales.view(torch.uint8)[-1, -1] = 1


@pytest.mark.parametrize(
    "change",
    [
        scale_one_step_off,
        scales_zero,
        code_two_steps_off,
        every_hundredth_code_one_step_off,
        everything_zero,
        another_global_scale,
        dirty_padding,
    ],
)
def test_what_is_more_than_rounding_is_still_refused(change: Any) -> None:
    assert broken(lambda _: None).ok
    assert not broken(change).ok


def spoiled(tags: frozenset[str], harm: Any = None) -> Agreement:
    asked, g = config(), static_global_scale(1.0, "cpu")
    x = make_matrix("normal", 64, asked.n, "bf16", seed=3)
    x[5, 40] = torch.nan
    x[9, 7] = torch.inf
    made = near(x, g, asked)
    if harm is not None:
        harm(made)
    return agreement(asked, Call((x,), {"global_scale": g}), made, tags=tags)


def test_a_lost_nan_is_refused_unless_the_kernel_says_finite_only() -> None:
    assert not spoiled(APPROXIMATE).ok
    assert spoiled(BOTH).ok


def test_beside_a_lost_nan_every_other_block_is_still_compared() -> None:
    def next_block(q: QuantizedTensor) -> None:
        q.data[5, 24:32] ^= 0x33

    assert not spoiled(BOTH, next_block).ok


def test_finite_only_alone_leaves_finite_blocks_no_tie() -> None:
    assert not judged("ties", tags=frozenset({"finite_only"})).ok


def test_under_a_given_scale_only_the_elements_that_are_not_finite_are_left_open() -> None:
    asked = QuantizeConfig(operand="fp8_tensor_static", n=64, layout="scalar")
    x = make_matrix("normal", 8, 64, "bf16", seed=3)
    x[2, 5], x[2, 7], x[3, 6] = torch.nan, torch.nan, -torch.inf
    call = Call((x,), {"scale": torch.tensor([0.01])})
    made = quantize(x, asked, **call.kwargs)
    codes = made.data.view(torch.uint8)
    codes[2, 5] = codes[2, 7] = 0x7E  # 448: the NaN is lost
    assert not agreement(asked, call, made, tags=APPROXIMATE).ok
    assert not agreement(asked, call, made).ok
    assert agreement(asked, call, made, tags={"finite_only"}).ok
    codes[2, 6] ^= 0x02
    assert not agreement(asked, call, made, tags={"finite_only"}).ok


def test_codes_under_a_scale_of_zero_stand_for_zero_whatever_they_are() -> None:
    asked, g = config(n=64), torch.tensor([1.0])
    x = torch.full((4, 64), 2.0**-12, dtype=torch.bfloat16)  # amax / 6 rounds to a scale of 0
    call = Call((x,), {"global_scale": g})
    made = quantize(x, asked, **call.kwargs)
    assert not made.scales.float().any()
    made.data.fill_(0x77)
    assert not agreement(asked, call, made).ok
    assert agreement(asked, call, made, tags=APPROXIMATE).ok
