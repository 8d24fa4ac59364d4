"""Where scales lie: addresses written from DESIGN §5."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from quantmux.ops.quantized import QuantizedTensor


def zero(tensor: torch.Tensor) -> None:
    """Zero every byte; not every operation knows fp8."""
    bits = tensor.view(torch.uint8) if tensor.element_size() == 1 else tensor
    bits.zero_()


def flat(tensor: torch.Tensor) -> torch.Tensor:
    """Give a contiguous scale tensor as one row."""
    return tensor.as_strided((tensor.numel(),), (1,))


def column_storage(out: QuantizedTensor) -> torch.Tensor:
    """Give column-major scales as [columns, stored rows], the pad rows included."""
    rows, cols = out.scales.shape
    stored = rows if out.layout.scales == "col_major" else -(-rows // 4) * 4
    return out.scales.as_strided((cols, stored), (stored, 1))


def scale_places(layout: str, rows: int, cols: int, padded_n: int) -> torch.Tensor:
    """Give the byte of the scale of every row and block column of NVFP4, int64 [rows, cols]."""
    m, k = (torch.arange(size, device="cpu") for size in (rows, cols))
    m, k = m.unsqueeze(1), k.unsqueeze(0)
    stored = padded_n // 16
    tiles = -(-stored // 4)
    if layout == "swizzled_128x4":
        tile = (m // 128) * tiles + k // 4
        return tile * 512 + (m % 32) * 16 + (m // 32 % 4) * 4 + k % 4
    if layout == "swizzled_8x4":
        return (m // 8) * tiles * 32 + (k // 4) * 32 + (m % 8) * 4 + k % 4
    return m * stored + k
