"""FP8 matrices in FlashInfer's places: every element where it is read, and back again."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from quantmux_flashinfer.layouts.fp8_matrices import (
    PANEL,
    column_major_batch,
    from_column_major_batch,
    from_panels,
    panels,
    transposed,
)


def codes_of(n: int, k: int) -> torch.Tensor:
    return (torch.arange(n * k) % 251).to(torch.uint8).view(n, k)


@given(n=st.integers(1, 70), k=st.integers(1, 70))
def test_a_column_major_batch_is_the_same_memory(n: int, k: int) -> None:
    codes = codes_of(n, k)
    batch = column_major_batch(codes)
    assert batch.shape == (1, k, n)
    assert batch.stride()[1:] == (1, k)
    assert batch.data_ptr() == codes.data_ptr()
    assert torch.equal(batch[0].T, codes)
    back = from_column_major_batch(batch)
    assert back.data_ptr() == codes.data_ptr()
    assert torch.equal(back, codes)


@given(n=st.integers(1, 40), count=st.integers(1, 4), data=st.data())
def test_panels_hold_128_columns_each(n: int, count: int, data: st.DataObject) -> None:
    codes = codes_of(n, count * PANEL)
    stored = panels(codes)
    assert stored.shape == (count, n, PANEL)
    assert stored.is_contiguous()
    row = data.draw(st.integers(0, n - 1))
    column = data.draw(st.integers(0, count * PANEL - 1))
    assert stored[column // PANEL, row, column % PANEL] == codes[row, column]
    assert torch.equal(from_panels(stored), codes)


@given(a=st.integers(1, 9), b=st.integers(1, 9))
def test_transposed_scales_lie_in_one_piece(a: int, b: int) -> None:
    scales = torch.arange(a * b, dtype=torch.float32).view(a, b)
    turned = transposed(scales)
    assert turned.shape == (b, a)
    assert turned.is_contiguous()
    assert torch.equal(transposed(turned), scales)
