"""What stands in for FlashInfer's compiled FP8 products."""

from __future__ import annotations

from functools import lru_cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import torch
from tests.backends.flashinfer.strict_fake import at, must, on_16_bytes, product, runner_of

from quantmux.config.layouts import round_up

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.backends.flashinfer.strict_fake import Fake

E4M3: Final = torch.float8_e4m3fn
NARROW: Final = (torch.bfloat16, torch.float16)


def gemm(fake: Fake) -> Any:
    """``gemm``: cuBLASLt of bmm_fp8. Three addresses and four numbers; no stride is looked at."""

    def bmm_fp8(a: Any, b: Any, out: Any, scale_a: Any, scale_b: Any, workspace: Any) -> None:
        fake.launched("bmm_fp8")
        must(a.ndim == b.ndim == out.ndim == 3, "must be a 3D tensor")
        batch, m, k = a.shape
        n = b.shape[2]
        must(tuple(b.shape) == (batch, k, n), "Incompatible matrix sizes")
        must(tuple(out.shape) == (batch, m, n), "Result tensor has incorrect shape")
        must(workspace.numel() >= 1 << 20, "workspace")
        must(scale_a.dtype == scale_b.dtype == torch.float32, "scales are read as float")
        # its documentation asks for multiples of 16; less was seen to run, and 17 to be refused
        fine = m > 0 and n % 16 == 0 and k % 16 == 0 and on_16_bytes(a, b, out)
        must(fine and out.dtype in NARROW, "CUBLAS_STATUS_NOT_SUPPORTED")
        sums = product(at(a, batch, m, k), at(b, batch, n, k))
        at(out, batch, m, n).copy_(sums * (at(scale_a, 1) * at(scale_b, 1)))

    return SimpleNamespace(bmm_fp8=bmm_fp8)


def cudnn_runner(fake: Fake) -> Callable[..., Any]:
    """cuDNN's bmm_fp8: its graph is told all strides."""

    def forward(inputs: list[Any], **_: Any) -> None:
        fake.launched("cudnn bmm_fp8")
        a, b, scale_a, scale_b, out, _workspace = inputs
        must(a.shape[1] > 0, "[cudnn_frontend] Error: No execution plans support the graph.")
        must(a.stride(2) == 1 and b.stride(1) == 1 and out.stride(2) == 1, "No execution plans")
        must(a.dtype == b.dtype == E4M3 and on_16_bytes(a, b, out), "No execution plans")
        sums = product(a, b.transpose(1, 2))
        out.copy_(sums * (at(scale_a, 1) * at(scale_b, 1)))

    return runner_of(forward)


def fp8_gemm_cutlass(fake: Fake) -> Any:
    """``fp8_gemm_cutlass`` of sm10x and sm110: everything in one piece, e4m3 only."""

    def fp8_gemm(
        a: Any, b: Any, scale_a: Any, scale_b: Any, out: Any, workspace: Any, tactic: int
    ) -> None:
        fake.launched("cutlass fp8_gemm")
        must(fake.sm // 10 in (10, 11), "no kernel image is available")
        must(tactic == -1 and workspace.numel() > 0, "tactic")
        must(a.is_contiguous() and b.is_contiguous() and out.is_contiguous(), "must be contiguous")
        must(a.dtype == b.dtype == E4M3 and out.dtype in NARROW, "dtype")
        must(a.shape[1] > 0 and a.shape[2] % 16 == 0 and b.shape[1] % 16 == 0, "alignment")
        must(on_16_bytes(a, b, out), "alignment")
        sums = product(a, b)
        out.copy_(sums * (at(scale_a, 1) * at(scale_b, 1)))

    return SimpleNamespace(fp8_gemm=fp8_gemm)


def groupwise(fake: Fake) -> Any:
    """``gemm_sm100`` and ``gemm_sm120``: CUTLASS with a scale per 1x128 and per 128x128.

    Scales are read where the mode says they lie, whatever their strides.
    """

    def gemm_fp8_nt_groupwise(
        workspace: Any,
        a: Any,
        b: Any,
        scale_a: Any,
        scale_b: Any,
        out: Any,
        gran_m: int,
        gran_n: int,
        gran_k: int,
        mode: str,
        mma_sm: int | None = None,
    ) -> None:
        fake.launched("gemm_fp8_nt_groupwise")
        must((mma_sm is None) == (fake.sm // 10 == 12), "sm120 knows no mma_sm")
        must((gran_m, gran_n, gran_k) == (1, 128, 128), "granularity")
        must(workspace.numel() > 0, "workspace")
        if a.ndim == 3:  # bmm_fp8's way on sm12x: B as [b, k, n], its memory column by column
            must(fake.sm // 10 == 12 and a.shape[0] == b.shape[0] == 1, "one batch")
            a, out = at(a, *a.shape[1:]), at(out, *out.shape[1:])
            b = at(b, b.shape[2], b.shape[1])
        (m, k), n = a.shape, b.shape[0]
        must(a.dtype == b.dtype == E4M3 and out.dtype in NARROW, "dtype")
        must(scale_a.dtype == scale_b.dtype == torch.float32, "scales are read as float")
        must(m > 0 and n % 128 == 0 and k % 128 == 0, "can_implement")
        must(fake.sm // 10 == 12 or m % 4 == 0, "m must be padded to a multiple of 4")
        must(on_16_bytes(a, b, out, scale_a, scale_b), "alignment")
        blocks_n, blocks_k = n // 128, k // 128
        if mode == "MN":
            of_x, of_w = at(scale_a, blocks_k, m).t(), at(scale_b, blocks_k, blocks_n).t()
        else:
            must(mode == "K", "scale_major_mode")
            of_x, of_w = at(scale_a, m, blocks_k), at(scale_b, blocks_n, blocks_k)
        at(out, m, n).copy_(blocks_product(at(a, m, k), at(b, n, k), of_x, of_w))

    return SimpleNamespace(gemm_fp8_nt_groupwise=gemm_fp8_nt_groupwise)


def blocks_product(
    x: torch.Tensor, w: torch.Tensor, of_x: torch.Tensor, of_w: torch.Tensor
) -> torch.Tensor:
    """Give x [M, K] by w [N, K] in fp32, with scales [M, K/128] and [ceil(N/128), K/128]."""
    wide_x = x.float() * of_x.float().repeat_interleave(128, 1)[:, : x.shape[1]]
    spread = of_w.float().repeat_interleave(128, 0)[: w.shape[0]].repeat_interleave(128, 1)
    return product(wide_x, w.float() * spread[:, : w.shape[1]])


def blockscale(fake: Fake) -> Any:
    """``fp8_blockscale_gemm_90``: DeepGEMM, handed addresses. The output gets bf16, always."""
    workspace: list[Any] = [None]

    def run_gemm(x: Any, w: Any, out: Any, of_x: Any, of_w: Any) -> None:
        held = workspace[0]
        workspace[0] = None  # the next call must bring its own
        must(held is not None, "Workspace not configured. Call configure_workspace first.")
        (m, k), n = x.shape, w.shape[0]
        must(m > 0, "(input_ptr != nullptr) is false: input is null")
        must(fake.sm == 90, "no kernel image is available for execution on the device")
        must(on_16_bytes(x, w, out), "cuTensorMapEncodeTiled: result == CUDA_SUCCESS")
        inside = x.dtype != E4M3
        fake.launched("scale_1x128 + fp8_gemm" if inside else "fp8_gemm")
        x = at(x, m, k)
        if inside:
            must(held.numel() >= m * k + 4 * (k // 128) * round_up(m, 4), "workspace")
            amax = x.float().unflatten(1, (-1, 128)).abs().amax(2)
            back = torch.where(amax > 0, 448.0 / amax, 1.0)
            x = (x.float() * back.repeat_interleave(128, 1)).to(E4M3)
            scales = torch.where(amax > 0, amax / 448.0, 1.0)
        else:
            must(of_x.data_ptr() % 16 == 0, "cuTensorMapEncodeTiled: result == CUDA_SUCCESS")
            scales = at(of_x, k // 128, round_up(m, 4))[:, :m].t()
        grid = at(of_w, -(-n // 128), k // 128)
        result = blocks_product(x, at(w, n, k), scales, grid).to(torch.bfloat16)
        at(out, m, n).view(torch.int16).copy_(result.view(torch.int16))

    def init() -> Any:
        return SimpleNamespace(
            get_workspace_size=lambda m, n, k: m * k + 4 * (k // 128) * round_up(m, 4) + n,
            configure_workspace=lambda given: workspace.__setitem__(0, given),
            run_gemm=run_gemm,
        )

    return SimpleNamespace(init=init, set_deepgemm_jit_include_dirs=lambda _folders: None)


@lru_cache(maxsize=64)
def dealt_out(rows: int) -> torch.Tensor:
    """Give where trtllm-gen's kernels find each row of a weight, by the library's own function."""
    from flashinfer.fused_moe.core import get_w2_permute_indices_with_cache

    with torch.device("cpu"), torch.inference_mode(False):  # whatever the caller has set
        probe = torch.zeros(rows, 16, dtype=torch.uint8)
        found: torch.Tensor = get_w2_permute_indices_with_cache({}, probe, 128)
    return found


def trtllm_low_latency(fake: Fake) -> Callable[..., Any]:
    """Cubins of mm_fp8 with back end trtllm_low_latency: weights as shuffled panels."""

    def run(workspace: Any, a: Any, b: Any, alpha: Any, out: Any, tactic: int) -> None:
        fake.launched("trtllm_low_latency_gemm")
        must(fake.sm in (100, 103, 107) and tactic == -1, "arch")
        must(workspace.numel() > 0 and a.dtype == b.dtype == E4M3, "dtype")
        (m, k), n = a.shape, b.shape[1]
        must(tuple(b.shape) == (k // 128, n, 128) and k % 128 == 0 and n % 128 == 0, "B")
        must(m > 0 and on_16_bytes(a, b, out) and out.dtype == torch.bfloat16, "C")
        must(alpha.dtype == torch.float32, "globalScale")
        rows = at(b, k // 128, n, 128).transpose(0, 1).reshape(n, k)
        w = torch.empty_like(rows.view(torch.uint8))
        w[dealt_out(n)] = rows.view(torch.uint8)
        sums = product(at(a, m, k), w.view(E4M3))
        at(out, m, n).copy_(sums * at(alpha, 1))

    def made(*, enable_rubin: bool = False) -> Any:
        del enable_rubin
        op = SimpleNamespace(
            trtllm_low_latency_gemm=run, get_workspace_size_in_bytes=lambda *_: 4096
        )
        name = "trtllm_low_latency_gemm"
        return SimpleNamespace(
            build_and_load=lambda: fake.load_cubins(name, op), get_library_paths=list
        )

    return made


def trtllm_gemm(fake: Fake) -> Callable[..., Any]:
    """Cubins of gemm_fp8_nt_groupwise and mm_fp4 with back end trtllm."""
    from tests.backends.flashinfer.strict_fake_fp4 import trtllm_fp4

    def run(
        in_type: Any,
        out_type: Any,
        workspace: Any,
        a: Any,
        b: Any,
        scale_a: Any,
        scale_b: Any,
        alpha: Any,
        out: Any,
        use_8x4: bool,
        tactic: int,
    ) -> None:
        must(fake.sm in (100, 103, 107) and tactic == -1 and workspace.numel() > 0, "arch")
        must(out_type.name == "Bfloat16" and out.dtype == torch.bfloat16, "out dtype")
        if in_type.name == "E2m1":
            trtllm_fp4(fake, a, b, scale_a, scale_b, alpha, out, use_8x4=use_8x4)
            return
        fake.launched("trtllm_gemm fp8")
        must(in_type.name == "E4m3" and alpha is None and not use_8x4, "dtype")
        must(a.dtype == b.dtype == E4M3, "dtype")
        (m, k), n = a.shape, b.shape[0]
        must(m > 0 and k % 128 == 0 and k >= 256 and n % 128 == 0, "No kernel found")
        must(on_16_bytes(a, b, out, scale_a, scale_b), "alignment")
        must(tuple(scale_a.shape) == (k // 128, m), "scale_a")
        must(tuple(scale_b.shape) == (n // 128, k // 128), "scale_b")
        of_x, of_w = at(scale_a, k // 128, m).t(), at(scale_b, n // 128, k // 128)
        at(out, m, n).copy_(blocks_product(at(a, m, k), at(b, n, k), of_x, of_w))

    def made(*, enable_rubin: bool = False) -> Any:
        del enable_rubin
        op = SimpleNamespace(trtllm_gemm=run)
        return SimpleNamespace(
            build_and_load=lambda: fake.load_cubins("trtllm_gemm", op), get_library_paths=list
        )

    return made


COMPILED: Final[dict[tuple[str, ...], Callable[[Fake], Any]]] = {
    ("gemm",): gemm,
    ("fp8_gemm_cutlass",): fp8_gemm_cutlass,
    ("gemm_sm100", "gemm_sm120"): groupwise,
    ("fp8_blockscale_gemm_90",): blockscale,
}
"""Names of modules → what makes a stand-in."""

_BASE: Final = "flashinfer.gemm.gemm_base"
REPLACED: Final[dict[str, Callable[[Fake], Any]]] = {
    f"{_BASE}:CUDNN_AVAILABLE": lambda _: True,
    f"{_BASE}:CUTE_DSL_AVAILABLE": lambda _: True,
    f"{_BASE}:_get_cudnn_handle": lambda _: lambda _device, _stream: None,
    f"{_BASE}:_cudnn_gemm_fp8_runner": cudnn_runner,
    f"{_BASE}:gen_trtllm_gen_gemm_module": trtllm_gemm,
    "flashinfer.trtllm_low_latency_gemm:gen_trtllm_low_latency_gemm_module": trtllm_low_latency,
}
"""Functions of the library that need a package or files that are not here → a stand-in."""
