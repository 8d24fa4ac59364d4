"""triton/linear_fp8_w8a16: FP8 weights, x in bf16 or fp16, widened in registers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

import torch
from torch.nn import functional

from quantmux.errors import InputError
from quantmux.ops.quantized import DTYPES, LinearWeights
from quantmux.registry.protocol import PreparedWeights
from quantmux_triton.linear.fp8_w8a16_kernel import BY_BLOCK, BY_CHANNEL, ONE_SCALE, fp8_w8a16
from quantmux_triton.linear.weight_only_config import SLAB
from quantmux_triton.linear.weight_only_host import WidenedLinear, at_home, plain_reader

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LinearConfig
    from quantmux_triton.linear.weight_only_host import Reader

LAYOUT: Final = "triton:fp8_slabs"
"""Name of the weight layout."""

_MAGNITUDE: Final = 0x7F
_NAN: Final = 0x7F
_SCALES: Final = {"tensor": ONE_SCALE.value, "row": BY_CHANNEL.value, "block": BY_BLOCK.value}


class Fp8W8A16(WidenedLinear):
    """``y = round(s_w · Σ x · code + bias)``; the scheme's activation operand is ignored."""

    function: ClassVar[Any] = fp8_w8a16
    stem: ClassVar[str] = "fp8_w8a16"
    row_bytes: ClassVar[int] = 256

    def prepare(
        self, weights: LinearWeights, config: LinearConfig, device: DeviceProfile
    ) -> PreparedWeights:
        """Lay the codes out in slabs of 256 columns, without loss; other tensors are shared.

        Raises:
            InputError: The weight holds NaN codes.
        """
        here = at_home(weights, device)
        k = config.k
        others = {name: tensor for name, tensor in here.named().items() if name != "data"}
        if bool(((here.data.view(torch.uint8) & _MAGNITUDE) == _NAN).any()):
            raise InputError(
                "the weight holds NaN codes",
                hint="find out what went wrong when it was quantized",
                code="non_finite",
            )
        data = pack_bytes(here.data, k)

        def restore() -> LinearWeights:
            return LinearWeights(unpack_bytes(data, k).view(torch.float8_e4m3fn), **others)

        return PreparedWeights(
            tensors={"data": data, **others},
            weight_layout=LAYOUT,
            n=config.n,
            k=k,
            restore=restore,
        )

    def weights_of(self, prepared: PreparedWeights) -> tuple[torch.Tensor, ...]:
        """Give codes and scales."""
        return prepared.tensors["data"], prepared.tensors["scales"].contiguous()

    def reader(self, config: LinearConfig) -> Reader:
        """Give the reader of a plain x."""
        return plain_reader(config)

    def numbers(self, config: LinearConfig) -> Mapping[str, Any]:
        """Give the format that weights are widened to, which is x's, and how they are scaled."""
        scales = _SCALES[config.scheme.weight.block.kind]
        found: dict[str, Any] = {"FP16": config.in_dtype == "fp16", "SCALES": scales}
        if scales == BY_BLOCK.value:
            found["JOINED"] = False  # each half of a slab has a scale of its own
        return found

    def stand_ins(self, config: LinearConfig) -> tuple[torch.dtype, ...]:
        """Give the dtypes of codes, scales and x."""
        return torch.int16, torch.float32, DTYPES[config.in_dtype]

    def kind(self, config: LinearConfig) -> str:
        """Give the kind: blocks take other tiles than whole rows."""
        return "block" if config.scheme.weight.block.kind == "block" else "row"


def pack_bytes(data: torch.Tensor, k: int) -> torch.Tensor:
    """Give codes of one byte [N, K] as words int16 [slabs, N, 128]; padding is zero."""
    n, slabs = data.shape[0], -(-k // SLAB)
    padded = functional.pad(data.view(torch.uint8), (0, slabs * SLAB - k))
    ordered = padded.view(n, slabs, 2, 128).permute(1, 0, 3, 2).contiguous()
    return ordered.view(torch.int16).view(slabs, n, 128)


def unpack_bytes(words: torch.Tensor, k: int) -> torch.Tensor:
    """Undo `pack_bytes`; gives uint8 [N, K]."""
    slabs, n, _ = words.shape
    flat = words.view(torch.uint8).view(slabs, n, 128, 2).permute(1, 0, 3, 2)
    return flat.reshape(n, slabs * SLAB)[:, :k].contiguous()


kernel: Final = Fp8W8A16()
