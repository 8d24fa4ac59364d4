"""triton/linear_nvfp4_emulated: NVFP4 by NVFP4, both decoded to bf16; no FP4 units needed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Final

import torch

from quantmux.errors import LayoutError, ShapeError
from quantmux.ops.layouts import as_bits
from quantmux_triton.linear.nvfp4_emulated_kernel import (
    ROW_MAJOR,
    SWIZZLED_8X4,
    SWIZZLED_128X4,
    nvfp4_emulated,
)
from quantmux_triton.linear.nvfp4_slabs import prepare_slabs
from quantmux_triton.linear.weight_only_host import WidenedLinear

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LinearConfig
    from quantmux.ops.quantized import LinearWeights, QuantizedTensor
    from quantmux.registry.protocol import PreparedWeights
    from quantmux_triton.linear.weight_only_config import Tile
    from quantmux_triton.linear.weight_only_host import Reader

SCALES: Final = {
    "row_major": ROW_MAJOR.value,
    "swizzled_128x4": SWIZZLED_128X4.value,
    "swizzled_8x4": SWIZZLED_8X4.value,
}
"""Number of each layout in the device function."""

_MOST_TOKENS: Final = 32
"""Of a tile: decoding x for 64 takes Triton 3.6 twenty seconds to compile for sm80."""

_MOST_SHARED: Final = 64
"""Tokens of a call whose programs share work: two tiles of tokens."""


class Nvfp4Emulated(WidenedLinear):
    """``y = round(RN(g_a · g_w) · Σ (code · s)_x · (code · s)_w + bias)``, products in bf16."""

    function: ClassVar[Any] = nvfp4_emulated
    stem: ClassVar[str] = "nvfp4_emulated"
    row_bytes: ClassVar[int] = 144
    x_integers: ClassVar[int] = 2

    def prepare(
        self, weights: LinearWeights, config: LinearConfig, device: DeviceProfile
    ) -> PreparedWeights:
        """Lay the codes and scales out in slabs of 256 columns, without loss."""
        return prepare_slabs(weights, config, device)

    def weights_of(self, prepared: PreparedWeights) -> tuple[torch.Tensor, ...]:
        """Give codes and scales."""
        return prepared.tensors["data"], prepared.tensors["scales"]

    def reader(self, config: LinearConfig) -> Reader:
        """Give the reader of an NVFP4 x in any of the three scale layouts."""
        return _reader(config)

    def numbers(self, config: LinearConfig) -> Mapping[str, Any]:
        """Give that rows of x are multiples of 8 bytes, as those of whole groups are."""
        del config
        return {"X_IS_8": True}

    def stand_ins(self, config: LinearConfig) -> tuple[torch.dtype, ...]:
        """Give the dtypes of the weights' codes and scales, those of x, and both multipliers."""
        del config
        byte, fp32 = torch.uint8, torch.float32
        return torch.int16, torch.int32, byte, byte, fp32, fp32

    def tile(self, config: LinearConfig, device: DeviceProfile, m: int) -> Tile:
        """Give the tile for m tokens, of 32 at most; many of those share no work.

        Shares would need partial sums for each tile of tokens: 2 GiB at 8192, and offsets beyond
        2^31 from some 30 000 on.
        """
        found = super().tile(config, device, min(m, _MOST_TOKENS))
        if m <= _MOST_SHARED or not found.shares:
            return found
        return replace(found, shares=0, whole=0, registers=0)

    def kind(self, config: LinearConfig) -> str:
        """Give one kind."""
        del config
        return "w4a4"


def _reader(config: LinearConfig) -> Reader:
    k = config.k

    def read(q: QuantizedTensor) -> tuple[tuple[torch.Tensor, ...], tuple[int, ...]]:
        if q.n != k:
            raise ShapeError(
                "x has the wrong width", facts={"need": f"[M, {k}]", "found": list(q.logical_shape)}
            )
        layout = SCALES.get(q.layout.scales)
        if layout is None or q.global_scale is None:
            raise LayoutError(
                "x is not what this kernel reads",
                facts={
                    "need": f"NVFP4 with scales in {' or '.join(SCALES)}",
                    "found": f"{q.operand.name} with scales in {q.layout.scales}",
                },
                hint="quantize x as the layer's input_layout() says",
            )
        # padded_n is a multiple of 16, so rows are of whole 8 bytes
        return (q.data, as_bits(q.scales), q.global_scale), (q.layout.padded_n // 2, layout)

    return read


kernel: Final = Nvfp4Emulated()
