"""What stands in for FlashInfer's compiled FP4 products: NVFP4 by NVFP4, and bf16 by NVFP4."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import torch
from tests.backends.flashinfer.strict_fake import at, must, on_16_bytes, product, runner_of
from tests.backends.flashinfer.strict_fake_producers import extent, offsets

from quantmux.config.layouts import round_up

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.backends.flashinfer.strict_fake import Fake

NARROW: Final = (torch.bfloat16, torch.float16)
_NUMBERS: Final = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def numbers(codes: torch.Tensor) -> torch.Tensor:
    """Give fp32 [R, K] of codes uint8 [R, K/2], the even column in the low nibble."""
    both = [*_NUMBERS, *(-x for x in _NUMBERS)]
    table = torch.tensor(both, dtype=torch.float32, device=codes.device)
    pairs = torch.stack((codes & 15, codes >> 4), -1).flatten(-2)
    return table[pairs.long()]


def block_scales(given: torch.Tensor, rows: int, columns: int, tile: int) -> torch.Tensor:
    """Give fp32 [rows, columns] of the bytes at an address, in tiles of 128 or 8 rows."""
    flat = at(given.view(torch.uint8), extent(rows, columns, tile))
    found = flat[offsets(rows, columns, tile, given.device)]
    return found.view(torch.float8_e4m3fn).float()


def dequantized(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Give fp32 [R, K] of codes and block scales [R, K/16]."""
    return numbers(codes) * scales.repeat_interleave(16, 1)


def multiply(
    x: torch.Tensor,
    w: torch.Tensor,
    of_x: torch.Tensor,
    of_w: torch.Tensor,
    alpha: torch.Tensor,
    out: torch.Tensor,
    *,
    tile: int = 128,
) -> None:
    """Write alpha · x · w^T for codes [M, K/2] and [N, K/2], all by address."""
    (m, half), n = x.shape, w.shape[0]
    must(tuple(w.shape) == (n, half) and tuple(out.shape) == (m, n), "shapes")
    must(x.dtype == w.dtype == torch.uint8 and out.dtype in NARROW, "dtype")
    must(alpha.dtype == torch.float32 and alpha.numel() == 1, "globalScale")
    must(m > 0, "invalid configuration argument")
    groups = half * 2 // 16
    a = dequantized(at(x, m, half), block_scales(of_x, m, groups, tile))
    b = dequantized(at(w, n, half), block_scales(of_w, n, groups, 128))
    at(out, m, n).copy_(product(a, b) * at(alpha, 1))


def cutlass(fake: Fake) -> Any:
    """``fp4_gemm_cutlass*``: everything in one piece, K and N multiples of 32."""

    def fp4_gemm(
        a: Any, b: Any, of_a: Any, of_b: Any, alpha: Any, out: Any, workspace: Any, tactic: int
    ) -> None:
        fake.launched("cutlass fp4_gemm")
        must(tactic == -1 and workspace.numel() > 0, "tactic")
        must(fake.sm >= 100, "no kernel image is available for execution on the device")
        for part in (a, b, of_a, of_b, alpha, out):
            must(part.is_contiguous(), "must be contiguous")
        must(of_a.dtype == of_b.dtype == torch.uint8, "Inconsistency of Tensor type")
        must(a.shape[1] * 2 % 32 == 0, "Expected k to be divisible by 32")
        must(b.shape[0] % 32 == 0, "Expected n to be divisible by 32")
        must(on_16_bytes(a, b, of_a, of_b, out), "CUDA error: misaligned address")
        multiply(a, b, of_a, of_b, alpha, out)

    return SimpleNamespace(fp4_gemm=fp4_gemm)


def _runner(
    fake: Fake, name: str, *, align_n: int, align_k: int, m_max: int | None = None
) -> Callable[..., Any]:
    """Give a factory of runners of mm_fp4 that want A, B.T, scales and out in one piece."""

    def forward(inputs: list[Any], **_: Any) -> None:
        fake.launched(f"{name} mm_fp4")
        if len(inputs) == 9:  # mm_fp8's way to the low-latency kernel
            _fp8_low_latency(inputs)
            return
        a, b, of_a, of_b, alpha, _dtype, out, group, is_nvfp4, workspace = inputs
        must(group == 16 and is_nvfp4 and workspace.numel() > 0, "block_size")
        must(m_max is None or a.shape[0] <= m_max, "M")
        must(b.shape[1] % align_n == 0 and a.shape[1] * 2 % align_k == 0, "No execution plans")
        for part in (a, b.t(), of_a, of_b.t(), out):
            must(part.is_contiguous(), "must be contiguous")
        must(on_16_bytes(a, b, of_a, of_b, out), "CUDA error: misaligned address")
        multiply(a, b.t(), of_a, of_b.t(), alpha, out)

    return runner_of(forward)


def _fp8_low_latency(inputs: list[Any]) -> None:
    """Weights first, and all scales of blocks 1: 127 in e8m0."""
    w, x, of_w, of_x, out_t, workspace, (n, m, k, batch), alpha, _ = inputs
    must(batch == 1 and m <= 8 and k % 128 == 0 and workspace.numel() > 0, "shape")
    must(w.is_contiguous() and x.is_contiguous() and out_t.t().is_contiguous(), "contiguous")
    for scales, rows in ((of_w, n), (of_x, m)):
        must(scales.numel() == round_up(rows, 128) * (k // 128) * 4, "scales")
        must(bool((scales.view(torch.uint8) == 127).all()), "scales of blocks are 1")
    at(out_t.t(), m, n).copy_(product(at(x, m, k), at(w, n, k)) * at(alpha, 1))


@lru_cache(maxsize=64)
def shuffled(rows: int) -> torch.Tensor:
    """Give where trtllm-gen's FP4 kernels find each row of a weight: the library's own order."""
    with torch.device("cpu"), torch.inference_mode(mode=False):
        probe = torch.zeros(rows, 4, dtype=torch.uint8)
        utils = import_module("flashinfer.utils")
        found: torch.Tensor = utils.get_shuffle_matrix_sf_a_row_indices(probe, 128)
        same = utils.get_shuffle_matrix_a_row_indices(probe, 128)
    assert torch.equal(found, same)  # codes and scales are dealt out alike
    return found


def trtllm_fp4(
    fake: Fake,
    a: Any,
    b: Any,
    of_a: Any,
    of_b: Any,
    alpha: Any,
    out: Any,
    *,
    use_8x4: bool,
) -> None:
    """Cubins of mm_fp4: rows of weights dealt out, scales of x in tiles of 128 or 8 rows.

    With 8x4 tiles they read the scales of rows beyond M too, into rows that exist.
    """
    fake.launched("trtllm_gemm fp4")
    for part in (a, b, of_a, of_b, alpha, out):
        must(part.is_contiguous(), "must be contiguous")
    (m, half), n = a.shape, b.shape[0]
    must(half * 2 % 256 == 0 and n % 128 == 0, "No kernel found")
    must(on_16_bytes(a, b, of_a, of_b, out), "CUDA error: misaligned address")
    tile, groups = (8 if use_8x4 else 128), half // 8
    rows = round_up(m, tile)
    beyond = block_scales(of_a, rows, groups, tile)[m:]
    must(not bool(beyond.any()), "scales of rows that do not exist are not zero")
    order = shuffled(n)
    codes = torch.empty_like(b)
    scales = torch.empty((n, groups), dtype=torch.float32, device=b.device)
    codes[order] = at(b, n, half)
    scales[order] = block_scales(of_b, n, groups, 128)
    x = dequantized(at(a, m, half), block_scales(of_a, m, groups, tile))
    at(out, m, n).copy_(product(x, dequantized(codes, scales)) * at(alpha, 1))


class Kept:
    """Weights as they were before the library prepared them, found again by their bytes.

    The prepared forms of ``mm_bf16_fp4`` are the library's own affair; what counts here is that
    what comes back is what it gave, of the same back end.
    """

    def __init__(self) -> None:
        self._found: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def preparing(self, prepare: Callable[..., Any], name: str) -> Callable[..., Any]:
        """Give a preparation that remembers what it was given."""

        def remembered(b: Any, scales: Any, alpha: Any, group: int, *rest: Any) -> Any:
            must(group == 16 and b.is_contiguous(), "weights")
            n, k = b.shape[0], b.shape[1] * 2
            plain = b.clone(), block_scales(scales, n, k // 16, 128)
            made = prepare(b, scales, alpha, group, *rest)
            self._found[_key(name, made[0], made[1])] = plain
            return made

        return remembered

    def weights(self, name: str, b: Any, scales: Any) -> torch.Tensor:
        """Give fp32 [N, K]."""
        plain = self._found.get(_key(name, b, scales))
        must(plain is not None, f"these weights were not prepared for {name}")
        assert plain is not None
        return dequantized(*plain)


def _key(name: str, b: Any, scales: Any) -> int:
    parts = (t.contiguous().view(torch.uint8).numpy().tobytes() for t in (b, scales))
    return hash((name, tuple(b.shape), *parts))


def _kept(fake: Fake) -> Kept:
    return fake.keeping.setdefault("w4a16", Kept())


def _preparing(path: str, name: str) -> Callable[[Fake], Any]:
    where, _, function = path.partition(":")

    def make(fake: Fake) -> Any:
        return _kept(fake).preparing(getattr(import_module(where), function), name)

    return make


def _cute_sm100(fake: Fake) -> Any:
    """The DSL's view of the scales as a tensor of six dimensions needs the DSL: bytes here."""

    def prepare(b: Any, scales: Any, alpha: Any, group: int) -> Any:
        must(group == 16, "group")
        return b.contiguous(), scales.contiguous(), alpha

    return _kept(fake).preparing(prepare, "cute-dsl")


def _write(fake: Fake, name: str, x: Any, w: Any, alpha: Any, out: Any, dtype: Any) -> Any:
    fake.launched(f"{name} mm_bf16_fp4")
    m, n = x.shape[0], w.shape[0]
    out = torch.empty((m, n), dtype=dtype, device=x.device) if out is None else out
    must(x.is_contiguous() and x.dtype == torch.bfloat16 and on_16_bytes(x), "a")
    must(out.is_contiguous() and tuple(out.shape) == (m, n) and out.dtype == dtype, "out")
    must(alpha.shape == (1,) and alpha.dtype == torch.float32 and m > 0, "alpha")
    out.copy_(product(x, w) * alpha)
    return out


def _compute_cudnn(fake: Fake) -> Any:
    def compute(a: Any, b: Any, scales: Any, alpha: Any, dtype: Any, out: Any, group: int) -> Any:
        must(group == 16 and b.shape[0] % 32 == 0 and a.shape[1] % 32 == 0, "No execution plans")
        w = _kept(fake).weights("cudnn", b, scales)
        return _write(fake, "cudnn", a, w, alpha, out, dtype)

    return compute


def _compute_cute(fake: Fake) -> Any:
    def compute(
        a: Any,
        b: Any,
        scales: Any,
        alpha: Any,
        dtype: Any,
        out: Any,
        group: int,
        *,
        enable_pdl: Any,
    ) -> Any:
        del enable_pdl
        w = _kept(fake).weights("cute-dsl", b, scales)
        must(group == 16 and w.shape[0] % 64 == 0 and w.shape[1] % 64 == 0, "N or K")
        return _write(fake, "cute-dsl", a, w, alpha, out, dtype)

    return compute


def _compute_blackwell(fake: Fake) -> Any:
    def compute(
        a: Any,
        b: Any,
        scales: Any,
        alpha: Any,
        dtype: Any,
        out: Any,
        group: int,
        enable_pdl: Any,
        backend: str,
    ) -> Any:
        del enable_pdl
        must(group == 16 and fake.sm in (100, 103), "arch")
        w = _kept(fake).weights("blackwell", b, scales)
        return _write(fake, backend, a, w, alpha, out, dtype)

    return compute


def _compute_native(fake: Fake) -> Any:
    def run(a: Any, b: Any, scales: Any, alpha: Any, dtype: Any, out: Any, enable_pdl: Any) -> Any:
        del enable_pdl
        must(fake.sm in (120, 121), "arch")
        n, half = b.shape
        w = dequantized(at(b, n, half), block_scales(scales, n, half // 8, 128))
        return _write(fake, "cute-dsl-native", a, w, alpha, out, dtype)

    return run


def _off_the_gpu(path: str) -> Callable[[Fake], Any]:
    """Give a check of the library, which holds until it asks whether tensors are CUDA's."""
    where, _, name = path.partition(":")

    def make(_fake: Fake) -> Any:
        real = getattr(import_module(where), name)

        def check(*args: Any, **kwargs: Any) -> Any:
            try:
                return real(*args, **kwargs)
            except ValueError as error:
                if "CUDA device" not in str(error):
                    raise
            a, b = args[0], args[1]
            must(a.data_ptr() % 32 == 0 or "weights" in name, "32-byte aligned operands")
            return (
                (a.shape[0], a.shape[1] * 2) if "weights" in name else (a.shape[0], b.shape[1], 0)
            )

        return check

    return make


COMPILED: Final[dict[tuple[str, ...], Callable[[Fake], Any]]] = {
    ("fp4_gemm_cutlass", "fp4_gemm_cutlass_sm103", "fp4_gemm_cutlass_sm120"): cutlass,
}

_BASE: Final = "flashinfer.gemm.gemm_base"
_W4A16: Final = "flashinfer.gemm.gemm_bf16_fp4"
_CUDNN: Final = SimpleNamespace(backend_version=lambda: 92400)
REPLACED: Final[dict[str, Callable[[Fake], Any]]] = {
    f"{_BASE}:_check_cudnn_fp4_availability": lambda _: lambda: None,
    f"{_BASE}:cudnn": lambda _: _CUDNN,
    f"{_W4A16}:_check_cudnn_fp4_availability": lambda _: lambda: None,
    f"{_W4A16}:cudnn": lambda _: _CUDNN,
    "flashinfer.cute_dsl.availability:is_cute_dsl_available": lambda _: lambda: True,
    f"{_BASE}:_cudnn_gemm_fp4_runner": lambda f: _runner(f, "cudnn", align_n=32, align_k=32),
    f"{_BASE}:_cute_dsl_gemm_fp4_runner": lambda f: _runner(f, "cute", align_n=8, align_k=32),
    f"{_BASE}:_b12x_gemm_fp4_runner": lambda f: _runner(f, "b12x", align_n=8, align_k=32),
    f"{_BASE}:_cutedsl_low_latency_blockscaled_gemm_runner": lambda f: _runner(
        f, "low latency", align_n=8, align_k=64, m_max=8
    ),
    "flashinfer.gemm.kernels.sm12x_cute.runner:check_inputs": _off_the_gpu(
        "flashinfer.gemm.kernels.sm12x_cute.runner:check_inputs"
    ),
    f"{_W4A16}_cudnn:_prepare_cudnn": _preparing(f"{_W4A16}_cudnn:_prepare_cudnn", "cudnn"),
    f"{_W4A16}_cudnn:_compute_cudnn": _compute_cudnn,
    f"{_W4A16}_cute_dsl:_prepare_cute_dsl_sm100": _cute_sm100,
    f"{_W4A16}_cute_dsl:_prepare_cute_dsl_sm12x": _preparing(
        f"{_W4A16}_cute_dsl:_prepare_cute_dsl_sm12x", "cute-dsl"
    ),
    f"{_W4A16}_cute_dsl:_compute_cute_dsl": _compute_cute,
    f"{_W4A16}_blackwell:_prepare_blackwell_bf16_fp4": _preparing(
        f"{_W4A16}_blackwell:_prepare_blackwell_bf16_fp4", "blackwell"
    ),
    f"{_W4A16}_blackwell:_compute_blackwell_bf16_fp4": _compute_blackwell,
    "flashinfer.gemm.kernels.native_bf16_fp4.support:check_weights": _off_the_gpu(
        "flashinfer.gemm.kernels.native_bf16_fp4.support:check_weights"
    ),
    "flashinfer.gemm.kernels.native_bf16_fp4.runner:run": _compute_native,
}
