"""Where every scale and code lies, written from the layouts' table and from nothing else.

The op's reference and `ops.layouts` place scales by reshaping; here an address is computed for
every row and column at once, and what is found there is decoded by tables of this file. A mistake
that kernels and reference share by sharing code is found by whoever does not share it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.ops.spec import op_spec

if TYPE_CHECKING:
    from quantmux.ops.quantized import QuantizedTensor
    from quantmux.testing.stage import Trial

E2M1: Final = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Values of FP4 by their three low bits; the fourth is the sign."""

_HALF_STEP: Final = {"fp8_e4m3": 2.0**-4, "fp8_e5m2": 2.0**-3, "int8": 0.0, "fp4_e2m1": 2.0**-2}
"""Half the spacing of the values next to a number, relative to it."""

_LEAST_STEP: Final = {
    "fp8_e4m3": 2.0**-10,
    "fp8_e5m2": 2.0**-17,
    "int8": 0.5,
    "fp4_e2m1": 0.25,
}
"""Half the least spacing, in units of the scale."""

_LARGEST: Final = {"fp8_e4m3": 448.0, "fp8_e5m2": 57344.0, "int8": 127.0, "fp4_e2m1": 6.0}

_SLACK: Final = 1.0 + 2.0**-9
"""Roundings of scales and quotients on the way, and ties."""


def scale_addresses(layout: str, m: int, cols: int, padded_m: int, padded_cols: int) -> Any:
    """Give the element of storage that holds the scale of row r and block column c.

    Args:
        layout: Name of the scale layout; not ``scalar``.
        m: Logical rows.
        cols: Logical block columns.
        padded_m: Stored rows.
        padded_cols: Stored block columns.

    Returns:
        int64 [m, cols]: indices of elements; of **bytes** for ``packed_pow2``.
    """
    r = torch.arange(m).unsqueeze(1)
    c = torch.arange(cols).unsqueeze(0)
    aligned_m = (padded_m + 3) // 4 * 4
    tiles = (padded_cols + 3) // 4
    match layout:
        case "row_major":
            return r * padded_cols + c
        case "col_major":
            return c * padded_m + r
        case "col_major_aligned4":
            return c * aligned_m + r
        case "packed_pow2":
            return (c // 4 * aligned_m + r) * 4 + c % 4
        case "swizzled_128x4":
            return (r // 128 * tiles + c // 4) * 512 + r % 32 * 16 + r // 32 % 4 * 4 + c % 4
        case "swizzled_8x4":
            return r // 8 * (tiles * 32) + c // 4 * 32 + r % 8 * 4 + c % 4
        case _:
            raise ValueError(f"no formula for {layout}")


def stored_scales(q: QuantizedTensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the scales of a matrix [M, n] by the formulas, and all elements that hold none.

    Returns:
        fp32 [M or 1, columns], and the bytes of the rest of the storage.
    """
    m, layout = q.m, q.layout.scales
    width = q.operand.block.cols
    if layout == "scalar":
        return q.scales.reshape(1, 1).to(torch.float32), q.scales.new_empty(0).view(torch.uint8)
    padded_n = q.layout.padded_n
    cols, padded_cols = (1, 1) if width < 0 else (-(-q.n // width), -(-padded_n // width))
    rows = -(-m // q.layout.padded_m_multiple) * q.layout.padded_m_multiple
    address = scale_addresses(layout, m, cols, rows, padded_cols).to(q.scales.device)
    raw = _raw(q.scales, _scale_bytes(layout, rows, padded_cols, q.scales.element_size()))
    return _picked(raw, address, layout, q.scales.dtype)


def grouped_scales(q: QuantizedTensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the scales [T, G, S] of head groups by the formulas, and the rest of the storage."""
    t, groups, n = q.logical_shape
    cols = n // q.operand.block.cols
    rows = (t + 3) // 4 * 4
    packed = q.layout.scales == "packed_pow2"
    words = (cols + 3) // 4 if packed else cols
    each = scale_addresses(q.layout.scales, t, cols, t, cols)
    group = torch.arange(groups).reshape(1, groups, 1) * (rows * words * (4 if packed else 1))
    address = (each.reshape(t, 1, cols) + group).to(q.scales.device)
    raw = _raw(q.scales, groups * words * rows * 4)
    return _picked(raw, address, q.layout.scales, q.scales.dtype)


def codes(q: QuantizedTensor) -> torch.Tensor:
    """Give the values of the codes fp32 [M, n] (or [T, G, n]) by the tables of this file."""
    if len(q.logical_shape) == 3:
        return _decoded(q.data)
    if not q.operand.is_nvfp4:
        return _decoded(q.data[: q.m, : q.n])
    column = torch.arange(q.n, device=q.data.device)
    byte = q.data[: q.m].to(torch.int64)[:, column // 2]
    nibble = torch.where(column % 2 == 0, byte % 16, byte // 16)
    table = torch.tensor([*E2M1, *(-v for v in E2M1)], device=q.data.device)
    return table[nibble]


def placement_problem(q: QuantizedTensor, trial: Trial) -> str:
    """Say what the formulas find wrong with a result, "" when nothing.

    Every decoded element must lie as near to what was quantized as its format allows, and every
    element of the scales' storage that belongs to no block must be zero.
    """
    if ":" in q.layout.scales or not q.m:
        return ""
    scales, rest = grouped_scales(q) if q.is_grouped else stored_scales(q)
    if bool((rest != 0).any()):
        return f"{int((rest != 0).sum())} bytes of padding of {q.layout.scales} are not zero"
    wanted = _wanted(trial)
    if wanted is None:
        return ""
    spread = _spread(scales, q)
    if q.global_scale is not None:
        spread = spread * q.global_scale
    found = codes(q) * spread
    element = q.operand.element.value
    limit = _LARGEST[element] * spread.abs()
    want = wanted.clamp(-limit, limit)
    allowed = _SLACK * torch.maximum(
        want.abs() * _HALF_STEP[element], spread.abs() * _LEAST_STEP[element]
    )
    if q.operand.is_nvfp4:
        # the block scale is rounded to e4m3: the largest element may saturate by 2^-4
        allowed = allowed + spread.abs() * _LARGEST[element] * 2.0**-4
    # no finite scale, no code; where scales are subnormal, products flush
    known = torch.isfinite(spread) & torch.isfinite(wanted)
    bad = known & ~((found - want).abs() <= allowed + 2.0**-126)
    if not bool(bad.any()):
        return ""
    at = tuple(int(i) for i in bad.nonzero()[0])
    return (
        f"by the address formulas of {q.layout.scales}, {list(at)} needs "
        f"{float(want[at]):.6g} within {float(allowed[at]):.2g}, found {float(found[at]):.6g}"
    )


def _wanted(trial: Trial) -> torch.Tensor | None:
    """Give the fp32 values that were quantized; None where nothing was (relayout)."""
    config = trial.judged
    match config.op:
        case "quantize":
            x: torch.Tensor = trial.call.args[0]
            return x.to(torch.float32)
        case "relayout":
            source: QuantizedTensor = trial.call.args[0]
            values: torch.Tensor = source.dequantize()
            return values
        case _:
            spec = op_spec(config.op)
            return None if spec.values is None else spec.values(*trial.call.args, config)


def _spread(scales: torch.Tensor, q: QuantizedTensor) -> torch.Tensor:
    """Give the scale of every element."""
    width = q.operand.block.cols
    if width < 0:
        return scales.expand(*q.logical_shape[:-1], q.n)
    column = torch.arange(q.n, device=scales.device) // width
    return scales[..., column]


def _raw(scales: torch.Tensor, size: int) -> torch.Tensor:
    """Give the bytes of the scales' storage from its first element on."""
    bytes_ = torch.empty(0, dtype=torch.uint8, device=scales.device).set_(scales.untyped_storage())
    start = scales.storage_offset() * scales.element_size()
    return bytes_[start : start + size]


def _scale_bytes(layout: str, rows: int, cols: int, item: int) -> int:
    aligned = (rows + 3) // 4 * 4
    match layout:
        case "col_major_aligned4":
            return aligned * cols * 4
        case "packed_pow2":
            return aligned * ((cols + 3) // 4) * 4
        case "swizzled_128x4":
            return (rows + 127) // 128 * 128 * ((cols + 3) // 4 * 4)
        case "swizzled_8x4":
            return (rows + 7) // 8 * 8 * ((cols + 3) // 4 * 4)
        case _:
            return rows * cols * item


def _picked(
    raw: torch.Tensor, address: torch.Tensor, layout: str, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    if layout == "packed_pow2":
        exponent = raw[address].to(torch.int32)
        found = torch.where(
            exponent == 0xFF,
            torch.nan,
            torch.ldexp(torch.ones_like(exponent, dtype=torch.float64), exponent - 127),
        )
        return found.to(torch.float32), _without(raw, address)
    elements = raw.view(dtype)
    values = elements.view(torch.uint8) if dtype.itemsize == 1 else elements
    picked = values[address]
    if dtype.itemsize == 1:
        picked = picked.view(dtype)
    return picked.to(torch.float32), _without(values, address).view(torch.uint8)


def _without(values: torch.Tensor, address: torch.Tensor) -> torch.Tensor:
    used = torch.zeros(values.numel(), dtype=torch.bool, device=values.device)
    used[address.reshape(-1)] = True
    return values[~used]


def _decoded(data: torch.Tensor) -> torch.Tensor:
    """Give 8-bit floats and integers as fp32, by their bits."""
    if data.dtype == torch.int8:
        return data.to(torch.float32)
    bits = data.contiguous().view(torch.uint8).to(torch.int32)
    mantissa_bits, bias = (3, 7) if data.dtype == torch.float8_e4m3fn else (2, 15)
    exponent = (bits & 0x7F) >> mantissa_bits
    mantissa = (bits & ((1 << mantissa_bits) - 1)).to(torch.float64) / (1 << mantissa_bits)
    whole = torch.where(exponent == 0, mantissa, mantissa + 1.0)
    size = torch.ldexp(whole, exponent.clamp(min=1) - bias)
    is_nan = (bits & 0x7F) == 0x7F if mantissa_bits == 3 else exponent == 31
    size = torch.where(is_nan, torch.nan, size)
    return torch.where(bits >= 128, -size, size).to(torch.float32)
