"""vLLM's compiled operations as peers: called as its own schemas say, judged by their values."""

import itertools
import re

import pytest
import torch

from quantmux.bench.materials import Materials
from quantmux.bench.peers import vllm_library
from quantmux.bench.peers.vllm_ops import VllmScaledMm
from quantmux.bench.peers.vllm_producers import VllmGroupQuant, VllmSiluMulQuant
from quantmux.bench.rows import BenchCase
from quantmux.capability.detect import HERE_CPU
from quantmux.config import LinearConfig, QuantizeConfig, SiluMulQuantizeConfig

SCHEMAS = (
    (
        "per_token_group_fp8_quant(Tensor input, Tensor! output_q, Tensor! output_s, "
        "int group_size, float eps, float fp8_min, float fp8_max, bool scale_ue8m0, "
        "bool dummy_is_scale_transposed, bool dummy_is_tma_aligned) -> ()"
    ),
    (
        "silu_and_mul_per_block_quant(Tensor! out, Tensor input, Tensor! scales, int group_size, "
        "Tensor? scale_ub=None, bool is_scale_transposed=False) -> ()"
    ),
    "silu_and_mul(Tensor! result, Tensor input) -> ()",
    (
        "cutlass_scaled_mm(Tensor! out, Tensor a, Tensor b, Tensor a_scales, Tensor b_scales, "
        "Tensor? bias) -> ()"
    ),
)
"""As the extensions of vLLM 0.22.1 register them."""


def group_quant(x, q, s, group, eps, low, high, ue8m0, *_):
    """What vLLM's kernel computes, by a reciprocal as it does."""
    parts = x.float().unflatten(1, (-1, group))
    scale = parts.abs().amax(-1).clamp_min(eps) / high
    if ue8m0:
        scale = torch.exp2(torch.ceil(torch.log2(scale)))
    s.copy_(scale)
    codes = (parts * (1 / scale)[..., None]).clamp(low, high).flatten(1)
    q.copy_(codes.to(q.dtype))


def silu_and_mul(y, x):
    gate, up = x.float().chunk(2, dim=1)
    y.copy_(torch.nn.functional.silu(gate) * up)


def silu_fused(q, x, s, group, scale_ub=None, transposed=False):
    assert scale_ub is None
    assert not transposed
    y = torch.empty(x.shape[0], x.shape[1] // 2)
    silu_and_mul(y, x)
    group_quant(y, q, s, group, 1e-10, -448.0, 448.0, False)


def scaled_mm(y, a, b, scale_a, scale_b, bias):
    assert bias is None
    assert b.stride(0) == 1, "vLLM wants b column by column"
    assert scale_a.is_contiguous()
    assert scale_b.is_contiguous()
    y.copy_((a.float() @ b.float()) * scale_a * scale_b.reshape(1, -1))


@pytest.fixture(autouse=True, scope="module")
def operations():
    """The namespace of vLLM's operations, on this CPU."""
    library = torch.library.Library("_C", "FRAGMENT")
    kernels = (group_quant, silu_fused, silu_and_mul, scaled_mm)
    for schema, kernel in zip(SCHEMAS, kernels, strict=True):
        # torch's Python wants every alias named; vLLM's own registration does not
        alias = itertools.count()
        named = re.sub("Tensor!", lambda _: f"Tensor(a{next(alias)}!)", schema)  # noqa: B023
        library.define(named)
        library.impl(schema.partition("(")[0], kernel, "CPU")
    yield
    library._destroy()


def bound(peer, config, m=9):
    materials = Materials(config, HERE_CPU)
    case = BenchCase(config, m)
    assert not peer.refuses(case)
    return peer.bind(case, materials, materials.inputs(m, 2))


@pytest.mark.parametrize("layout", ["row_major", "col_major_aligned4"])
@pytest.mark.parametrize("operand", ["fp8_group128", "fp8_group64", "fp8_group128_pow2"])
def test_the_group_quantizer_is_called_as_its_schema_says_and_agrees(operand, layout):
    config = QuantizeConfig(operand=operand, n=256, layout=layout)
    found = bound(VllmGroupQuant(), config).check()
    assert found.ok, found.reason


@pytest.mark.parametrize("way", ["fused", "two", "torch"])
def test_every_way_of_silu_mul_agrees(way):
    config = SiluMulQuantizeConfig(operand="fp8_group128", n=256)
    peer = bound(VllmSiluMulQuant(way), config)
    found = peer.check()
    assert found.ok, found.reason
    assert len(peer.calls) == 2


def test_the_product_with_row_scales_agrees():
    config = LinearConfig(in_features=64, out_features=32, scheme="fp8_channel_token")
    found = bound(VllmScaledMm(), config).check()
    assert found.ok, found.reason


@pytest.mark.parametrize("spoil", ["scales", "data", "one"])
def test_a_quantizer_that_leaves_a_part_wrong_is_not_timed(spoil):
    config = QuantizeConfig(operand="fp8_group128", n=256)
    peer = bound(VllmGroupQuant(), config)
    q = peer.calls[0]()
    if spoil == "scales":
        q.scales.copy_(q.scales.roll(1, dims=0))
    elif spoil == "data":
        q.data.view(torch.uint8)[-1].zero_()
    else:
        code = q.data.view(torch.uint8)
        code[3, 7] = 0x7E  # the largest, 448
    found = peer.compare(q)
    assert not found.ok
    assert "off" in found.reason


def test_what_vllm_does_not_do_is_refused_with_the_reason():
    padded = QuantizeConfig(operand="fp8_group128", n=200, padded_n=256)
    packed = QuantizeConfig(operand="fp8_group128_pow2", n=256, layout="packed_pow2")
    pow2 = SiluMulQuantizeConfig(operand="fp8_group128_pow2", n=256)
    assert "pad" in VllmGroupQuant().refuses(BenchCase(padded, 4))
    assert "packed_pow2" in VllmGroupQuant().refuses(BenchCase(packed, 4))
    assert "power-of-two" in VllmSiluMulQuant("fused").refuses(BenchCase(pow2, 4))
    assert not VllmSiluMulQuant("two").refuses(BenchCase(pow2, 4))
    assert "silu_mul_quantize" in VllmSiluMulQuant("two").refuses(BenchCase(padded, 4))


def test_a_folder_without_the_extensions_says_which_file_is_missing(tmp_path, monkeypatch):
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    vllm_library._load.cache_clear()
    assert "_C.abi3.so" in vllm_library.missing("cutlass_scaled_mm")


def test_without_vllm_it_says_so():
    assert vllm_library.missing("cutlass_scaled_mm") == "vllm is not installed"
