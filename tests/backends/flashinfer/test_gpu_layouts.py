"""What of the FP4 conventions can be asked of FlashInfer's compiled code on any GPU from sm90 on.

Its FP4 products want Blackwell; but its decoder, which runs on the host, and the kernel that lays
scales into tiles are in the same module on Hopper, and are right there.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
import torch

from quantmux.config import QuantizeConfig
from quantmux.ops.quantize.reference import quantize
from quantmux_flashinfer.layouts import global_scales, scale_bytes, trtllm

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or torch.cuda.get_device_capability() < (9, 0),
        reason="needs a GPU from sm90 on",
    ),
    pytest.mark.skipif(find_spec("flashinfer") is None, reason="flashinfer is not installed"),
    pytest.mark.filterwarnings("default"),  # what the library warns of is its own matter
]


@pytest.fixture(scope="module")
def library() -> Any:
    """Give FlashInfer, imported as the backend imports it."""
    from quantmux_flashinfer.library.loading import flashinfer

    return flashinfer()


@pytest.mark.parametrize("layout", ["row_major", "swizzled_128x4", "swizzled_8x4"])
def test_its_decoder_reads_our_codes_scales_and_g_in_every_layout(library: Any, layout: str):
    x = torch.randn(37, 96, generator=torch.Generator().manual_seed(0)) * 3.0
    q = quantize(x, QuantizeConfig(operand="nvfp4", n=96, layout=layout, in_dtype="fp32"))
    assert q.global_scale is not None

    def read(g: torch.Tensor) -> torch.Tensor:
        flat = scale_bytes.flat(scale_bytes.as_bytes(q.scales))
        is_tiled, is_8x4 = layout != "row_major", layout == "swizzled_8x4"
        found: torch.Tensor = library.e2m1_and_ufp8sf_scale_to_float(
            q.data, flat, g, 16, 1, is_tiled, is_8x4
        )
        return found

    torch.testing.assert_close(read(q.global_scale), q.dequantize(), rtol=1e-6, atol=0.0)
    wrong = read(global_scales.encode_scale(q.global_scale))
    assert not torch.allclose(wrong, q.dequantize(), rtol=1e-3)


@pytest.mark.parametrize(("n", "groups"), [(128, 4), (384, 12)])
def test_it_shuffles_codes_and_scales_of_weights_as_we_do(library: Any, n: int, groups: int):
    grid = torch.randint(0, 120, (n, groups), dtype=torch.uint8, device="cuda")
    codes = torch.randint(0, 256, (n, groups * 8), dtype=torch.uint8, device="cuda")
    tiles = library.shuffle_matrix_sf_a(grid, 128).view(torch.uint8).reshape(n, groups)
    assert torch.equal(trtllm.shuffled_scales(grid), tiles)
    assert torch.equal(trtllm.shuffled_rows(codes), library.shuffle_matrix_a(codes, 128))
