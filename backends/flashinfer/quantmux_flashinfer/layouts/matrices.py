"""Matrices: padded with zeros, seen column by column, and where they begin.

FlashInfer's GEMMs take the weight as [K, N] with columns in one piece, which is our [N, K] with
rows in one piece, seen the other way round.
"""

from __future__ import annotations

import torch


def column_major(matrix: torch.Tensor) -> torch.Tensor:
    """Give [N, K] as [K, N], the same memory; its own inverse."""
    return matrix.T


def padded(matrix: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Give a matrix [r, c] as a contiguous [rows, columns] with zeros beyond; itself if it is so.

    8-bit floats are moved as bytes, since few kernels know them; a zero byte is zero in all.
    """
    if tuple(matrix.shape) == (rows, columns) and matrix.is_contiguous():
        return matrix
    source = matrix.view(torch.uint8) if matrix.element_size() == 1 else matrix
    made = torch.zeros((rows, columns), dtype=source.dtype, device=source.device)
    made[: source.shape[0], : source.shape[1]].copy_(source)
    return made.view(matrix.dtype)


def unpadded(matrix: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Give the first rows and columns, contiguous; the matrix itself if that is all of it."""
    if tuple(matrix.shape) == (rows, columns):
        return matrix
    source = matrix.view(torch.uint8) if matrix.element_size() == 1 else matrix
    return source[:rows, :columns].contiguous().view(matrix.dtype)


def aligned(matrix: torch.Tensor, multiple: int) -> torch.Tensor:
    """Give a contiguous tensor that begins at a multiple of so many bytes; itself if it does.

    A checkpoint's tensor may begin anywhere in a file's memory; what torch allocates begins at
    multiples of 64 bytes on a CPU and of 512 on a GPU.
    """
    if matrix.is_contiguous() and matrix.data_ptr() % multiple == 0:
        return matrix
    return matrix.clone(memory_format=torch.contiguous_format)
