"""The third writing of the layouts: against a loop over the table, and against spoiled results."""

import pytest
import torch

from quantmux import QuantizeConfig
from quantmux.ops.quantize.reference import quantize
from quantmux.ops.spec import Call, Case, op_spec
from quantmux.testing.addresses import codes, placement_problem, scale_addresses, stored_scales
from quantmux.testing.stage import Trial


def table(layout, r, c, rows, cols):
    """DESIGN's table, one element at a time, in shifts and masks."""
    kt = -(-cols // 4)
    r4 = -(-rows // 4) * 4
    return {
        "row_major": r * cols + c,
        "col_major": c * rows + r,
        "col_major_aligned4": c * r4 + r,
        "packed_pow2": 4 * ((c >> 2) * r4 + r) + (c & 3),
        "swizzled_128x4": ((r >> 7) * kt + (c >> 2)) * 512
        + (r & 31) * 16
        + ((r >> 5) & 3) * 4
        + (c & 3),
        "swizzled_8x4": (r >> 3) * (kt * 32) + (c >> 2) * 32 + (r & 7) * 4 + (c & 3),
    }[layout]


LAYOUTS = (
    "row_major",
    "col_major",
    "col_major_aligned4",
    "packed_pow2",
    "swizzled_128x4",
    "swizzled_8x4",
)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (7, 3), (33, 5), (129, 4), (300, 9)])
def test_addresses_are_those_of_the_table(layout, rows, cols):
    found = scale_addresses(layout, rows, cols, rows, cols)
    want = [[table(layout, r, c, rows, cols) for c in range(cols)] for r in range(rows)]
    assert found.tolist() == want
    assert found.unique().numel() == rows * cols


def test_an_unknown_layout_has_no_formula():
    with pytest.raises(ValueError, match="acme:tiled"):
        scale_addresses("acme:tiled", 1, 1, 1, 1)


def trial_of(operand, layout, m=9, **changes):
    config = QuantizeConfig(operand=operand, n=changes.pop("n", 80), layout=layout, **changes)
    case = Case(config, m)
    call = op_spec("quantize").inputs(case, "cpu", 3)
    result = quantize(call.args[0], config, **call.kwargs)
    return Trial(None, case, config, call, None), result


OPERANDS = [
    ("fp8_tensor", "scalar", 80),
    ("fp8_token", "row_major", 80),
    ("int8_token", "row_major", 80),
    ("fp8_group64", "row_major", 192),
    ("fp8_group64", "col_major", 192),
    ("fp8_group64", "col_major_aligned4", 192),
    ("fp8_group64_pow2", "packed_pow2", 320),
    ("nvfp4", "row_major", 80),
    ("nvfp4", "swizzled_128x4", 80),
    ("nvfp4", "swizzled_8x4", 80),
]


@pytest.mark.parametrize(("operand", "layout", "n"), OPERANDS)
def test_the_reference_passes(operand, layout, n):
    trial, result = trial_of(operand, layout, n=n)
    assert placement_problem(result, trial) == ""


def test_swapped_nibbles_are_found():
    trial, result = trial_of("nvfp4", "row_major")
    data = result.data
    data.copy_((data << 4) | (data >> 4))
    assert "needs" in placement_problem(result, trial)


@pytest.mark.parametrize("layout", ["swizzled_128x4", "swizzled_8x4"])
def test_scales_in_row_major_order_under_another_name_are_found(layout):
    trial, result = trial_of("nvfp4", layout, m=20)
    plain = trial_of("nvfp4", "row_major", m=20)[1]
    rows, cols = plain.scales.shape
    bits = result.scales.view(torch.uint8)
    bits.zero_()
    bits[:rows, :cols] = plain.scales.view(torch.uint8)
    assert placement_problem(result, trial)


@pytest.mark.parametrize(
    ("operand", "layout", "n"),
    [o for o in OPERANDS if o[1] not in ("scalar", "row_major", "col_major")],  # all hold a scale
)
def test_one_byte_of_dirty_padding_is_found(operand, layout, n):
    trial, result = trial_of(operand, layout, n=n)
    width = result.operand.block.cols
    used = scale_addresses(layout, 9, n // width, 9, n // width).flatten()
    storage = result.scales.untyped_storage()
    raw = torch.empty(0, dtype=torch.uint8).set_(storage)
    size = 4 if layout == "col_major_aligned4" else 1
    free = next(i for i in range(raw.numel() // size) if i not in used.tolist())
    raw[free * size] = 1
    assert "not zero" in placement_problem(result, trial)


def test_a_scale_of_another_row_is_found():
    trial, result = trial_of("fp8_token", "row_major")
    result.scales[3] = result.scales[3] * 2
    assert "[3, " in placement_problem(result, trial)


def test_codes_and_scales_are_decoded_by_own_tables():
    trial, result = trial_of("nvfp4", "swizzled_8x4")
    scales, rest = stored_scales(result)
    assert scales.shape == (9, 5)
    assert rest.numel() == result.scales.numel() - 45
    assert set(codes(result).abs().unique().tolist()) <= {0, 0.5, 1, 1.5, 2, 3, 4, 6}
    assert isinstance(trial.call, Call)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_every_code_of_fp8_is_decoded_as_torch_does(dtype):
    from quantmux.testing.addresses import _decoded

    every = torch.arange(256, dtype=torch.uint8).view(dtype)
    want = every.to(torch.float32)
    finite = torch.isfinite(want)
    assert torch.equal(_decoded(every)[finite], want[finite])
    assert bool(_decoded(every)[want.isnan()].isnan().all())
