"""Inputs among bytes that nobody may read: NaN before and behind."""

from __future__ import annotations

from dataclasses import replace
from typing import overload

import torch

from quantmux.ops.poison import GUARD_BYTES, POISON
from quantmux.ops.quantized import QuantizedTensor


@overload
def fenced(value: torch.Tensor) -> torch.Tensor: ...
@overload
def fenced(value: QuantizedTensor) -> QuantizedTensor: ...
def fenced(value: torch.Tensor | QuantizedTensor) -> torch.Tensor | QuantizedTensor:
    """Give a copy of an input, of the same shape and strides, with 0xFF on either side.

    A kernel that reads beyond the last row or column finds NaN there (-1 for integers), and not
    whatever an earlier test left in the allocator.
    """
    if isinstance(value, QuantizedTensor):
        return replace(value, data=_fenced(value.data), scales=_fenced(value.scales))
    return _fenced(value)


def _fenced(tensor: torch.Tensor) -> torch.Tensor:
    storage, offset = tensor.untyped_storage(), tensor.storage_offset()
    first = offset * tensor.element_size()
    held = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)[first:]
    size = held.numel()
    arena = torch.full((size + 2 * GUARD_BYTES,), POISON, dtype=torch.uint8, device=tensor.device)
    arena[GUARD_BYTES : GUARD_BYTES + size] = held
    whole = arena[GUARD_BYTES : GUARD_BYTES + size].view(tensor.dtype)
    return whole.as_strided(tensor.shape, tensor.stride(), whole.storage_offset())
