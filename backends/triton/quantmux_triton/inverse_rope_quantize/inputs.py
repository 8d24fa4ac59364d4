"""The tensors that a caller of inverse_rope_quantize passes: checked without reading one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from quantmux.errors import DtypeError, ShapeError
from quantmux.ops.checks import check_device, check_dtype

if TYPE_CHECKING:
    from quantmux.config import InverseRopeQuantizeConfig


def are_plainly_right(
    o: torch.Tensor,
    positions: torch.Tensor,
    cache: torch.Tensor,
    config: InverseRopeQuantizeConfig,
    dtype: torch.dtype,
) -> bool:
    """Tell quickly what `check_inputs` tells at length; ``dtype`` is the config's."""
    shape, rows, table = o.shape, positions.shape, cache.shape
    return (
        len(shape) == 3
        and shape[1] == config.heads
        and shape[2] == config.head_dim
        and o.dtype is dtype
        and len(rows) == 1
        and rows[0] == shape[0]
        and positions.dtype is torch.int64
        and len(table) == 2
        and table[1] == config.rope_dim
        and cache.dtype is torch.float32
        and positions.device == o.device == cache.device
    )


def check_inputs(
    o: torch.Tensor,
    positions: torch.Tensor,
    cache: torch.Tensor,
    config: InverseRopeQuantizeConfig,
) -> None:
    """Check shapes, dtypes and devices.

    Args:
        o: [T, heads, head_dim] in ``config.in_dtype``.
        positions: int64 [T].
        cache: fp32 [P, rope_dim].
        config: What the kernel was bound for.

    Raises:
        ShapeError: A shape disagrees with the config.
        DtypeError: A dtype disagrees with the config.
        InputError: Devices differ.
    """
    if o.ndim != 3 or o.shape[1] != config.heads or o.shape[2] != config.head_dim:
        raise ShapeError(
            "o has the wrong shape",
            facts={"need": f"[T, {config.heads}, {config.head_dim}]", "found": list(o.shape)},
        )
    check_dtype(o, config.in_dtype, "o")
    if positions.ndim != 1 or positions.shape[0] != o.shape[0]:
        raise ShapeError(
            "positions has the wrong shape",
            facts={"need": [o.shape[0]], "found": list(positions.shape)},
        )
    if positions.dtype != torch.int64:
        raise DtypeError(f"positions needs int64, found {positions.dtype}")
    if cache.ndim != 2 or cache.shape[1] != config.rope_dim:
        raise ShapeError(
            "cos_sin_cache has the wrong shape",
            facts={"need": f"[P, {config.rope_dim}]", "found": list(cache.shape)},
        )
    if cache.dtype != torch.float32:
        raise DtypeError(f"cos_sin_cache needs fp32, found {cache.dtype}")
    check_device(positions, "positions", o.device)
    check_device(cache, "cos_sin_cache", o.device)
