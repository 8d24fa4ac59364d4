"""The pretended GPU misreads what the library misreads, and refuses what it refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tests.backends.flashinfer.strict_fake_fp8 import blocks_product

from quantmux.errors import BuildError
from quantmux_flashinfer.entries import ModuleUse
from quantmux_flashinfer.library import functions
from quantmux_flashinfer.linear import fp8_entries, nvfp4_entries
from quantmux_flashinfer.quantize.nvfp4_entries import CUDA
from quantmux_flashinfer.relayout.entries import INTERLEAVE

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.backends.flashinfer.strict_fake import Fake

E4M3 = torch.float8_e4m3fn
M, N, K = 7, 256, 512


def block_call(**changed: Any) -> dict[str, Any]:
    """Give a right call of the block-scale product, and what changes it."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(M, K, generator=generator).to(E4M3)
    w = torch.randn(N, K, generator=generator).to(E4M3)
    of_x = torch.rand(K // 128, 8, generator=generator) + 0.1
    of_w = torch.rand(N // 128, K // 128, generator=generator) + 0.1
    given = {
        "input": x,
        "weight": w,
        "input_scale": of_x[:, :M],
        "weight_scale": of_w,
        "out": torch.empty(M, N, dtype=torch.bfloat16),
    }
    return given | changed


def right(given: dict[str, Any]) -> torch.Tensor:
    scales = given["input_scale"].t()
    return blocks_product(given["input"], given["weight"], scales, given["weight_scale"])


def off(y: torch.Tensor, expected: torch.Tensor) -> float:
    return float((y.float() - expected).norm() / expected.norm())


def test_a_right_call_of_the_block_scale_product_is_right(
    fake_gpu: Callable[[int], Fake],
) -> None:
    fake = fake_gpu(90)
    given = block_call()
    y = functions.function(fp8_entries.BLOCK_SM90, fake.device)(**given)
    assert off(y, right(given)) < 0.004
    assert fake.launches == ["fp8_gemm"]


def test_weight_scales_by_row_are_taken_and_misread(fake_gpu: Callable[[int], Fake]) -> None:
    fake = fake_gpu(90)
    given = block_call()
    by_row = given["weight_scale"].repeat_interleave(128, 0) * (torch.rand(N, K // 128) + 0.5)
    y = functions.function(fp8_entries.BLOCK_SM90, fake.device)(
        **(given | {"weight_scale": by_row})
    )
    spread = by_row.repeat_interleave(128, 1)
    wide = given["input"].float() * given["input_scale"].t().repeat_interleave(128, 1)
    assert off(y, wide @ (given["weight"].float() * spread).t()) > 0.1


def test_row_major_input_scales_are_taken_and_misread(fake_gpu: Callable[[int], Fake]) -> None:
    fake = fake_gpu(90)
    given = block_call()
    row_major = torch.zeros(8, K // 128)
    row_major[:M] = given["input_scale"].t()
    y = functions.function(fp8_entries.BLOCK_SM90, fake.device)(
        **(given | {"input_scale": row_major[:M]})
    )
    assert off(y, right(given)) > 0.1


def test_an_fp16_output_gets_bf16_bits(fake_gpu: Callable[[int], Fake]) -> None:
    fake = fake_gpu(90)
    given = block_call(out=torch.empty(M, N, dtype=torch.float16))
    y = functions.function(fp8_entries.BLOCK_SM90, fake.device)(**given)
    assert off(y, right(given)) > 0.5
    assert off(y.view(torch.bfloat16), right(given)) < 0.004


def test_an_output_whose_rows_lie_apart_is_written_beside(
    fake_gpu: Callable[[int], Fake],
) -> None:
    fake = fake_gpu(90)
    room = torch.full((M, 2 * N), 7.0, dtype=torch.bfloat16)
    given = block_call(out=room[:, :N])
    functions.function(fp8_entries.BLOCK_SM90, fake.device)(**given)
    assert off(room[:, :N], right(given)) > 0.5
    assert not bool((room[:, N:] == 7.0).all())


def test_without_rows_the_library_raises(fake_gpu: Callable[[int], Fake]) -> None:
    fake = fake_gpu(90)
    given = block_call()
    none = {"input": given["input"][:0], "out": given["out"][:0]}
    call = functions.function(fp8_entries.BLOCK_SM90, fake.device)
    with pytest.raises(RuntimeError, match="input is null"):
        call(**(given | none))


def test_the_librarys_own_checks_run(fake_gpu: Callable[[int], Fake]) -> None:
    call = functions.function(fp8_entries.BLOCK_SM90, fake_gpu(90).device)
    given = block_call()
    with pytest.raises(ValueError, match="N dimension must be divisible by 64"):
        call(**(given | {"weight": given["weight"][:100], "out": given["out"][:, :100]}))


def test_another_architecture_is_refused_by_the_library(fake_gpu: Callable[[int], Fake]) -> None:
    device = fake_gpu(100).device
    with pytest.raises(ValueError, match="only supported on SM90"):
        functions.function(replace(fp8_entries.BLOCK_SM90, modules=()), device)(**block_call())
    with pytest.raises(BuildError, match="is_backend_supported"):
        functions.function(nvfp4_entries.B12X, device)


def test_reading_beyond_the_memory_is_an_illegal_access(fake_gpu: Callable[[int], Fake]) -> None:
    fake = fake_gpu(90)
    given = block_call()
    narrow = given["input_scale"].clone()[:, :M]  # [K/128, M] in one piece: M is not padded to 4
    call = functions.function(fp8_entries.BLOCK_SM90, fake.device)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        call(**(given | {"input_scale": narrow.contiguous()}))


def test_a_module_that_no_entry_names_is_a_mistake(fake_gpu: Callable[[int], Fake]) -> None:
    fake = fake_gpu(90)
    entry = replace(fp8_entries.BLOCK_SM90, modules=(ModuleUse("gemm"),))
    with pytest.raises(AssertionError, match="fp8_blockscale_gemm_90"):
        functions.function(entry, fake.device)(**block_call())


def test_quantizers_on_sm90_return_memory_as_they_found_it(
    fake_gpu: Callable[[int], Fake], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the capability keeps from happening: no kernel of ours declares sm90 for them."""
    fake = fake_gpu(90)
    empty = torch.empty

    def poisoned(*args: Any, **kwargs: Any) -> torch.Tensor:
        made = empty(*args, **kwargs)
        return made.fill_(0xA5) if made.dtype == torch.uint8 else made

    monkeypatch.setattr(torch, "empty", poisoned)
    entry = replace(CUDA, modules=(ModuleUse("fp4_quantization_90"),))
    x = torch.randn(16, 64).bfloat16()
    codes, scales = functions.function(entry, fake.device)(
        input=x, global_scale=torch.ones(1), nvfp4_4over6=None, enable_pdl=False
    )
    assert bool((codes == 0xA5).all())
    assert bool((scales == 0xA5).all())
    moved = functions.function(INTERLEAVE, fake.device)
    out = torch.full((512,), 0xA5, dtype=torch.uint8)
    moved(unswizzled_sf=torch.zeros(16, 4, dtype=torch.uint8), out=out)
    assert not bool(out.any())


def test_a_strided_output_of_bmm_fp8_is_written_beside(fake_gpu: Callable[[int], Fake]) -> None:
    """As on an H200: the neighbours were overwritten."""
    fake = fake_gpu(90)
    room = torch.full((1, 16, 64), 7.0, dtype=torch.bfloat16)
    a, b = torch.ones(1, 16, 32).to(E4M3), torch.ones(1, 32, 32).to(E4M3)
    one = torch.ones(1)
    functions.function(fp8_entries.CUBLAS, fake.device)(
        A=a,
        B=b.transpose(1, 2),
        A_scale=one,
        B_scale=one,
        dtype=torch.bfloat16,
        out=room[:, :, :32],
        backend="cublas",
    )
    assert not bool((room[:, :8, 32:] == 7.0).any())


def test_scales_of_rows_that_do_not_exist_must_be_zero_for_8x4_tiles(
    fake_gpu: Callable[[int], Fake],
) -> None:
    fake = fake_gpu(100)
    m, n, k = 3, 128, 256
    given: dict[str, Any] = {
        "a": torch.zeros(m, k // 2, dtype=torch.uint8),
        "b": torch.zeros(n, k // 2, dtype=torch.uint8).t(),
        "a_descale": torch.zeros(8, k // 16, dtype=torch.uint8),
        "b_descale": torch.zeros(n, k // 16, dtype=torch.uint8).t(),
        "alpha": torch.ones(1),
        "out_dtype": torch.bfloat16,
        "out": torch.empty(m, n, dtype=torch.bfloat16),
        "use_8x4_sf_layout": True,
        "backend": "trtllm",
    }
    call = functions.function(nvfp4_entries.TRTLLM, fake.device)
    call(**given)
    with pytest.raises(RuntimeError, match="rows that do not exist"):
        call(**(given | {"a_descale": torch.full((8, k // 16), 56, dtype=torch.uint8)}))
