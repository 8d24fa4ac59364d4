"""FP8 weights and the scales of their blocks as FlashInfer's FP8 GEMMs read them.

Scales are dequant multipliers on both sides, so only places differ:

* ``bmm_fp8`` takes a batch of column-major matrices [1, K, N]: the memory of our codes [N, K];
* low-latency kernels take panels of 128 columns, [K / 128, N, 128];
* ``gemm_fp8_nt_groupwise`` takes scales of blocks as we have them, [N / 128, K / 128], for "K",
  and transposed, contiguous, for "MN".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import torch

PANEL: Final = 128
"""Columns of a panel."""


def column_major_batch(codes: torch.Tensor) -> torch.Tensor:
    """Give codes [N, K] as a batch of one column-major matrix, [1, K, N]; the same memory."""
    return codes.T.unsqueeze(0)


def from_column_major_batch(batch: torch.Tensor) -> torch.Tensor:
    """Give a batch of one column-major matrix [1, K, N] as codes [N, K]; the same memory."""
    return batch.squeeze(0).T


def panels(codes: torch.Tensor) -> torch.Tensor:
    """Give codes [N, K] as contiguous panels [K / 128, N, 128]; K is a multiple of 128."""
    n, k = codes.shape
    return codes.view(n, k // PANEL, PANEL).transpose(0, 1).contiguous()


def from_panels(stored: torch.Tensor) -> torch.Tensor:
    """Give panels [K / 128, N, 128] as contiguous codes [N, K]."""
    count, n, columns = stored.shape
    return stored.transpose(0, 1).reshape(n, count * columns)


def transposed(scales: torch.Tensor) -> torch.Tensor:
    """Give scales of blocks [A, B] as a contiguous [B, A]; its own inverse."""
    return scales.T.contiguous()
