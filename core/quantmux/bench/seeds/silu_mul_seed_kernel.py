"""SiLU·mul and FP8 quantization in groups as vllm#32996 has it, in our own writing.

Of that pull request only the semantics are here: one program for each token and group, one element
per thread, the product in fp32 from the load to the code, scales row-major fp32, a floor under the
*scale* and not under amax.
"""

# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201 - device code: pointers have no Python type

import triton
import triton.language as tl


@triton.jit
def silu_mul_seed_kernel(
    x, codes, scales, n,
    G: tl.constexpr, FMAX: tl.constexpr, LEAST: tl.constexpr,
):  # fmt: skip
    """Quantize one group of one token: grid (M, n / G), G / 32 warps.

    Args:
        x: bf16 or fp16 [M, 2n] = [gate | up], contiguous.
        codes: fp8_e4m3 [M, n], contiguous; fp32 to see the quotients before their one rounding.
        scales: fp32 [M, n / G], contiguous.
        n: Columns of the product.
        G: Columns of a group, a power of two that divides n.
        FMAX: Largest magnitude of a code.
        LEAST: Least scale.
    """
    token = tl.program_id(0).to(tl.int64)  # 2^31 elements are reached at 75k tokens of 14336
    group = tl.program_id(1)
    column = group * G + tl.arange(0, G)
    row = x + token * (2 * n)
    gate = tl.load(row + column).to(tl.float32)
    up = tl.load(row + n + column).to(tl.float32)
    value = gate * (1.0 / (1.0 + tl.exp(-gate))) * up

    amax = tl.max(tl.abs(value), axis=0)
    scale = tl.maximum(tl.div_rn(amax, FMAX), LEAST)
    code = tl.div_rn(value, tl.zeros([G], tl.float32) + scale)
    code = tl.minimum(tl.maximum(code, -FMAX), FMAX)
    tl.store(codes + token * n + column, code.to(codes.dtype.element_ty))
    tl.store(scales + token * (n // G) + group, scale)
