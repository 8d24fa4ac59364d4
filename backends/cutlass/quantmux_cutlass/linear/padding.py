"""Weights whose rows a TMA descriptor can read: K rounded up to 16, once, when they are prepared.

A row must begin at a multiple of 16 bytes, so an FP8 weight whose K is none cannot be read as the
checkpoint has it. It is copied into rows of R16(K), zero beyond K, and the producer writes x into
rows of the same width (``pad_k_to=16`` of the capability; groups of 128 make it R128(K)), so that
no call pads anything. Nothing of N is padded: rows of W beyond N do not exist for TMA, and scales
and bias are read one at a time. The GEMM's N is the logical one, and what it stores is [M, N].

Where K is a multiple of 16 there is nothing to do: the tensors are the checkpoint's own, and the
form is called ``canonical``, which every other backend's kernels read too. So all ranges of M share
one copy, whoever serves them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from quantmux.config.layouts import round_up
from quantmux.ops.quantized import LinearWeights
from quantmux.registry.protocol import PreparedWeights

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LinearConfig

PADDED_K16: Final = "cutlass:padded_k16"
"""Name of the form with rows of R16(K)."""

ALIGNMENT: Final = 16
"""Bytes that a TMA descriptor wants of a base and of a row stride."""


def padded_k16(
    weights: LinearWeights, config: LinearConfig, device: DeviceProfile
) -> PreparedWeights:
    """Give weights [N, R16(K)] of 8-bit elements; the checkpoint's own where that is K.

    Pure; idempotent in the sense that the same weights give the same bits. What is on another kind
    of device is moved. Data that begin at no multiple of 16 bytes are copied.

    Returns:
        The canonical tensors by their names, ``data`` with rows R16(K) apart, and a ``restore``
        that gives the checkpoint's bits back.
    """
    here = weights
    if device.is_present and weights.data.device.type != device.torch_name.partition(":")[0]:
        here = weights.to(device.torch_name)
    n, k = config.n, config.k
    padded_k = round_up(k, ALIGNMENT)
    data = aligned(here.data) if padded_k == k else _with_rows_of(here.data, padded_k)
    tensors = {**here.named(), "data": data}
    small = {name: tensor for name, tensor in tensors.items() if name != "data"}

    def restore() -> LinearWeights:
        exact = data if padded_k == k else data[:, :k].contiguous()
        return LinearWeights(data=exact, **small)

    return PreparedWeights(
        tensors=tensors,
        weight_layout="canonical" if padded_k == k else PADDED_K16,
        n=n,
        k=k,
        restore=restore,
        facts={"padded_k": padded_k},
    )


def aligned(matrix: torch.Tensor) -> torch.Tensor:
    """Give a matrix with contiguous rows from a multiple of 16 bytes on; itself if it is so."""
    if matrix.is_contiguous() and matrix.data_ptr() % ALIGNMENT == 0:
        return matrix
    return matrix.clone(memory_format=torch.contiguous_format)


def _with_rows_of(matrix: torch.Tensor, width: int) -> torch.Tensor:
    source = matrix.view(torch.uint8)  # few kernels know fp8, and a copy is about bytes
    rows, columns = source.shape
    padded = torch.zeros((rows, width), dtype=torch.uint8, device=source.device)
    padded[:, :columns].copy_(source)
    return padded.view(matrix.dtype)
