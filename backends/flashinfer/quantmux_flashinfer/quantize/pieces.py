"""An x as FlashInfer's quantizers read it: in one piece, from an aligned address on.

They take it as an address and two extents. Rows that lie apart are refused by some and misread by
others; an address off their vectors is an error that loses the CUDA context; and a matrix of one
row whose row stride is 1 is taken by ``fp4_quantize`` for a column-major one, and transposed.
"""

from __future__ import annotations

from typing import Final

import torch

ALIGNMENT: Final = 32
"""Bytes: the widest vector that any of them loads."""


def in_one_piece(x: torch.Tensor) -> torch.Tensor:
    """Give x [M, n] with strides (n, 1) from a multiple of 32 bytes on; a copy where it is not.

    For the odd case: a caller asks ``x.stride() != (n, 1) or x.data_ptr() % ALIGNMENT`` before.
    """
    if x.is_contiguous() and not x.data_ptr() % ALIGNMENT:
        return x.as_strided(x.shape, (x.shape[1], 1))
    copy = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    return copy.copy_(x)
