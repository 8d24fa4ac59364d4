"""What stands in for FlashInfer's compiled producers, by what its sources do to the numbers.

`strict_fake_producers` asks whether calls are right; this one, whether tags are: reciprocals are an
ulp off, a product is rounded to bf16, a clamp turns NaN into the greatest number, one product of a
rotation goes into a fused multiply-add. Where the real code is silently wrong so is this:
quantizers write nothing below sm100, a weight of another format is read as x's, half-and-half pairs
whose half is no multiple of 16 get sines for cosines. Addresses off a vector are CUDA's error.
"""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from tests.backends.flashinfer.strict_fake import at, must

from quantmux.ops.layouts import swizzle_8x4, swizzle_128x4
from quantmux.ops.numerics import encode_e2m1, pack_fp4

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest
    from tests.backends.flashinfer.strict_fake import Fake

VECTOR = 16
"""Elements that a thread of the RoPE kernel takes."""

HOST = "cpu"
"""Said wherever a tensor is made: a test may have set another default."""

FP4_SUFFIXES = ("90", "100", "103", "107", "110", "120f")


def on(tensor: torch.Tensor, size: int) -> None:
    """Raise CUDA's error where a vector load would be misaligned."""
    row_sizes = [s * tensor.element_size() for s in tensor.stride()[:-1]]
    if tensor.numel() and any(n % size for n in (tensor.data_ptr(), *row_sizes)):
        raise RuntimeError("CUDA error: misaligned address")


def last_dim_contiguous(*tensors: torch.Tensor) -> None:
    for tensor in tensors:
        must(tensor.stride(-1) == 1, "last dimension must be contiguous")


def norm(fake: Fake) -> Any:
    def rmsnorm_quant(out: Any, x: Any, weight: Any, scale: Any, eps: float, pdl: bool) -> None:
        del pdl
        last_dim_contiguous(x, out, weight)
        m, n = x.shape
        must(tuple(weight.shape) == (n,) and tuple(out.shape) == (m, n), "shapes")
        must(scale.numel() == 1, "scale.numel() == 1")
        must(m > 0, "status == cudaSuccess, invalid configuration argument")
        must(x.dtype in (torch.bfloat16, torch.float16), "fp16")
        vector = 8 if n % 8 == 0 else 4 if n % 4 == 0 else 2 if n % 2 == 0 else 1
        on(x, 2 * vector)
        on(weight, 2 * vector)
        on(out, vector)
        same = at(weight, n) if weight.dtype == x.dtype else at(weight.view(x.dtype), n)
        wide = x.float()
        root = torch.rsqrt(wide.square().mean(1, keepdim=True) + eps)
        values = wide * root * same.float() * (1 / scale)
        limit = torch.finfo(out.dtype).max
        # of a number and a NaN, CUDA's fminf gives the number
        lost = torch.where(values.isnan(), limit, values)
        out.copy_(lost.clamp(-limit, limit))
        fake.launched("rmsnorm_quant")

    return SimpleNamespace(rmsnorm_quant=rmsnorm_quant)


def rope(fake: Fake) -> Any:
    def rope_quantize(
        q_rope: Any, k_rope: Any, q_nope: Any, k_nope: Any, q_rope_out: Any, k_rope_out: Any,
        q_nope_out: Any, k_nope_out: Any, cache: Any, positions: Any, q_scale: float,
        k_scale: float, interleave: bool, pdl: bool,
    ) -> None:  # fmt: skip
        del pdl
        parts = (q_rope, k_rope, q_nope, k_nope, q_rope_out, k_rope_out, q_nope_out, k_nope_out)
        last_dim_contiguous(*parts)
        must(cache.is_contiguous() and positions.is_contiguous(), "must be contiguous")
        must(cache.dtype == torch.float32, "cos_sin_cache should be float32")
        t, heads, rope_dim = q_rope.shape
        must(t > 0, "status == cudaSuccess, invalid configuration argument")
        must(positions.dtype in (torch.int32, torch.int64), "pos_ids")
        for part in parts:
            must(part.ndim == 3 and part.shape[0] == t, "nnz")
        must(q_nope.shape[1] == heads and q_nope_out.shape == q_nope.shape, "heads")
        must(k_nope.shape[1] == k_rope.shape[1], "num_kv_heads")
        must(k_rope.shape[2] == rope_dim and k_nope.shape[2] == q_nope.shape[2], "dims")
        must(len({p.dtype for p in parts[:4]}) == 1 and len({p.dtype for p in parts[4:]}) == 1,
             "dtypes")  # fmt: skip
        for part in parts:
            on(part, 16)
        rotations = _cosines(cache, rope_dim, interleave)[positions].unsqueeze(1)
        for x, out, scale in ((q_rope, q_rope_out, q_scale), (k_rope, k_rope_out, k_scale)):
            _store(out, _rotated(x.float(), rotations, interleave), scale)
        for x, out, scale in ((q_nope, q_nope_out, q_scale), (k_nope, k_nope_out, k_scale)):
            _store(out, x.float(), scale)
        fake.launched("rope_quantize")

    return SimpleNamespace(rope_quantize=rope_quantize)


def _cosines(cache: torch.Tensor, rope_dim: int, interleave: bool) -> torch.Tensor:
    """Give the cosine and the sine of every column [P, 2, rope_dim], as threads find them."""
    half = rope_dim // 2
    column = torch.arange(rope_dim, device=HOST)
    first = column // VECTOR * VECTOR
    where = column // 2 if interleave else first % half + column % VECTOR
    flat = cache.reshape(-1)
    row = torch.arange(cache.shape[0], device=HOST).unsqueeze(1) * rope_dim
    last = flat.numel() - 1
    found = [flat[(row + start + where).clamp(max=last)] for start in (0, half)]
    return torch.stack(found, 1)


def _rotated(x: torch.Tensor, rotations: torch.Tensor, interleave: bool) -> torch.Tensor:
    cos, sin = rotations[..., 0, :], rotations[..., 1, :]
    if interleave:
        other = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
        sign = torch.tensor([-1.0, 1.0], device=HOST, dtype=torch.float32).repeat(x.shape[-1] // 2)
    else:
        half = x.shape[-1] // 2
        other = torch.cat((x[..., half:], x[..., :half]), -1)
        ones = torch.ones(half, device=HOST, dtype=torch.float32)
        sign = torch.cat((-ones, ones))
    # one product is rounded, the other goes into a fused multiply-add
    second = (sign * other) * sin
    return (x.double() * cos.double() + second.double()).float()


def _store(out: torch.Tensor, values: torch.Tensor, scale: float) -> None:
    limit = torch.finfo(out.dtype).max
    out.copy_((values * torch.tensor(scale, dtype=torch.float32, device=HOST)).clamp(-limit, limit))


def fp4(fake: Fake) -> Any:
    def fp4_quantize(
        x: Any, g: Any, codes: Any, scales: Any, vector: int, ue8m0: bool, swizzled: bool,
        is_8x4: bool, inversed: bool, pdl: bool, recipe: int,
    ) -> None:  # fmt: skip
        del pdl
        must(x.is_contiguous(), "self must be contiguous")
        must(vector == 16 and not ue8m0, "sfVecSize can only be 16")
        must(recipe in (0, -1), "the plain recipe")
        must(g is not None and g.dtype == torch.float32, "globalScale is required")
        must(x.dtype in (torch.bfloat16, torch.float16), "fp16/bf16/e4m3")
        m, k = x.shape
        must(k % 16 == 0, "k % sfVecSize == 0")
        must(g.numel() in (1, m), "globalScale should have shape [1] or [num_tokens]")
        on(x, 32)
        fake.launched("fp4_quantize")
        if fake.sm < 100:
            return  # the kernel's body is empty
        encode = _off(1 / g) if inversed else g
        made, small = _nvfp4(x.float(), encode)
        at(codes, m, k // 2).copy_(made)
        layout = "swizzled_8x4" if is_8x4 else "swizzled_128x4"
        laid = _laid(small, layout if swizzled else "row_major")
        at(scales, laid.numel()).copy_(laid.reshape(-1))

    def interleave(scales: Any, out: Any) -> None:
        must(scales.is_contiguous() and scales.ndim == 2, "Block Scale should be 2D")
        must(scales.dtype == torch.uint8, "uint8")
        must(scales.numel() > 0, "status == cudaSuccess, invalid configuration argument")
        laid = _laid(scales, "swizzled_128x4")
        at(out, laid.numel()).copy_(laid.reshape(-1))
        fake.launched("block_scale_interleave")

    return SimpleNamespace(fp4_quantize=fp4_quantize, block_scale_interleave_sm100=interleave)


def _off(values: torch.Tensor) -> torch.Tensor:
    """Give numbers an ulp up, as approximate reciprocals are."""
    return torch.nextafter(values, torch.full_like(values, torch.inf))


def _nvfp4(x: torch.Tensor, encode: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Give packed codes and scales as bytes [M, K/16], row-major; NaN counts for no maximum."""
    m, k = x.shape
    blocks = x.reshape(m, k // 16, 16)
    amax = torch.where(blocks.isnan(), 0.0, blocks).abs().amax(-1)
    sixth = _off(torch.full_like(amax, 1 / 6))
    scales = (encode * (amax * sixth)).clamp(max=448.0).to(torch.float8_e4m3fn)
    multiplier = _off(1 / (scales.float() * _off(1 / encode)))
    multiplier = torch.where(amax == 0, 0.0, multiplier)
    quotients = (blocks * multiplier.unsqueeze(-1)).reshape(m, k)
    codes = torch.where(quotients.isnan(), 7, encode_e2m1(quotients)).to(torch.uint8)
    return pack_fp4(codes), scales.view(torch.uint8)


def _laid(scales: torch.Tensor, layout: str) -> torch.Tensor:
    """Give scales in a layout, padding zero."""
    if layout == "row_major":
        return scales
    rows, columns = scales.shape
    tall = 8 if layout == "swizzled_8x4" else 128
    padded = torch.nn.functional.pad(scales, (0, -columns % 4, 0, -rows % tall))
    return swizzle_8x4(padded) if tall == 8 else swizzle_128x4(padded)


COMPILED: dict[tuple[str, ...], Callable[[Fake], Any]] = {
    ("norm",): norm,
    ("rope",): rope,
    tuple(f"fp4_quantization_{suffix}" for suffix in FP4_SUFFIXES): fp4,
}


def pretend_cute_dsl(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a module in the place of the quantizers that are written in the CuTe DSL."""
    names = ("swizzled_128x4", "swizzled_8x4", "row_major")

    def made(x: torch.Tensor, g: torch.Tensor, layout: int) -> tuple[torch.Tensor, torch.Tensor]:
        must(x.is_contiguous() and x.shape[1] % 16 == 0, "K must be divisible by 16")
        must(fake.sm >= 100, "it is compiled for Blackwell only")
        codes, scales = _nvfp4(x.float(), g)
        laid = _laid(scales, names[layout])
        columns = scales.shape[1] if names[layout] == "row_major" else -(-scales.shape[1] // 4) * 4
        return codes, laid.reshape(-1, columns)

    def quantize(x: Any, g: Any, *, sf_layout: int, **_: Any) -> Any:
        fake.launched("nvfp4_quantize_cute_dsl")
        return made(x, g, sf_layout)

    def silu(x: Any, g: Any, *, sf_layout: int, **_: Any) -> Any:
        fake.launched("silu_and_mul_nvfp4_quantize_cute_dsl")
        must(x.dtype == torch.bfloat16, "this stand-in rounds to bf16")
        gate, up = x.float().chunk(2, 1)
        product = (gate / (1 + torch.exp(-gate)) * up).to(torch.bfloat16)
        return made(product, g, sf_layout)

    module = ModuleType("flashinfer.quantization.kernels.nvfp4_quantize")
    vars(module).update(
        SF_LAYOUT_128x4=0,
        SF_LAYOUT_8x4=1,
        SF_LAYOUT_LINEAR=2,
        nvfp4_quantize_cute_dsl=quantize,
        silu_and_mul_nvfp4_quantize_cute_dsl=silu,
    )
    import sys

    from flashinfer import cute_dsl
    from flashinfer.quantization import kernels

    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(kernels, "nvfp4_quantize", module, raising=False)
    monkeypatch.setattr(cute_dsl, "is_cute_dsl_available", lambda: True)
