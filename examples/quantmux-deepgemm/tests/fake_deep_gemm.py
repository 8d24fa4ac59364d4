"""A stand-in for DeepGEMM without a GPU: refuses what the library refuses, computes by definition.

The refusals are those of the host code of sgl-deep-gemm 0.1.2 on sm90, where a wrong argument is an
error, and of the device code, where it ends the process's CUDA context. Where the library would
quietly make a copy, this module raises: the backend promises one launch.
"""

from __future__ import annotations

from types import ModuleType

import torch

CALLS: list[tuple[int, int, int]] = []
"""(M, N, K) of every call that multiplied."""


def need(condition: bool, text: str) -> None:
    if not condition:
        raise RuntimeError(f"Assertion error (fake): {text}")


def fp8_gemm_nt(
    a: tuple[torch.Tensor, torch.Tensor],
    b: tuple[torch.Tensor, torch.Tensor],
    d: torch.Tensor,
    c: torch.Tensor | None = None,
) -> None:
    (x, x_scales), (w, w_scales) = a, b
    need(x.dim() == w.dim() == d.dim() == 2, "matrices")
    need(x.stride(1) == 1 and w.stride(1) == 1, "A and B are K-major")
    need(d.stride(1) == 1, "D is N-major")
    need(x.dtype == w.dtype == torch.float8_e4m3fn, "e4m3 by e4m3")
    m, k = x.shape
    n = w.shape[0]
    need(w.shape[1] == k and tuple(d.shape) == (m, n), "shapes fit")
    need(n > 0 and k > 0, "n > 0 and k > 0")
    if m == 0:
        return
    need(c is None and d.dtype == torch.bfloat16, "bf16 output, no addend")
    check_scales(x_scales, w_scales, m, n, k)
    check_tma(x, w, d)
    need(n % 8 == 0, "device trap: shape_n % 8 == 0")
    CALLS.append((m, n, k))
    left = x.to(torch.float64) * spread(x_scales, 1, m, k)
    right = w.to(torch.float64) * spread(w_scales, 128, n, k)
    d.copy_(left @ right.T)


def check_scales(x_scales: torch.Tensor, w_scales: torch.Tensor, m: int, n: int, k: int) -> None:
    groups = -(-k // 128)
    need(x_scales.dtype == w_scales.dtype == torch.float32, "fp32 scales on sm90")
    need(tuple(x_scales.shape) == (m, groups), "one scale of A a row and 128 columns")
    need(tuple(w_scales.shape) == (-(-n // 128), groups), "one scale of B a 128x128 block")
    need(x_scales.stride(0) == 1, "scales of A are M-major")
    need(x_scales.stride(1) == -(-m // 4) * 4, "columns of scales of A are aligned to 16 bytes")
    need(w_scales.is_contiguous() or w_scales.T.is_contiguous(), "scales of B are contiguous")
    # pad rows of the scales are read with the others
    held = x_scales.untyped_storage().nbytes() // 4 - x_scales.storage_offset()
    need(held >= groups * (-(-m // 4) * 4), "the storage of A's scales holds the pad rows")


def check_tma(*matrices: torch.Tensor) -> None:
    for matrix in matrices:
        row = matrix.stride(0) * matrix.element_size()
        need(matrix.data_ptr() % 16 == 0, "addresses are multiples of 16 bytes")
        need(row % 16 == 0 or matrix.shape[0] == 1, "row strides are multiples of 16 bytes")


def spread(scales: torch.Tensor, rows: int, m: int, k: int) -> torch.Tensor:
    """Give a scale for every element."""
    wide = scales.to(torch.float64).repeat_interleave(rows, 0).repeat_interleave(128, 1)
    return wide[:m, :k]


def module() -> ModuleType:
    """Give it as the module ``deep_gemm``."""
    fake = ModuleType("deep_gemm")
    fake.fp8_gemm_nt = fp8_gemm_nt  # type: ignore[attr-defined]
    return fake
