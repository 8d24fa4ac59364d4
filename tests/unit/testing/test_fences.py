"""Fenced inputs are the same inputs, among bytes that show whoever reads them."""

import pytest
import torch

from quantmux import QuantizeConfig
from quantmux.ops.quantize.reference import quantize
from quantmux.testing.answers import difference
from quantmux.testing.fences import fenced


def test_a_plain_input_is_equal_and_nan_lies_around_it():
    x = torch.randn(5, 7, dtype=torch.bfloat16)
    found = fenced(x)
    assert torch.equal(found, x)
    around = found.as_strided((39,), (1,), found.storage_offset() - 2)
    assert bool(around[:2].isnan().all())
    assert bool(around[-2:].isnan().all())


@pytest.mark.parametrize("layout", ["row_major", "col_major", "col_major_aligned4"])
def test_a_quantized_input_keeps_layout_and_pad_rows(layout):
    q = quantize(torch.randn(5, 384), QuantizeConfig(
        operand="fp8_group128", n=384, layout=layout, in_dtype="fp32"))  # fmt: skip
    found = fenced(q)
    found.check()
    assert difference(found, q) == ""
    assert found.scales.stride() == q.scales.stride()
    assert found.data.untyped_storage().nbytes() == 5 * 384 + 1024


def test_no_rows_are_fenced_too():
    assert fenced(torch.empty(0, 8)).shape == (0, 8)
