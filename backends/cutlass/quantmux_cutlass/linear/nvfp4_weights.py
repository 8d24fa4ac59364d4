"""NVFP4 weights as the block-scaled tensor core reads them: whole TMA rows, tiles of scales.

* Codes [N, R32(K) / 2]: a row must begin at a multiple of 16 bytes, which are 32 codes. Canonical
  rows are whole groups of 16, so where R16(K) is no multiple of 32 one group of zeros is added;
  else the checkpoint's own tensor is used.
* Scales `swizzled_128x4` [R128(N), C4(R32(K) / 16)]: tiles of 128 rows by 4 scales, zero where
  there are none. The kernel reads whole tiles, so the buffer is padded, not only aligned.

Nothing else changes: global scale and bias are the checkpoint's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from quantmux.config import Layout
from quantmux.config.layouts import round_up
from quantmux.ops.layouts import as_bits, place_scales, unswizzle_128x4
from quantmux.ops.quantized import LinearWeights
from quantmux.registry.protocol import PreparedWeights
from quantmux_cutlass.linear.padding import aligned

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LinearConfig

SWIZZLED: Final = "cutlass:nvfp4_swizzled"
"""Name of the form."""

ROW_CODES: Final = 32
"""Codes in 16 bytes: what rows of x and w are multiples of."""

GROUP: Final = 16
"""Values with one scale."""


def swizzled_weights(
    weights: LinearWeights, config: LinearConfig, device: DeviceProfile
) -> PreparedWeights:
    """Give NVFP4 weights in rows of 32 codes, with their scales in tiles of 128 by 4.

    Pure; the same weights give the same bits. What is on another kind of device is moved.

    Args:
        weights: Canonical: uint8 [N, R16(K) / 2], e4m3 [N, R16(K) / 16], fp32 [1].
        config: Says N and K.
        device: Where they shall be.

    Returns:
        ``data`` uint8 [N, R32(K) / 2], ``scales`` e4m3 [R128(N), C4(R32(K) / 16)], the other
        tensors as they are, and a ``restore`` that gives the checkpoint's bits back.
    """
    here = weights
    if device.is_present and weights.data.device.type != device.torch_name.partition(":")[0]:
        here = weights.to(device.torch_name)
    n, k = config.n, config.k
    width, padded_k = round_up(k, GROUP), round_up(k, ROW_CODES)
    data = aligned(here.data) if width == padded_k else _with_zeros(here.data, padded_k // 2)
    layout = Layout(scales="swizzled_128x4", padded_n=padded_k)
    scales = place_scales(here.scales, config.scheme.weight, layout, n)
    others = {
        name: tensor for name, tensor in here.named().items() if name not in ("data", "scales")
    }

    def restore() -> LinearWeights:
        grid = unswizzle_128x4(as_bits(scales))[:n, : width // GROUP].contiguous()
        codes = data if width == padded_k else data[:, : width // 2].contiguous()
        return LinearWeights(codes, grid.view(torch.float8_e4m3fn), **others)

    return PreparedWeights(
        tensors={"data": data, "scales": scales, **others},
        weight_layout=SWIZZLED,
        n=n,
        k=k,
        restore=restore,
        facts={"padded_k": padded_k},
    )


def _with_zeros(codes: torch.Tensor, width: int) -> torch.Tensor:
    padded = torch.zeros((codes.shape[0], width), dtype=torch.uint8, device=codes.device)
    padded[:, : codes.shape[1]].copy_(codes)
    return padded
