"""NVFP4 weights in slabs of 256 columns, as `e2m1_decode_kernel` reads them, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch.nn import functional

from quantmux.ops.quantized import LinearWeights
from quantmux.registry.protocol import PreparedWeights
from quantmux_triton.linear.weight_only_host import at_home

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LinearConfig

SLAB: Final = 256
"""Columns of a slab."""

LAYOUT: Final = "triton:nvfp4_slabs"
"""Name of the weight layout."""

_MAGNITUDE_AT: Final = (6, 3, 0, 9)
_SIGN_AT: Final = (15, 12, 14, 13)
_CHUNK: Final = 1 << 23
"""Codes that are rearranged at a time: a few hundred MiB at most."""


def slabs_of(k: int) -> int:
    """Give the number of slabs that k columns need."""
    return -(-k // SLAB)


def pack_codes(data: torch.Tensor, k: int) -> torch.Tensor:
    """Give canonical bytes [N, R16(K) / 2] as words int16 [slabs, N, 64]; padding is zero."""
    n, slabs = data.shape[0], slabs_of(k)
    words = torch.empty((slabs, n, 64), dtype=torch.int16, device=data.device)
    for rows in _row_chunks(n, k):
        part = functional.pad(data[rows], (0, slabs * SLAB // 2 - data.shape[1]))
        codes = torch.stack((part & 0xF, part >> 4), dim=-1).view(-1, slabs, 4, 64)
        wide = torch.zeros((codes.shape[0], slabs, 64), dtype=torch.int32, device=data.device)
        for j in range(4):
            code = codes[:, :, j].to(torch.int32)
            wide |= ((code & 7) << _MAGNITUDE_AT[j]) | ((code >> 3) << _SIGN_AT[j])
        wide = torch.where(wide >= 1 << 15, wide - (1 << 16), wide)
        words[:, rows] = wide.to(torch.int16).transpose(0, 1)
    return words


def unpack_codes(words: torch.Tensor, k: int) -> torch.Tensor:
    """Undo `pack_codes`."""
    slabs, n, _ = words.shape
    width = -(-k // 16) * 8
    data = torch.empty((n, width), dtype=torch.uint8, device=words.device)
    for rows in _row_chunks(n, k):
        wide = words[:, rows].transpose(0, 1).to(torch.int32)
        codes = torch.stack(
            [
                ((wide >> _MAGNITUDE_AT[j]) & 7) | (((wide >> _SIGN_AT[j]) & 1) << 3)
                for j in range(4)
            ],
            dim=2,
        ).to(torch.uint8)
        flat = codes.reshape(-1, slabs * SLAB)
        data[rows] = (flat[:, 0::2] | (flat[:, 1::2] << 4))[:, :width]
    return data


def pack_scales(scales: torch.Tensor, k: int) -> torch.Tensor:
    """Give canonical e4m3 scales [N, R16(K) / 16] as words int32 [slabs, N, 4]; padding is zero."""
    n, slabs = scales.shape[0], slabs_of(k)
    there, _ = _translation(scales.device)
    grid = there[scales.view(torch.uint8).to(torch.int32)]
    grid = functional.pad(grid, (0, slabs * 16 - scales.shape[1]))
    # groups (j, s) of a slab to bytes (s, j)
    ordered = grid.view(n, slabs, 4, 4).permute(1, 0, 3, 2).contiguous()
    return ordered.view(torch.int32).view(slabs, n, 4)


def unpack_scales(words: torch.Tensor, k: int) -> torch.Tensor:
    """Undo `pack_scales`."""
    slabs, n, _ = words.shape
    grid = words.view(torch.uint8).view(slabs, n, 4, 4).permute(1, 0, 3, 2)
    flat = grid.reshape(n, slabs * 16)[:, : -(-k // 16)]
    _, back = _translation(words.device)
    return back[flat.to(torch.int32)].view(torch.float8_e4m3fn)


def _translation(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the stored byte of every E4M3 byte, and the E4M3 byte of every stored one.

    Values that are scales become five bits of exponent, 22 above theirs, and three of mantissa, 0
    stays 0. What is no scale (negative, NaN) takes what is left, so that nothing is lost.
    """
    there = [0] * 256
    for byte in range(1, 127):
        exponent, mantissa = byte >> 3, byte & 7
        if exponent == 0:  # subnormal: mantissa · 2^-9
            exponent = mantissa.bit_length() - 3
            mantissa = (mantissa << (4 - mantissa.bit_length())) & 7
        there[byte] = (exponent + 15) << 3 | mantissa
    free = sorted(set(range(256)) - set(there))
    for byte in range(127, 256):
        there[byte] = free[byte - 127]
    back = sorted(range(256), key=there.__getitem__)
    kind = {"dtype": torch.uint8, "device": device}
    return torch.tensor(there, **kind), torch.tensor(back, **kind)  # type: ignore[call-overload]


def prepare_slabs(
    weights: LinearWeights, config: LinearConfig, device: DeviceProfile
) -> PreparedWeights:
    """Give canonical NVFP4 weights in slabs; ``restore`` gives them back bit for bit.

    Args:
        weights: Canonical; they stay as they are.
        config: Says N and K.
        device: Where they shall be.
    """
    here = at_home(weights, device)
    k = config.k
    others = {
        name: tensor for name, tensor in here.named().items() if name not in ("data", "scales")
    }
    data, scales = pack_codes(here.data, k), pack_scales(here.scales, k)

    def restore() -> LinearWeights:
        return LinearWeights(unpack_codes(data, k), unpack_scales(scales, k), **others)

    return PreparedWeights(
        tensors={"data": data, "scales": scales, **others},
        weight_layout=LAYOUT,
        n=config.n,
        k=k,
        restore=restore,
    )


def _row_chunks(n: int, k: int) -> Iterator[slice]:
    step = max(_CHUNK // k, 1)
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))
