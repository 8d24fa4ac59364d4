"""The relayout kernel: bytes moved, padding zero, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from quantmux.capability.profiles import CPU, PROFILES
from quantmux.config import Layout, QuantizeConfig, RelayoutConfig, operand
from quantmux.errors import LayoutError, ShapeError
from quantmux.ops.inputs import make_matrix
from quantmux.ops.quantize.compare import compare_quantized
from quantmux.ops.quantize.reference import quantize
from quantmux.ops.quantized import empty_quantized
from quantmux.ops.relayout.reference import relayout
from quantmux_flashinfer.plugin import quantmux_kernels
from quantmux_flashinfer.relayout import nvfp4

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.backends.flashinfer.strict_fake import Fake

    Pretend = Callable[[int], Fake]


def asked(n: int = 80, rows: int = 1, target: str = "swizzled_128x4") -> RelayoutConfig:
    padded_n = -(-n // 16) * 16
    source = Layout(scales="row_major", padded_n=padded_n, padded_m_multiple=rows)
    return RelayoutConfig(
        operand=operand("nvfp4"), n=n, source=source, target=source.replace(scales=target)
    )


def rows_of(config: RelayoutConfig, m: int) -> Any:
    made = QuantizeConfig(operand="nvfp4", n=config.n, layout=config.source)
    return quantize(make_matrix("outliers", m, config.n, "bf16", seed=m), made)


@pytest.mark.parametrize("m", [1, 7, 127, 128, 129, 300])
@pytest.mark.parametrize("n", [16, 79, 80, 1024])
def test_every_stored_byte_is_the_references(fake_with_producers: Pretend, m: int, n: int) -> None:
    fake = fake_with_producers(90)
    config = asked(n)
    q = rows_of(config, m)
    run, want = nvfp4.kernel.bind(config, CPU), relayout(q, config)
    for out in (None, empty_quantized(config.operand, config.target, m, n, "cpu")):
        if out is not None:
            out.scales.view(torch.uint8).fill_(0xFF)
            out.data.fill_(0xFF)
        made = run(q, out=out)
        assert compare_quantized(made, want).ok
        assert made.data.data_ptr() != q.data.data_ptr()
        assert made.global_scale.data_ptr() != q.global_scale.data_ptr()
        assert out is None or made is out
    assert fake.launches == ["block_scale_interleave"] * 2


def test_no_rows_call_nothing(fake_with_producers: Pretend) -> None:
    fake = fake_with_producers(90)
    config = asked()
    made = nvfp4.kernel.bind(config, CPU)(rows_of(config, 0))
    made.check()
    assert fake.launches == []


def test_padded_rows_are_refused_before_a_kernel_is_bound() -> None:
    (spec,) = (s for s in quantmux_kernels() if s.id == "flashinfer/relayout_nvfp4")
    assert spec.veto is not None
    assert spec.veto(asked(), PROFILES["h200"]) is None
    refused = spec.veto(asked(rows=16), PROFILES["h200"])
    assert refused is not None
    assert refused.code == "padded_m"


def test_it_offers_one_direction_of_one_pair_of_layouts() -> None:
    (spec,) = (s for s in quantmux_kernels() if s.id == "flashinfer/relayout_nvfp4")
    assert spec.capability.relayouts == (("row_major", "swizzled_128x4"),)
    assert not spec.capability.is_approximate


def test_a_matrix_of_another_layout_or_width_is_refused(fake_with_producers: Pretend) -> None:
    fake = fake_with_producers(90)
    run = nvfp4.kernel.bind(asked(), CPU)
    swizzled = relayout(rows_of(asked(), 5), asked())
    with pytest.raises(LayoutError, match="source layout"):
        run(swizzled)
    with pytest.raises(ShapeError, match="logical shape"):
        run(rows_of(asked(79), 5))
    assert fake.launches == []


def test_an_earlier_result_as_out_leaves_the_first_sources_scale_alone(
    fake_with_producers: Pretend,
) -> None:
    fake_with_producers(90)
    config = asked()
    first = rows_of(config, 9)
    run = nvfp4.kernel.bind(config, CPU)
    made = run(first)
    before = first.global_scale.clone()
    other = replace(rows_of(config, 9), global_scale=before * 3)
    assert run(other, out=made) is made
    assert torch.equal(made.global_scale, before * 3)
    assert torch.equal(first.global_scale, before)
