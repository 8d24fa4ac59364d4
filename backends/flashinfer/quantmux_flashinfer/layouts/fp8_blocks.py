"""Scales of FP8 groups and blocks as FlashInfer's block-scaled GEMMs read them.

Ours: fp32 logical [M, K / 128] of x in the layout ``col_major_aligned4``, strides (1, R4(M)), pad
rows zero. Theirs: the same memory seen as [K / 128, R4(M)], contiguous, of which a slice [:, :M] is
passed. Nothing here copies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantmux.config.layouts import round_up

if TYPE_CHECKING:
    import torch


def mn_major(scales: torch.Tensor) -> torch.Tensor:
    """Give scales of x, logical [M, C] with strides (1, R4(M)), as [C, M] with strides (R4(M), 1).

    What lies behind is the buffer [C, R4(M)] with its pad rows.
    """
    return scales.T


def from_mn_major(buffer: torch.Tensor, m: int) -> torch.Tensor:
    """Give a contiguous buffer [C, R4(M)] as our scales of x, logical [M, C]; undoes `mn_buffer`.

    Raises:
        ValueError: The buffer has another width than R4(m).
    """
    columns, width = buffer.shape
    if width != round_up(m, 4) or not buffer.is_contiguous():
        raise ValueError(
            f"needs a contiguous buffer [C, {round_up(m, 4)}], found {list(buffer.shape)} "
            f"with strides {list(buffer.stride())}"
        )
    return buffer.as_strided((m, columns), (1, width))


def mn_buffer(scales: torch.Tensor) -> torch.Tensor:
    """Give the whole buffer [C, R4(M)] behind our scales of x, pad rows included.

    The storage must hold it, as every producer's does; see `quantmux.config.layouts.scale_storage`.
    """
    m, columns = scales.shape
    width = round_up(m, 4)
    return scales.as_strided((columns, width), (width, 1))
