"""The same translations against FlashInfer itself, where it computes them with torch on a CPU."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

from quantmux.ops.layouts import swizzle_128x4
from quantmux_flashinfer.layouts import global_scales, scale_bytes, trtllm

pytestmark = pytest.mark.usefixtures("installed")


def part(name: str) -> Any:
    return importlib.import_module(f"flashinfer.{name}")


@pytest.mark.parametrize(("n", "width"), [(32, 3), (128, 24), (384, 7)])
def test_rows_are_shuffled_as_the_library_shuffles_them(n: int, width: int):
    rows = torch.randint(0, 256, (n, width), dtype=torch.uint8)
    theirs = part("quantization.fp4_quantization").shuffle_matrix_a(rows, 128)
    assert torch.equal(trtllm.shuffled_rows(rows), theirs)
    assert torch.equal(trtllm.unshuffled_rows(theirs), rows)


def test_scales_are_shuffled_by_the_librarys_own_row_indices():
    grid = torch.randint(0, 256, (256, 8), dtype=torch.uint8)
    indices = part("utils").get_shuffle_matrix_sf_a_row_indices(grid, 128)
    assert torch.equal(trtllm.shuffled_scales(grid), swizzle_128x4(grid[indices]))


@pytest.mark.parametrize(("n", "groups"), [(128, 4), (200, 6), (7, 1)])
def test_the_library_reads_our_128x4_tiles_back_as_the_row_major_grid(n: int, groups: int):
    grid = torch.randint(1, 120, (n, groups), dtype=torch.uint8)
    stored = torch.zeros(scale_bytes.stored_shape("swizzled_128x4", n, groups * 16)).byte()
    stored[:n, :groups] = grid
    tiles = scale_bytes.flat(swizzle_128x4(stored))
    read = part("gemm.gemm_bf16_fp4")._unswizzle_sf_128x4(tiles, n, groups)
    assert torch.equal(read, grid)


def test_the_library_reads_codes_scales_and_g_as_we_mean_them():
    """Low nibble first, scales as bytes, and a global scale that multiplies when decoding."""
    from quantmux import QuantizeConfig
    from quantmux.ops.quantize.reference import quantize

    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    q = quantize(x, QuantizeConfig(operand="nvfp4", n=64, in_dtype="fp32"))
    assert q.global_scale is not None
    decode = part("quantization.fp4_quantization")._e2m1_and_ufp8sf_scale_to_float_cpu
    read = decode(q.data, scale_bytes.as_bytes(q.scales), q.global_scale, 16, 1, False)
    assert torch.equal(read, q.dequantize())
    encode = global_scales.encode_scale(q.global_scale)
    wrong = decode(q.data, scale_bytes.as_bytes(q.scales), encode, 16, 1, False)
    assert not torch.allclose(wrong, q.dequantize())
