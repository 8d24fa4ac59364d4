"""relayout: the same codes and scales in another place."""

import itertools

import pytest
import torch

from quantmux.config import QuantizeConfig, RelayoutConfig, default_layout, layouts_for, operand
from quantmux.errors import LayoutError, ShapeError
from quantmux.ops.inputs import make_matrix
from quantmux.ops.quantize.reference import quantize
from quantmux.ops.quantized import empty_quantized
from quantmux.ops.relayout.reference import relayout


def producer(value, n, layout):
    return QuantizeConfig(operand=value, n=n, layout=layout)


@pytest.mark.parametrize(
    "name", ["fp8_tensor", "fp8_token", "fp8_group64", "fp8_group64_pow2", "nvfp4"]
)
@pytest.mark.parametrize("kind", ["normal", "mixed"])
def test_relayout_gives_the_bytes_that_quantizing_into_the_target_gives(name, kind):
    value = operand(name)
    n = 192
    plain = default_layout(value, n)
    places = [
        plain.replace(scales=scales, padded_n=padded, padded_m_multiple=multiple)
        for scales in layouts_for(value)
        for padded, multiple in ((n, 1), (n + 64, 1), (n, 4))
    ]
    for m, (source, target) in itertools.product((0, 1, 9), itertools.product(places, repeat=2)):
        x = make_matrix(kind, m, n, "bf16", seed=m)
        q = quantize(x, producer(value, n, source))
        made = RelayoutConfig(operand=value, n=n, source=source, target=target)
        got, want = relayout(q, made), quantize(x, producer(value, n, target))
        got.check()
        for a, b in zip(got.tensors(), want.tensors(), strict=True):
            left = torch.empty(0, dtype=torch.uint8).set_(a.untyped_storage())
            right = torch.empty(0, dtype=torch.uint8).set_(b.untyped_storage())
            assert torch.equal(left, right)


def test_a_partial_fp4_byte_keeps_its_code():
    value = operand("nvfp4")
    x = make_matrix("normal", 2, 5, "bf16", seed=3)
    source = default_layout(value, 5)
    target = source.replace(scales="swizzled_8x4", padded_n=64)
    q = quantize(x, producer(value, 5, source))
    got = relayout(q, RelayoutConfig(operand=value, n=5, source=source, target=target))
    assert torch.equal(got.dequantize(), q.dequantize())
    assert not got.data[:, 3:].any()


def test_a_dirty_out_is_wholly_overwritten_and_shares_nothing_with_the_source():
    value = operand("fp8_group64")
    source = default_layout(value, 128)
    target = source.replace(scales="col_major_aligned4", padded_n=256)
    made = RelayoutConfig(operand=value, n=128, source=source, target=target)
    q = quantize(make_matrix("normal", 5, 128, "bf16"), producer(value, 128, source))
    out = empty_quantized(value, target, 5, 128, "cpu")
    for tensor in out.tensors():
        torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage()).fill_(0xFF)
    got = relayout(q, made, out=out)
    assert got is out
    before = got.dequantize()
    q.data.view(torch.uint8).zero_()
    assert torch.equal(got.dequantize(), before)
    assert not got.data.view(torch.uint8)[:, 128:].any()
    assert not got.scales.as_strided((8 * 4,), (1,)).view(4, 8)[:, 5:].any()


def test_refuses_what_is_not_in_the_source_layout():
    value = operand("fp8_group64")
    source = default_layout(value, 128)
    target = source.replace(scales="col_major")
    made = RelayoutConfig(operand=value, n=128, source=source, target=target)
    elsewhere = quantize(make_matrix("normal", 2, 128, "bf16"), producer(value, 128, target))
    with pytest.raises(LayoutError, match="not in the source layout"):
        relayout(elsewhere, made)
    narrow = quantize(
        make_matrix("normal", 2, 100, "bf16"),
        producer(value, 100, source),
    )
    with pytest.raises(ShapeError, match="logical shape"):
        relayout(narrow, made)
