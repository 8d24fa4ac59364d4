"""FlashInfer's FP8 GEMMs on the host: they read and write memory as the library does.

That is, from the first element on, whatever strides say; what the library refuses, they refuse.
They compute in fp64 and know nothing of quantmux. `library` puts them in the place of
`library.functions.function` for the hosts of the FP8 linears.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    import pytest

PLACES = {
    "bmm_fp8": ("A", "B", "A_scale", "B_scale", "dtype", "out", "backend"),
    "fp8_blockscale_gemm_sm90": ("input", "weight", "input_scale", "weight_scale", "out"),
    "mm_fp8": (),
    "gemm_fp8_nt_groupwise": (),
}
"""What the library calls the arguments that are passed by place."""

HOSTS = ("fp8_tensor", "fp8_low_latency", "fp8_block_sm90", "fp8_block_groupwise")


class Library:
    """Calls that were made, and what to raise in the next one."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, dict[str, Any]]] = []
        self.error: Exception | None = None

    def function(self, entry: Any, device: Any) -> Any:
        """Give the fake of an entry's function."""
        del device
        fake = {
            "bmm_fp8": bmm_fp8,
            "mm_fp8": mm_fp8,
            "fp8_blockscale_gemm_sm90": fp8_blockscale_gemm_sm90,
            "gemm_fp8_nt_groupwise": gemm_fp8_nt_groupwise,
        }[entry.name]

        def call(*args: Any, **kwargs: Any) -> Any:
            kwargs.update(zip(PLACES[entry.name], args, strict=False))
            self.calls.append((entry, kwargs))
            if self.error is not None:
                raise self.error
            assert set(kwargs) == set(entry.parameters), "the entry names what is passed"
            assert kwargs.pop("backend", None) == entry.backend
            kwargs.pop("skip_check", None)
            return fake(**kwargs, **_backend(entry))

        return call


def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    """Put a library of the host in the place of FlashInfer."""
    made = Library()
    for host in HOSTS:
        module = import_module(f"quantmux_flashinfer.linear.{host}")
        monkeypatch.setattr(module, "function", made.function)
        if hasattr(module, "require_order"):  # held against the real functions in another test
            monkeypatch.setattr(module, "require_order", lambda *_: None)
    return made


def bmm_fp8(
    A: torch.Tensor,
    B: torch.Tensor,
    A_scale: torch.Tensor,
    B_scale: torch.Tensor,
    dtype: torch.dtype,
    out: torch.Tensor,
    backend: str,
) -> torch.Tensor:
    """Multiply [1, M, K] by a column-major [1, K, N]."""
    (_, m, k), n = A.shape, B.shape[2]
    assert B.shape == (1, k, n)
    assert out.shape == (1, m, n)
    assert out.dtype == dtype
    both_e5m2 = A.dtype == B.dtype == torch.float8_e5m2
    if both_e5m2 or (backend == "cutlass" and torch.float8_e5m2 in (A.dtype, B.dtype)):
        raise ValueError("e5m2 is not supported")
    if m == 0 or n % 16 or k % 16:
        raise RuntimeError("bmm_fp8_internal_cublaslt failed: not supported")
    x, w = memory(A, m, k), memory(B, n, k)
    store(out, (A_scale.double() * B_scale.double()) * (x @ w.T), m, n)
    return out


def mm_fp8(
    a: torch.Tensor,
    b: torch.Tensor,
    alpha: torch.Tensor,
    out_dtype: torch.dtype,
    out: torch.Tensor,
    backend: str,
) -> torch.Tensor:
    """Multiply [M, K] by panels [K / 128, N, 128] with rows dealt out, or by [N, K]."""
    m, k = a.shape
    if backend == "trtllm_low_latency":
        count, n, width = b.shape
        assert (count * width, width) == (k, 128)
        assert n % 32 == 0
        dealt = memory(b, count * n, width).view(count, n, width).transpose(0, 1).reshape(n, k)
        w = torch.empty_like(dealt)
        for row in range(n):  # of 32 rows, row 4a + b of the matrix lies in row 8b + a
            high, low = divmod(row % 32, 4)
            w[row] = dealt[row // 32 * 32 + 8 * low + high]
    else:
        n = b.shape[0]
        assert m <= 8
        assert k % 128 == 0
        w = memory(b, n, k)
    assert out.shape == (m, n)
    assert out.dtype == out_dtype == torch.bfloat16
    assert out.is_contiguous()
    store(out, alpha.double() * (memory(a, m, k) @ w.T), m, n)
    return out


def fp8_blockscale_gemm_sm90(
    input: torch.Tensor,  # noqa: A002 - the library's own name
    weight: torch.Tensor,
    weight_scale: torch.Tensor,
    out: torch.Tensor,
    input_scale: torch.Tensor | None = None,
) -> torch.Tensor:
    """Multiply by blocks; a bf16 input is quantized in the library's own way first."""
    (m, k), n = input.shape, weight.shape[0]
    if k % 128 or n % 64:
        raise ValueError("K dimension must be divisible by block size (128), N by 64")
    if m == 0:
        raise RuntimeError("input is null")
    assert weight_scale.shape in ((n, k // 128), (-(-n // 128), k // 128))
    assert out.shape == (m, n)
    grid = memory(weight_scale, -(-n // 128), k // 128)  # whatever its shape says
    w = memory(weight, n, k) * grid.repeat_interleave(128, 0)[:n].repeat_interleave(128, 1)
    if input_scale is None:
        assert input.dtype == torch.bfloat16
        x = _quantized_inside(memory(input, m, k))
    else:
        assert input.dtype == torch.float8_e4m3fn
        width = -(-m // 4) * 4
        scales = memory(input_scale, k // 128, width)[:, :m].T
        x = memory(input, m, k) * scales.repeat_interleave(128, 1)
    # bf16 bits, whatever the output's dtype is
    store(out.view(torch.bfloat16), x @ w.T, m, n)
    return out


def gemm_fp8_nt_groupwise(
    a: torch.Tensor,
    b: torch.Tensor,
    a_scale: torch.Tensor,
    b_scale: torch.Tensor,
    out: torch.Tensor,
    backend: str,
    scale_major_mode: str | None = None,
) -> torch.Tensor:
    """Multiply by blocks; M in fours."""
    (m, k), n = a.shape, b.shape[0]
    assert m % 4 == 0
    assert n % 128 == 0
    assert k % 128 == 0
    assert backend == "cutlass" or k >= 256
    rows = memory(a_scale, k // 128, m).T
    if backend == "cutlass":
        assert scale_major_mode == "MN"
        grid = memory(b_scale, k // 128, n // 128).T
    else:
        grid = memory(b_scale, n // 128, k // 128)
    x = memory(a, m, k) * rows.repeat_interleave(128, 1)
    w = memory(b, n, k) * grid.repeat_interleave(128, 0).repeat_interleave(128, 1)
    store(out, x @ w.T, m, n)
    return out


def memory(tensor: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Give what lies behind a tensor's first element as a matrix, in fp64."""
    assert tensor.element_size() > 1 or tensor.data_ptr() % 16 == 0, "no descriptor begins there"
    return tensor.as_strided((rows, columns), (columns, 1)).to(torch.float64)


def store(out: torch.Tensor, y: torch.Tensor, rows: int, columns: int) -> None:
    """Write a matrix from a tensor's first element on, one row behind the other."""
    out.as_strided((rows, columns), (columns, 1)).copy_(y)


def _quantized_inside(x: torch.Tensor) -> torch.Tensor:
    m, k = x.shape
    groups = x.to(torch.float32).view(m, k // 128, 128)
    amax = groups.abs().amax(dim=2, keepdim=True)
    up = torch.where(amax != 0, 448.0 / amax, 1.0)
    codes = (groups * up).clamp(-448, 448).to(torch.float8_e4m3fn).to(torch.float32)
    return (codes * (1.0 / up)).view(m, k).to(torch.float64)


def _backend(entry: Any) -> dict[str, Any]:
    return {} if entry.backend is None else {"backend": entry.backend}
