"""The one definition of the quantization arithmetic, on fp32 tensors, to the bit.

Every operation written here rounds to nearest even in fp32. Backends must give the same codes and
scales; each op's README says the same in mathematics. Scales are dequant multipliers.

Divisors are tensors on the data's device, never Python numbers: PyTorch's CUDA division by a host
scalar multiplies by the reciprocal, which rounds differently.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch.nn import functional

from quantmux.config.formats import NVFP4_GLOBAL_DENOMINATOR
from quantmux.config.operands import FULL
from quantmux.ops.quantized import DATA_DTYPES

if TYPE_CHECKING:
    from quantmux.config import Block, Operand

_MAGNITUDE: Final = 0x7FFFFFFF
_MANTISSA: Final = 0x007FFFFF
_INFINITY: Final = 0x7F800000
_TWO_TO_MINUS_127: Final = 0x00400000
_MAX_EXPONENT_BYTE: Final = 254
_NAN_BYTE: Final = 255
_NAN_CODE: Final = 0x7F  # a NaN of fp8_e4m3 and of fp8_e5m2 alike

E4M3_MAX: Final = 448.0
E2M1_MAX: Final = 6.0
NVFP4_AMAX_FLOOR: Final = 2.0**-60
"""Least amax that the dynamic global scale of NVFP4 is computed from."""

NVFP4_BLOCK: Final = 16
E2M1_VALUES: Final = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Magnitudes of the eight unsigned E2M1 codes."""


def block_amax(values: torch.Tensor, block: Block) -> torch.Tensor:
    """Give the largest magnitude of every block, by integer maximum of the bits of ``|x|``.

    The bits order NaN above Inf above every finite number, so a non-finite value is never lost.

    Args:
        values: fp32 [M, n].
        block: Extents of a block; blocks at the edges may be partial.

    Returns:
        fp32 [R, C], the grid of blocks; 0 where a block has no element (M = 0, per tensor).
    """
    m, n = values.shape
    rows, cols = block.grid(m, n)
    r = max(m, 1) if block.rows == FULL else block.rows
    c = n if block.cols == FULL else block.cols
    bits = values.contiguous().view(torch.int32) & _MAGNITUDE
    bits = functional.pad(bits, (0, cols * c - n, 0, rows * r - m))
    return bits.view(rows, r, cols, c).amax(dim=(1, 3)).view(torch.float32)


def finite_amax(values: torch.Tensor) -> torch.Tensor:
    """Give the largest finite magnitude of an fp32 tensor as fp32 [1]; 0 when there is none."""
    bits = values.contiguous().view(torch.int32) & _MAGNITUDE
    bits = torch.where(bits < _INFINITY, bits, 0).reshape(-1)
    bits = functional.pad(bits, (0, 1))  # so that an empty tensor has a maximum
    return bits.amax().view(torch.float32).reshape(1)


def scale_from_amax(amax: torch.Tensor, operand: Operand) -> torch.Tensor:
    """Give the scales of fp8 and int8 blocks: ``RN(max(min(amax, scale_ub), eps) / fmax)``.

    With ``scale_rounding="pow2"`` they are rounded up to powers of two. A block whose amax is NaN
    or Inf gets NaN.

    Args:
        amax: fp32, any shape.
        operand: fp8 or int8.

    Returns:
        fp32 of the same shape.
    """
    bounded = amax
    if operand.scale_ub is not None:
        bounded = torch.minimum(bounded, _constant(operand.scale_ub, amax))
    bounded = torch.maximum(bounded, _constant(operand.eps, amax))
    scale = bounded / _constant(operand.max_value, amax)
    if operand.scale_rounding == "pow2":
        scale = round_up_to_pow2(scale)
    return torch.where(torch.isfinite(amax), scale, torch.nan)


def round_up_to_pow2(scale: torch.Tensor) -> torch.Tensor:
    """Give the least power of two that is not below the scale, from 2^-127 to 2^127; NaN stays.

    By integer bits: the exponent field, plus one if the mantissa is not 0. log2 and ceil in fp32
    are wrong next to powers of two. 2^-127, the least UE8M0 value, is subnormal in fp32.

    Args:
        scale: Non-negative fp32, any shape.
    """
    bits = scale.contiguous().view(torch.int32)
    exponent = (bits >> 23) + ((bits & _MANTISSA) != 0).to(torch.int32)
    exponent = torch.where(bits <= _TWO_TO_MINUS_127, 0, exponent).clamp(max=_MAX_EXPONENT_BYTE)
    rounded = torch.where(exponent == 0, _TWO_TO_MINUS_127, exponent << 23).view(torch.float32)
    return torch.where(torch.isnan(scale), torch.nan, rounded)


def exponent_bytes(scale: torch.Tensor) -> torch.Tensor:
    """Give the UE8M0 byte of power-of-two scales: b means 2^(b - 127); NaN is 0xFF, 0 is 0.

    Args:
        scale: fp32 powers of two, zeros (of padding) or NaN, any shape.

    Returns:
        uint8 of the same shape.
    """
    bits = scale.contiguous().view(torch.int32)
    return torch.where(torch.isnan(scale), _NAN_BYTE, (bits >> 23) & 0xFF).to(torch.uint8)


def pow2_from_bytes(exponents: torch.Tensor) -> torch.Tensor:
    """Give the fp32 values of UE8M0 bytes (uint8, any shape)."""
    wide = exponents.to(torch.int32)
    bits = torch.where(wide == 0, _TWO_TO_MINUS_127, wide << 23).view(torch.float32)
    return torch.where(wide == _NAN_BYTE, torch.nan, bits)


def expand_blocks(scales: torch.Tensor, block: Block, m: int, n: int) -> torch.Tensor:
    """Give the scale of every element, [m, n], from one scale per block, [R, C]."""
    rows = scales.expand(m, -1) if block.rows == FULL else _repeat(scales, block.rows, 0, m)
    return rows.expand(-1, n) if block.cols == FULL else _repeat(rows, block.cols, 1, n)


def encode(values: torch.Tensor, scale: torch.Tensor, operand: Operand) -> torch.Tensor:
    """Give the fp8 or int8 codes ``sat_rne(RN(x / s))``.

    fp8: a NaN quotient gives the NaN code, ±Inf saturates. int8 has no NaN: its code is 0.

    Args:
        values: fp32 [M, n].
        scale: fp32, broadcastable to [M, n].
        operand: fp8 or int8.

    Returns:
        [M, n] in the operand's data dtype.
    """
    quotient = values / scale
    if operand.element == "int8":
        whole = torch.round(quotient).clamp(-operand.max_value, operand.max_value)
        return torch.nan_to_num(whole, nan=0.0).to(torch.int8)
    return saturating_cast(quotient, DATA_DTYPES[operand.element])


def saturating_cast(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Give the values in an fp8 dtype: nearest even, beyond the range saturated, NaN as 0x7F.

    Some releases of torch turn what lies beyond the range into NaN, so it is clamped before. The
    sign of a NaN that comes out of arithmetic differs between processors (x86 gives -NaN, GPUs
    +NaN, seen on an H200), so every NaN gets the one code.
    """
    limit = torch.finfo(dtype).max
    codes = values.clamp(-limit, limit).to(dtype).view(torch.uint8)
    return torch.where(torch.isnan(values), _NAN_CODE, codes).view(dtype)


def nvfp4_global_scale(values: torch.Tensor) -> torch.Tensor:
    """Give the dynamic global multiplier of NVFP4: ``g = RN(max(amax, 2^-60) / 2688)``, fp32 [1].

    amax is over the *finite* elements, so that a NaN or Inf spoils its own block of 16 and no
    other. g = 1 when that amax is 0.

    Args:
        values: fp32, any shape.
    """
    amax = finite_amax(values)
    floored = torch.maximum(amax, _constant(NVFP4_AMAX_FLOOR, amax))
    g = floored / _constant(NVFP4_GLOBAL_DENOMINATOR, amax)
    return torch.where(amax == 0, 1.0, g)


def nvfp4_block_scales(amax: torch.Tensor, global_scale: torch.Tensor) -> torch.Tensor:
    """Give the block scales of NVFP4: ``s = e4m3(RN(RN(G · amax) / 6))`` with ``G = RN(1 / g)``.

    A block whose amax is NaN or Inf gets scale NaN (0x7F).

    Args:
        amax: fp32 [M, C].
        global_scale: fp32 [1], the multiplier g.

    Returns:
        fp8_e4m3 [M, C].
    """
    quotient = (_inverse(global_scale) * amax) / _constant(E2M1_MAX, amax)
    quotient = torch.where(torch.isfinite(amax), quotient, torch.nan)
    return saturating_cast(quotient, torch.float8_e4m3fn)


def encode_nvfp4(
    values: torch.Tensor, scales: torch.Tensor, global_scale: torch.Tensor
) -> torch.Tensor:
    """Give the E2M1 codes ``q = e2m1(RN(x · RN(G / s)))``; 0 where s is 0 or NaN.

    Args:
        values: fp32 [M, n].
        scales: fp8_e4m3 [M, ceil(n / 16)].
        global_scale: fp32 [1], the multiplier g.

    Returns:
        uint8 [M, n], one code in 0…15 each; see `pack_fp4`.
    """
    n = values.shape[1]
    wide = scales.to(torch.float32)
    usable = wide > 0
    multiplier = _inverse(global_scale) / torch.where(usable, wide, 1.0)
    codes = encode_e2m1(values * _repeat(multiplier, NVFP4_BLOCK, 1, n))
    return torch.where(_repeat(usable, NVFP4_BLOCK, 1, n), codes, 0).to(torch.uint8)


def encode_e2m1(values: torch.Tensor) -> torch.Tensor:
    """Give the E2M1 codes of fp32 values: nearest even, saturated at ±6, sign in bit 3.

    Ties go to the even code: 0.25 → 0, 0.75 → 1, 1.25 → 1, 1.75 → 2, 2.5 → 2, 3.5 → 4, 5 → 4.
    NaN gives code 0 (E2M1 has none).

    Returns:
        uint8 of the same shape, one code in 0…15 each.
    """
    magnitude = values.abs()
    code = torch.zeros(values.shape, dtype=torch.uint8, device=values.device)
    for threshold in (0.25, 1.25, 2.5, 5.0):
        code += magnitude > threshold
    for threshold in (0.75, 1.75, 3.5):
        code += magnitude >= threshold
    signed = code | (torch.signbit(values).to(torch.uint8) << 3)
    return torch.where(torch.isnan(values), 0, signed).to(torch.uint8)


def decode_e2m1(codes: torch.Tensor) -> torch.Tensor:
    """Give the fp32 values of E2M1 codes (uint8 0…15, any shape)."""
    table = torch.tensor(
        [*E2M1_VALUES, *(-v for v in E2M1_VALUES)], dtype=torch.float32, device=codes.device
    )
    return table[codes.long()]


def pack_fp4(codes: torch.Tensor) -> torch.Tensor:
    """Pack codes uint8 [M, n], n even, into bytes [M, n/2]: the even column is the low nibble."""
    return codes[:, 0::2] | (codes[:, 1::2] << 4)


def unpack_fp4(packed: torch.Tensor) -> torch.Tensor:
    """Give the codes uint8 [M, n] of bytes [M, n/2]."""
    return torch.stack((packed & 0xF, packed >> 4), dim=-1).flatten(-2)


def round_once(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Round fp64 to fp32, bf16 or fp16 with one rounding to nearest even.

    torch converts fp64 to 16 bit by way of fp32, which rounds twice. Rounding to odd at fp32
    keeps the sticky bit that the second rounding needs.
    """
    nearest = values.to(torch.float32)
    if dtype == torch.float32:
        return nearest
    back = nearest.to(torch.float64)
    bits = nearest.view(torch.int32)
    step = torch.where(values.abs() > back.abs(), 1, -1)
    odd = torch.where((back != values) & ((bits & 1) == 0), bits + step, bits)
    odd = torch.where(torch.isfinite(nearest), odd, bits).to(torch.int32)
    return odd.view(torch.float32).to(dtype)


def _inverse(global_scale: torch.Tensor) -> torch.Tensor:
    g = global_scale.reshape(())
    return _constant(1.0, g) / g


def _constant(value: float, like: torch.Tensor) -> torch.Tensor:
    return torch.full((), value, dtype=torch.float32, device=like.device)


def _repeat(scales: torch.Tensor, times: int, dim: int, extent: int) -> torch.Tensor:
    return scales.repeat_interleave(times, dim=dim).narrow(dim, 0, extent)
