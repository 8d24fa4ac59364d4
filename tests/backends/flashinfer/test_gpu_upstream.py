"""What FlashInfer itself does on a Hopper GPU where this backend does not let it.

These are statements about the library, not about us: each is a reason of a line in our capability
table. Where one of them fails, the library has been mended, and the line may be looked at again.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
import torch

import quantmux as qm
from quantmux.config import LinearConfig, QuantizeConfig
from quantmux.ops.inputs import static_global_scale
from quantmux.ops.linear.reference import linear_exact
from quantmux.ops.linear.spec import make_inputs
from quantmux.ops.quantize.reference import quantize
from quantmux.ops.spec import Case
from quantmux.registry import default_registry

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0),
        reason="needs a Hopper GPU",
    ),
    pytest.mark.skipif(find_spec("flashinfer") is None, reason="flashinfer is not installed"),
    pytest.mark.filterwarnings("default"),  # what the library warns of is its own matter
]

N, K, M = 192, 512, 64
FP8 = torch.float8_e4m3fn


@pytest.fixture(scope="module")
def library() -> Any:
    """Give FlashInfer, imported as the backend imports it."""
    from quantmux_flashinfer.library.loading import flashinfer

    return flashinfer()


@pytest.fixture(scope="module")
def block() -> tuple[torch.Tensor, Any, torch.Tensor]:
    """Give a bf16 x, block-scaled weights, and what their product is."""
    config = LinearConfig(in_features=K, out_features=N, scheme="fp8_block128")
    x, weights = make_inputs(Case(config, M), "cuda", seed=1).args
    x = torch.randn_like(x)
    return x, weights, linear_exact(x, weights, config)


def off(y: torch.Tensor, truth: torch.Tensor) -> float:
    return float((y.double() - truth).norm() / truth.norm())


def test_its_nvfp4_quantizer_writes_nothing_here_and_no_kernel_of_ours_offers_it(
    library: Any,
) -> None:
    x = torch.randn(200, 512, device="cuda").bfloat16()
    config = QuantizeConfig(operand="nvfp4_static", n=512, layout="row_major")
    g = static_global_scale(1.0, x.device)
    want = quantize(x.cpu(), config, global_scale=g.cpu())
    stale = [torch.full((200 * 256,), 0xA5, dtype=torch.uint8, device="cuda") for _ in range(4)]
    torch.cuda.synchronize()
    del stale
    q, _ = library.fp4_quantize(x, 1 / g, is_sf_swizzled_layout=False)
    torch.cuda.synchronize()
    assert float((q.cpu() == want.data.cpu()).float().mean()) < 0.5
    selection = qm.select(config, torch.device("cuda:0"), m=200)
    ours = [s.id for s in default_registry().kernels if s.id.startswith("flashinfer/quantize_")]
    assert ours
    for kernel in ours:
        assert {str(r.code) for r in selection.rejected[kernel]} & {"arch"}, kernel


def test_its_block_scaled_gemm_misreads_weight_scales_by_row(library: Any, block: Any) -> None:
    x, weights, truth = block
    by_row = weights.scales.repeat_interleave(128, 0)[:N].contiguous()
    gemm = library.gemm.fp8_blockscale_gemm_sm90
    right = gemm(x, weights.data, None, weights.scales.contiguous())
    wrong = gemm(x, weights.data, None, by_row)
    assert off(right, truth) < 0.02
    assert off(wrong, truth) > 5 * off(right, truth)


def test_its_block_scaled_gemm_writes_bf16_into_fp16(library: Any, block: Any) -> None:
    x, weights, truth = block
    y = library.gemm.fp8_blockscale_gemm_sm90(
        x, weights.data, None, weights.scales.contiguous(), out_dtype=torch.float16
    )
    assert y.dtype == torch.float16
    assert off(y, truth) > 0.5
    assert off(y.view(torch.bfloat16), truth) < 0.02


def test_its_tensor_scaled_product_takes_no_notice_of_an_outputs_strides(library: Any) -> None:
    a = torch.randn(1, 16, 256, device="cuda").to(FP8)
    b = torch.randn(128, 256, device="cuda").to(FP8)
    one = torch.ones(1, device="cuda")
    wide = torch.full((1, 16, 192), 7.0, dtype=torch.bfloat16, device="cuda")
    y = wide[:, :, :128]
    library.bmm_fp8(a, b.T[None], one, one, torch.bfloat16, out=y, backend="cublas")
    torch.cuda.synchronize()
    assert not (wide[:, :, 128:] == 7.0).all()
    assert off(y[0], a[0].double() @ b.double().T) > 0.5
