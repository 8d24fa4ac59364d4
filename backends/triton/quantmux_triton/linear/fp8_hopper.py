"""The host's side of `fp8_hopper_kernel`: descriptors that say how a box lies in shared memory."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

import torch
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

if TYPE_CHECKING:
    from quantmux_triton.linear.fp8_variant import Variant

_GL_DTYPES: Final = {
    torch.bfloat16: gl.bfloat16,
    torch.float16: gl.float16,
    torch.float32: gl.float32,
    torch.float8_e4m3fn: gl.float8e4nv,
    torch.int8: gl.int8,
}

_FAST, _EXACT, _BLOCK = 0, 1, 2

_Y_BITS: Final = {torch.float32: 32, torch.bfloat16: 16, torch.float16: 15}
"""A number for each dtype: Gluon passes no dtypes to the functions of divided warps."""


def descriptor(base: torch.Tensor, shape: list[int], row: int, box: list[int]) -> Any:
    """Give a TMA descriptor of a matrix whose rows lie ``row`` elements apart."""
    return TensorDescriptor(base, shape, [row, 1], box, _layout(base.dtype, *box))


def constexprs(variant: Variant) -> dict[str, Any]:
    """Give what is fixed at compile time beyond what every form knows."""
    tile, numbers = variant.tile, variant.numbers
    first = tile.block_n - tile.second
    mode = _EXACT if numbers.promote else _FAST
    return {
        "STAGES": tile.stages,
        "WIDTH0": first,
        "WIDTH1": tile.second,
        "MODE": _BLOCK if numbers.is_block else mode,
        "PER_TOKEN": numbers.per_token,
        "PER_CHANNEL": numbers.per_channel,
        "STORE_TMA": variant.store_tma,
        "SUM_BITS": 0 if numbers.element == torch.int8 else 32,
        "Y_BITS": _Y_BITS[numbers.out],
        "BOXES": tile.boxes,
        "Y_LAYOUT": _layout(numbers.out, 64, 64),
    }


@cache
def _layout(dtype: torch.dtype, rows: int, cols: int) -> Any:
    return gl.NVMMASharedLayout.get_default_for([rows, cols], _GL_DTYPES[dtype])
