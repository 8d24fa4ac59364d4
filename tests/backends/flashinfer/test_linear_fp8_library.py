"""FP8 linears over the library's own Python: which of its compiled functions a call reaches."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tests.backends.flashinfer.strict_fake import pretend

from quantmux.capability.profiles import CPU
from quantmux.config import LinearConfig
from quantmux.dispatch.join import required_input
from quantmux.ops.agreement import agreement
from quantmux.ops.linear.spec import make_inputs
from quantmux.ops.quantize.reference import quantize
from quantmux.ops.spec import Call, Case
from quantmux_flashinfer.linear import specs_fp8, specs_fp8_block

if TYPE_CHECKING:
    from types import ModuleType

SPECS = {
    offer.spec.id.partition("linear_fp8_")[2]: offer.spec
    for offer in (*specs_fp8.offers(), *specs_fp8_block.offers())
}


@pytest.mark.parametrize(
    ("sm", "stem", "launched"),
    [
        (89, "bmm_cublas", "bmm_fp8"),
        (90, "bmm_cublas", "bmm_fp8"),
        (90, "bmm_cudnn", "cudnn bmm_fp8"),
        (90, "block_sm90", "fp8_gemm"),
        (90, "block_sm90_inside", "scale_1x128 + fp8_gemm"),
        (100, "bmm_cublas", "bmm_fp8"),
        (100, "bmm_cutlass", "cutlass fp8_gemm"),
        (100, "mm_trtllm_low_latency", "trtllm_low_latency_gemm"),
        (103, "block_trtllm", "trtllm_gemm fp8"),
        (103, "block_cutlass", "gemm_fp8_nt_groupwise"),
        (110, "bmm_cutlass", "cutlass fp8_gemm"),
        (120, "bmm_cutlass_sm12x", "gemm_fp8_nt_groupwise"),
        (121, "block_cutlass_sm12x", "gemm_fp8_nt_groupwise"),
    ],
)
def test_one_call_reaches_one_product_of_the_library(
    installed: ModuleType, monkeypatch: pytest.MonkeyPatch, sm: int, stem: str, launched: str
) -> None:
    del installed
    spec, m = SPECS[stem], 36
    fake = pretend(sm, monkeypatch)
    scheme = "fp8_block128" if "block" in stem else "fp8_tensor"
    config = LinearConfig(in_features=384, out_features=200, scheme=scheme)
    module, _, name = spec.load.partition(":")
    kernel: Any = getattr(import_module(module), name)
    x, weights = make_inputs(Case(config, m), "cpu", 5).args
    run = kernel.bind(config, kernel.prepare(weights, config, CPU), CPU)
    fake.launches.clear()
    reads = _read(spec, config, x)
    y = run(reads)
    assert len(fake.launches) == 1
    assert launched in fake.launches[0]
    found = agreement(
        config, Call((reads, weights)), y, rel_tolerance=spec.capability.rel_tolerance
    )
    assert found.ok, found.reason
    assert y.dtype == torch.bfloat16


def _read(spec: Any, config: LinearConfig, x: torch.Tensor) -> Any:
    offer, capability = spec.capability.schemes[0], spec.capability
    activation = config.scheme.activation
    if offer.quantizes_inside:
        return x
    assert activation is not None
    source = required_input(
        activation,
        config.k,
        offer.activation.layouts[0],
        capability.pad_k_to,
        capability.pad_m_to,
        "bf16",
    )
    assert source is not None
    return quantize(x, source)
