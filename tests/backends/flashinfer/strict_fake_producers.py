"""What stands in for FlashInfer's compiled quantizers, norms, rotations and moves of scales."""

from __future__ import annotations

from math import gcd
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import torch
from tests.backends.flashinfer.strict_fake import at, must, on_16_bytes

from quantmux.config.layouts import round_up

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.backends.flashinfer.strict_fake import Fake

FP8: Final = {torch.float8_e4m3fn: 448.0, torch.float8_e5m2: 57344.0}
NARROW: Final = (torch.bfloat16, torch.float16)


def saturated(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Give fp8, clamped by fminf and fmaxf: what is no number becomes one."""
    most = torch.tensor(FP8[dtype], device=values.device)
    return torch.fmin(torch.fmax(values, -most), most).to(dtype)


def bounded(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Give fp8 as the conversion instruction saturates: what is no number stays none."""
    return values.clamp(-FP8[dtype], FP8[dtype]).to(dtype)


def norm(fake: Fake) -> Any:
    """``norm``: rows by their strides, vectors of as many elements as divide n, up to eight."""

    def rmsnorm_quant(
        out: Any, x: Any, weight: Any, scale: Any, eps: float, enable_pdl: bool
    ) -> None:
        fake.launched("rmsnorm_quant")
        must(enable_pdl in (False, True) and out.dtype in FP8, "dtype")
        must(x.dtype == weight.dtype and x.dtype in NARROW, "dtype")
        must(x.stride(-1) == 1 and out.stride(-1) == 1 and weight.stride(0) == 1, "contiguous")
        must(tuple(out.shape) == tuple(x.shape) and weight.shape == x.shape[1:], "shape")
        must(scale.numel() == 1 and scale.dtype == torch.float32, "scale")
        vector = gcd(8, x.shape[1])
        for part in (x, weight):
            apart = part.stride(0) if part.ndim == 2 else 0
            fine = part.data_ptr() % (2 * vector) == 0 and apart % vector == 0
            must(fine, "CUDA error: misaligned address")
        must(out.data_ptr() % vector == 0, "CUDA error: misaligned address")
        wide = x.float()
        root = torch.rsqrt(wide.square().mean(1, keepdim=True) + eps)
        out.copy_(saturated(wide * root * weight.float() * (1.0 / scale), out.dtype))

    return SimpleNamespace(rmsnorm_quant=rmsnorm_quant)


def rope(fake: Fake) -> Any:
    """``rope``: vectors of 16 bytes along the last dimension, other dimensions by strides."""

    def rope_quantize(
        q_rope: Any,
        k_rope: Any,
        q_nope: Any,
        k_nope: Any,
        q_rope_out: Any,
        k_rope_out: Any,
        q_nope_out: Any,
        k_nope_out: Any,
        cache: Any,
        positions: Any,
        scale_q: float,
        scale_kv: float,
        interleave: bool,
        enable_pdl: bool,
    ) -> None:
        fake.launched("rope_quantize")
        must(enable_pdl in (False, True), "pdl")
        must(cache.is_contiguous() and positions.is_contiguous(), "must be contiguous")
        must(cache.dtype == torch.float32 and cache.data_ptr() % 16 == 0, "cos_sin_cache")
        must(positions.dtype in (torch.int32, torch.int64), "pos_ids")
        must(cache.shape[1] == q_rope.shape[-1], "rotary dim")
        given = (q_rope, k_rope, q_nope, k_nope)
        made = (q_rope_out, k_rope_out, q_nope_out, k_nope_out)
        must(len({t.dtype for t in given}) == 1 and q_rope.dtype in NARROW, "Input dtype")
        must(len({t.dtype for t in made}) == 1 and q_rope_out.dtype in FP8, "Output dtype")
        for one, other in zip(given, made, strict=True):
            must(one.shape == other.shape and one.shape[0] == len(positions), "shape")
            if not one.numel():
                continue
            must(one.stride(-1) == 1 and other.stride(-1) == 1, "last dimension contiguous")
            apart = [2 * step for step in one.stride()[:-1]]
            fine = all(bytes_ % 16 == 0 for bytes_ in (one.data_ptr(), *apart))
            must(fine and other.data_ptr() % 8 == 0, "CUDA error: misaligned address")
        angles = cache[positions.long()]
        for x, y, scale in ((q_rope, q_rope_out, scale_q), (k_rope, k_rope_out, scale_kv)):
            if x.numel():
                turned = rotated(x.float(), angles, interleave=interleave)
                y.copy_(bounded(turned * scale, y.dtype))
        for x, y, scale in ((q_nope, q_nope_out, scale_q), (k_nope, k_nope_out, scale_kv)):
            y.copy_(bounded(x.float() * scale, y.dtype))

    return SimpleNamespace(rope_quantize=rope_quantize)


def rotated(x: torch.Tensor, angles: torch.Tensor, *, interleave: bool) -> torch.Tensor:
    """Turn pairs of x [T, (H,) R] by angles [T, R] = cos | sin."""
    half = x.shape[-1] // 2
    shape = (len(x), *(1 for _ in x.shape[1:-1]), half)
    cos, sin = angles[:, :half].view(shape), angles[:, half:].view(shape)
    if interleave:
        one, two = x[..., ::2], x[..., 1::2]
        pairs = (one * cos - two * sin, two * cos + one * sin)
        return torch.stack(pairs, -1).flatten(-2)
    one, two = x[..., :half], x[..., half:]
    return torch.cat((one * cos - two * sin, two * cos + one * sin), -1)


def offsets(rows: int, columns: int, tile: int, home: torch.device) -> torch.Tensor:
    """Give where scales [rows, columns] lie in tiles of 128 or 8 rows by 4 columns.

    Args:
        rows: R.
        columns: C.
        tile: 128 or 8 rows; 0 for rows one behind the other.
        home: Device.
    """
    r = torch.arange(rows, device=home)[:, None]
    c = torch.arange(columns, device=home)[None, :]
    if tile == 0:
        return r * columns + c
    wide = round_up(columns, 4)
    if tile == 8:
        return (r // 8) * 8 * wide + (c // 4) * 32 + (r % 8) * 4 + c % 4
    inside = (r % 32) * 16 + ((r % 128) // 32) * 4 + c % 4
    return (r // 128) * 128 * wide + (c // 4) * 512 + inside


def extent(rows: int, columns: int, tile: int) -> int:
    """Give the bytes of scales [rows, columns] with the padding of their tiles."""
    return round_up(rows, tile) * round_up(columns, 4) if tile else rows * columns


def e2m1(values: torch.Tensor) -> torch.Tensor:
    """Give codes 0 to 15 of the nearest e2m1 numbers, ties to the even code, saturated."""
    size = values.abs()
    code = (size > 0.25).to(torch.uint8)
    for bound, takes_tie in ((0.75, 1), (1.25, 0), (1.75, 1), (2.5, 0), (3.5, 1), (5.0, 0)):
        code += (size >= bound if takes_tie else size > bound).to(torch.uint8)
    return code | (torch.signbit(values).to(torch.uint8) << 3)


def nvfp4(x: torch.Tensor, encode: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Give codes uint8 [M, n/2] and scales e4m3 [M, n/16], G as the library takes it."""
    blocks = x.float().unflatten(-1, (-1, 16))
    scales = (encode * blocks.abs().amax(-1) * (1.0 / 6.0)).clamp(max=448.0)
    scales = scales.to(torch.float8_e4m3fn)
    wide = scales.float()
    factor = torch.where(wide != 0, encode / wide, 0.0)
    codes = e2m1(blocks * factor[..., None]).flatten(-2)
    return codes[..., ::2] | (codes[..., 1::2] << 4), scales


def fp4_quantization(fake: Fake) -> Any:
    """``fp4_quantization_*``: below sm100 the quantizers' bodies are empty, without an error."""

    def fp4_quantize(
        x: Any,
        scale: Any,
        codes: Any,
        scales: Any,
        group: int,
        ue8m0: bool,
        is_swizzled: bool,
        is_8x4: bool,
        is_inversed: bool,
        enable_pdl: bool,
        recipe: int,
    ) -> None:
        fake.launched("fp4_quantize")
        must(enable_pdl in (False, True), "pdl")
        must(recipe == 0, f"NVFP4 4over6 {recipe}: asked of the environment")
        must(x.is_contiguous() and x.ndim == 2 and x.dtype in NARROW, "self must be contiguous")
        must(group == 16 and not ue8m0 and x.shape[1] % 16 == 0, "sfVecSize")
        must(scale.dtype == torch.float32 and scale.numel() == 1, "globalScale")
        must(x.data_ptr() % 32 == 0 and codes.is_contiguous(), "CUDA error: misaligned address")
        if fake.sm < 100:
            return
        encode = 1.0 / scale if is_inversed else scale
        found, of_x = nvfp4(x, encode)
        codes.copy_(found)
        tile = (8 if is_8x4 else 128) if is_swizzled else 0
        store(scales, of_x.view(torch.uint8), tile)

    def interleave(source: Any, out: Any) -> None:
        fake.launched("block_scale_interleave")
        must(source.is_contiguous() and source.dtype == torch.uint8, "Block Scale must be uint8")
        must(source.ndim == 2 and out.is_contiguous() and out.dtype == torch.uint8, "2D")
        store(out, source, 128)

    return SimpleNamespace(fp4_quantize=fp4_quantize, block_scale_interleave_sm100=interleave)


def store(out: torch.Tensor, scales: torch.Tensor, tile: int) -> None:
    """Write scales where the layout wants them, and zeros into its padding."""
    rows, columns = scales.shape
    flat = at(out, extent(rows, columns, tile))
    flat.zero_()
    flat[offsets(rows, columns, tile, scales.device).flatten()] = scales.flatten()


def cute_quantizers(fake: Fake) -> Any:
    """Kernels of the CuTe DSL: they allocate, and give scales in two dimensions."""

    def quantized(x: Any, encode: Any, sf_layout: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows, columns = x.shape[0], x.shape[1] // 16
        tile = (128, 8, 0)[sf_layout]
        codes, of_x = nvfp4(x, encode)
        wide = round_up(columns, 4) if tile else columns
        scales = torch.empty(
            (extent(rows, columns, tile) // wide, wide), dtype=torch.uint8, device=x.device
        )
        store(scales, of_x.view(torch.uint8), tile)
        return codes, scales

    def nvfp4_quantize(
        x: Any, scale: Any, *, sf_layout: int, enable_pdl: Any, nvfp4_4over6: Any
    ) -> Any:
        fake.launched("cute nvfp4_quantize")
        must(fake.sm >= 100 and nvfp4_4over6 is None and enable_pdl is not True, "recipe")
        must(x.is_contiguous() and on_16_bytes(x) and x.dtype in NARROW, "contiguous")
        must(scale.shape == (1,) and scale.dtype == torch.float32, "global_scale")
        return quantized(x, scale, sf_layout)

    def silu_and_mul(
        x: Any, scale: Any, *, sf_layout: int, enable_pdl: Any, nvfp4_4over6: Any
    ) -> Any:
        fake.launched("cute silu_and_mul_nvfp4_quantize")
        must(fake.sm >= 100 and nvfp4_4over6 is None and enable_pdl is not True, "recipe")
        must(x.is_contiguous() and on_16_bytes(x) and x.dtype in NARROW, "contiguous")
        must(scale.shape == (1,) and scale.dtype == torch.float32, "global_scale")
        gate, up = x.float().chunk(2, -1)
        return quantized(gate / (1.0 + torch.exp(-gate)) * up, scale, sf_layout)

    return SimpleNamespace(
        SF_LAYOUT_128x4=0,
        SF_LAYOUT_8x4=1,
        SF_LAYOUT_LINEAR=2,
        nvfp4_quantize_cute_dsl=nvfp4_quantize,
        silu_and_mul_nvfp4_quantize_cute_dsl=silu_and_mul,
    )


COMPILED: Final[dict[tuple[str, ...], Callable[[Fake], Any]]] = {
    ("norm",): norm,
    ("rope",): rope,
    tuple(
        f"fp4_quantization_{arch}" for arch in ("90", "100", "103", "107", "110", "120f")
    ): fp4_quantization,
}
REPLACED: Final[dict[str, Callable[[Fake], Any]]] = {
    "flashinfer.quantization.kernels:nvfp4_quantize": cute_quantizers,
    "flashinfer.cute_dsl:is_cute_dsl_available": lambda _: lambda: True,
}
