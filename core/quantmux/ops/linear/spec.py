"""The specification of ``linear``: how its output lies in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from quantmux.config.layouts import round_up
from quantmux.ops.quantized import DTYPES

if TYPE_CHECKING:
    from quantmux.config import LinearConfig


def empty_output(
    m: int,
    n: int,
    dtype: torch.dtype,
    device: torch.device | str,
    row_multiple: int = 8,
    contiguous: bool = False,
) -> torch.Tensor:
    """Allocate an uninitialised output [m, n].

    Args:
        m: Rows.
        n: Logical columns.
        dtype: Of the output.
        device: Of the output.
        row_multiple: Rows lie this multiple of elements apart when n is not one.
        contiguous: Ask for contiguous rows whatever n is.

    Returns:
        [m, n]: contiguous when n is a multiple of ``row_multiple`` or ``contiguous`` asks for it,
        else a view with row stride ``round_up(n, row_multiple)``; the gap belongs to nobody.
    """
    if contiguous or n % row_multiple == 0:
        return torch.empty((m, n), dtype=dtype, device=device)
    return torch.empty((m, round_up(n, row_multiple)), dtype=dtype, device=device)[:, :n]


def fake_linear(config: LinearConfig, m: int) -> torch.Tensor:
    """Give an output of the right shape, strides and dtype on the meta device."""
    dtype = DTYPES[config.out_dtype]
    return empty_output(m, config.n, dtype, "meta", contiguous=config.contiguous_output)
