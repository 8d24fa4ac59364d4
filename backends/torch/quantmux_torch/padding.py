"""Weights padded once, when they are prepared, and given back bit for bit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from quantmux.ops.quantized import LinearWeights
from quantmux.registry.protocol import PreparedWeights

if TYPE_CHECKING:
    from collections.abc import Mapping

_CANONICAL_BESIDE_DATA = ("scales", "global_scale", "bias", "input_scale", "input_global_scale")


def padded_matrix(matrix: torch.Tensor, rows: int, cols: int) -> torch.Tensor:
    """Give a matrix [r, c] as a contiguous [rows, cols], zero beyond; shared if it already is."""
    if tuple(matrix.shape) == (rows, cols) and matrix.is_contiguous():
        return matrix
    # few kernels know fp8, and a copy is about bytes
    source = matrix.view(torch.uint8) if matrix.element_size() == 1 else matrix
    padded = torch.zeros((rows, cols), dtype=source.dtype, device=source.device)
    padded[: source.shape[0], : source.shape[1]].copy_(source)
    return padded.view(matrix.dtype)


def prepared_with(
    weights: LinearWeights,
    data: torch.Tensor,
    extra: Mapping[str, torch.Tensor],
    *,
    weight_layout: str,
    n: int,
    k: int,
) -> PreparedWeights:
    """Give prepared weights of padded codes, beside every small canonical tensor.

    The canonical tensors keep their names, but ``data`` is the padded one; ``extra`` is what the
    kernel reads. ``restore`` holds on to these tensors only, so that the source may be freed.

    Args:
        weights: Canonical weights.
        data: Codes [padded N, padded K], from `padded_matrix`.
        extra: Named tensors in the kernel's form.
        weight_layout: Name of the form.
        n: Logical N.
        k: Logical K.
    """
    small = {
        name: tensor for name, tensor in weights.named().items() if name in _CANONICAL_BESIDE_DATA
    }

    def restore() -> LinearWeights:
        exact = data if tuple(data.shape) == (n, k) else data[:n, :k].contiguous()
        return LinearWeights(data=exact, **small)

    return PreparedWeights(
        tensors={"data": data, **small, **extra},
        weight_layout=weight_layout,
        n=n,
        k=k,
        restore=restore,
        facts={"padded_n": data.shape[0], "padded_k": data.shape[1]},
    )


def channel_scales(scales: torch.Tensor, n: int, padded_n: int) -> torch.Tensor:
    """Give weight scales ([1] or [n, 1]) as fp32 [padded_n, 1], zero beyond n; shared if so."""
    return padded_matrix(scales.reshape(-1, 1).expand(n, 1), padded_n, 1)


def shared(weights: LinearWeights, n: int, k: int) -> PreparedWeights:
    """Give canonical weights as prepared ones: the same tensors, by their own names."""
    return PreparedWeights(
        tensors=weights.named(),
        weight_layout="canonical",
        n=n,
        k=k,
        restore=lambda: weights,
    )
