"""Scales into every layout and back, on torch tensors.

The canonical form of scales is the row-major grid [R, C] of the *logical* matrix [M, n], as the
numerics give it. `place_scales` writes it into a layout with every padded extent zero, and
`canonical_scales` reads it back. The addresses are those of `quantmux.config.layouts`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from quantmux.config.layouts import (
    round_up,
    scale_grid,
    scale_shape,
    scale_storage,
    scale_strides,
)
from quantmux.errors import LayoutError
from quantmux.ops.numerics import exponent_bytes, pow2_from_bytes
from quantmux.ops.quantized import scale_dtype

if TYPE_CHECKING:
    from quantmux.config import Layout, Operand
    from quantmux.ops.quantized import QuantizedTensor


def place_scales(
    scales: torch.Tensor,
    operand: Operand,
    layout: Layout,
    m: int,
    into: torch.Tensor | None = None,
) -> torch.Tensor:
    """Give canonical scales in a layout; every byte of the padded extents is zero.

    Args:
        scales: fp32 (fp8_e4m3 for NVFP4) [R, C], one per block of the logical matrix.
        operand: What the numbers mean.
        layout: How they shall lie.
        m: Logical rows.
        into: A scale tensor of that layout to write into; allocated when None.

    Returns:
        The scale tensor in the layout's shape and strides.

    Raises:
        LayoutError: The layout belongs to a plugin, or the storage of ``into`` ends before the
            layout's pad rows.
    """
    require_own(layout)
    placed = _placed(scales, operand, layout, m)
    shape, strides = scale_shape(operand, layout, m), scale_strides(operand, layout, m)
    size = scale_storage(operand, layout, m)
    if into is None:
        into = torch.empty(size, dtype=scale_dtype(operand, layout), device=scales.device)
        into = into.as_strided(shape, strides)
    storage = flat_storage(into, size)
    as_bits(storage).zero_()
    as_bits(storage).as_strided(shape, strides).copy_(as_bits(placed))
    return into


def canonical_scales(q: QuantizedTensor) -> torch.Tensor:
    """Give the scales of a quantized tensor as the row-major logical grid.

    Returns:
        fp32 (fp8_e4m3 for NVFP4) [R, C], or [T, G, C] per head group; contiguous.

    Raises:
        LayoutError: The layout belongs to a plugin.
    """
    require_own(q.layout)
    operand, layout = q.operand, q.layout
    if q.is_grouped:
        cols = q.n // operand.block.cols
        scales = unpack_pow2(q.scales, cols) if layout.scales == "packed_pow2" else q.scales
        return scales.contiguous()
    if layout.scales == "scalar":
        return q.scales.reshape(1, 1)
    rows, cols = operand.block.grid(q.m, q.n)
    match layout.scales:
        case "packed_pow2":
            grid = unpack_pow2(q.scales, cols)
        case "swizzled_128x4":
            grid = unswizzle_128x4(as_bits(q.scales)).view(q.scales.dtype)
        case "swizzled_8x4":
            grid = unswizzle_8x4(as_bits(q.scales)).view(q.scales.dtype)
        case _:
            grid = q.scales
    return as_bits(grid)[:rows, :cols].contiguous().view(grid.dtype)


def pack_pow2(scales: torch.Tensor) -> torch.Tensor:
    """Pack power-of-two scales fp32 [..., C] into int32 [..., ceil(C / 4)], the first byte low."""
    exponents = exponent_bytes(scales)
    exponents = functional.pad(exponents, (0, -exponents.shape[-1] % 4)).to(torch.int32)
    first, second, third, fourth = (exponents[..., i::4] for i in range(4))
    return first | (second << 8) | (third << 16) | (fourth << 24)


def unpack_pow2(words: torch.Tensor, cols: int) -> torch.Tensor:
    """Give the fp32 scales [..., cols] of packed words int32 [..., ceil(cols / 4)]."""
    parts = [(words >> shift) & 0xFF for shift in (0, 8, 16, 24)]
    exponents = torch.stack(parts, dim=-1).flatten(-2)
    return pow2_from_bytes(exponents[..., :cols])


def swizzle_128x4(grid: torch.Tensor) -> torch.Tensor:
    """Reorder a row-major grid [R128, C4] into 128x4 tiles; the shape stays."""
    rows, cols = grid.shape
    tiles = grid.reshape(rows // 128, 4, 32, cols // 4, 4).permute(0, 3, 2, 1, 4)
    return tiles.reshape(rows, cols)


def unswizzle_128x4(swizzled: torch.Tensor) -> torch.Tensor:
    """Undo `swizzle_128x4`."""
    rows, cols = swizzled.shape
    tiles = swizzled.reshape(rows // 128, cols // 4, 32, 4, 4).permute(0, 3, 2, 1, 4)
    return tiles.reshape(rows, cols)


def swizzle_8x4(grid: torch.Tensor) -> torch.Tensor:
    """Reorder a row-major grid [R8, C4] into 8x4 tiles; the shape stays."""
    rows, cols = grid.shape
    return grid.reshape(rows // 8, 8, cols // 4, 4).permute(0, 2, 1, 3).reshape(rows, cols)


def unswizzle_8x4(swizzled: torch.Tensor) -> torch.Tensor:
    """Undo `swizzle_8x4`."""
    rows, cols = swizzled.shape
    return swizzled.reshape(rows // 8, cols // 4, 8, 4).permute(0, 2, 1, 3).reshape(rows, cols)


def place_grouped_scales(
    scales: torch.Tensor, layout: Layout, into: torch.Tensor | None = None
) -> torch.Tensor:
    """Give the scales of head groups in the layout that a batched GEMM reads by TMA.

    Args:
        scales: fp32 [G, T, S] powers of two, contiguous.
        layout: ``col_major_aligned4`` or ``packed_pow2``.
        into: A scale tensor to write into; allocated when None.

    Returns:
        Logical [T, G, S] fp32, or [T, G, ceil(S / 4)] int32, with strides (1, S · R4(T), R4(T));
        the pad rows T … R4(T) are zero.
    """
    columns = pack_pow2(scales) if layout.scales == "packed_pow2" else scales
    groups, t, cols = columns.shape
    rows = round_up(t, 4)
    if into is None:
        into = empty_grouped_scales(groups, t, cols, columns.dtype, columns.device)
    storage = flat_storage(into, groups * cols * rows)
    storage.zero_()
    storage.view(groups, cols, rows)[:, :, :t].copy_(columns.transpose(1, 2))
    return into


def empty_grouped_scales(
    groups: int, t: int, cols: int, dtype: torch.dtype, device: torch.device | str
) -> torch.Tensor:
    """Allocate uninitialised grouped scales, logical [T, G, cols]; see `place_grouped_scales`."""
    rows = round_up(t, 4)
    storage = torch.empty(groups * cols * rows, dtype=dtype, device=device)
    return storage.as_strided((t, groups, cols), (1, cols * rows, rows))


def require_own(layout: Layout) -> None:
    """Refuse a layout that only a plugin knows.

    Raises:
        LayoutError: The layout is spelled ``backend:name``.
    """
    if ":" in layout.scales:
        raise LayoutError(
            f"scale layout {layout.scales} is known to its plugin only",
            hint="relayout to one of quantmux's own layouts first",
            code="layout_undefined",
        )


def flat_storage(scales: torch.Tensor, size: int) -> torch.Tensor:
    """Give the storage [size] behind a scale tensor, its pad rows included.

    Raises:
        LayoutError: The storage is smaller.
    """
    offset = scales.storage_offset()
    held = scales.untyped_storage().nbytes() // scales.element_size() - offset
    if held < size:
        raise LayoutError(
            "the storage of scales ends before their pad rows",
            facts={"need": f"{size} elements", "found": f"{held} elements"},
            hint="allocate it with quantmux.ops.quantized.empty_quantized",
        )
    return scales.as_strided((size,), (1,), offset)


def as_bits(tensor: torch.Tensor) -> torch.Tensor:
    """Give an 8-bit float tensor as uint8, others as they are: few kernels know fp8."""
    is_fp8 = tensor.dtype in (torch.float8_e4m3fn, torch.float8_e5m2)
    return tensor.view(torch.uint8) if is_fp8 else tensor


def _placed(scales: torch.Tensor, operand: Operand, layout: Layout, m: int) -> torch.Tensor:
    """Give the scales in the layout's shape, without regard to strides."""
    if layout.scales == "scalar":
        return scales.reshape(1)
    rows, cols = scale_grid(operand, layout, m)
    grid = as_bits(scales)
    if layout.scales.startswith("swizzled"):
        rows, cols = scale_shape(operand, layout, m)
    grid = functional.pad(grid, (0, cols - grid.shape[1], 0, rows - grid.shape[0]))
    match layout.scales:
        case "packed_pow2":
            return pack_pow2(grid)
        case "swizzled_128x4":
            return swizzle_128x4(grid)
        case "swizzled_8x4":
            return swizzle_8x4(grid)
        case _:
            return grid
