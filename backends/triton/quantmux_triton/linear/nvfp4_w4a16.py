"""triton/linear_nvfp4_w4a16: NVFP4 weights, x in bf16 or fp16, decoded in registers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

import torch

from quantmux.ops.quantized import DTYPES
from quantmux_triton.linear.nvfp4_slabs import prepare_slabs
from quantmux_triton.linear.nvfp4_w4a16_kernel import nvfp4_w4a16
from quantmux_triton.linear.weight_only_host import WidenedLinear, plain_reader

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LinearConfig
    from quantmux.ops.quantized import LinearWeights
    from quantmux.registry.protocol import PreparedWeights
    from quantmux_triton.linear.weight_only_host import Reader


class Nvfp4W4A16(WidenedLinear):
    """``y = round(g_w · Σ x · code · s + bias)``; the scheme's activation operand is ignored."""

    function: ClassVar[Any] = nvfp4_w4a16
    stem: ClassVar[str] = "nvfp4_w4a16"
    row_bytes: ClassVar[int] = 144

    def prepare(
        self, weights: LinearWeights, config: LinearConfig, device: DeviceProfile
    ) -> PreparedWeights:
        """Lay the codes and scales out in slabs of 256 columns, without loss."""
        return prepare_slabs(weights, config, device)

    def weights_of(self, prepared: PreparedWeights) -> tuple[torch.Tensor, ...]:
        """Give codes and scales."""
        return prepared.tensors["data"], prepared.tensors["scales"]

    def reader(self, config: LinearConfig) -> Reader:
        """Give the reader of a plain x."""
        return plain_reader(config)

    def numbers(self, config: LinearConfig) -> Mapping[str, Any]:
        """Give the format that weights are widened to, which is x's."""
        return {"FP16": config.in_dtype == "fp16"}

    def stand_ins(self, config: LinearConfig) -> tuple[torch.dtype, ...]:
        """Give the dtypes of codes, scales, x and the global multiplier."""
        return torch.int16, torch.int32, DTYPES[config.in_dtype], torch.float32

    def kind(self, config: LinearConfig) -> str:
        """Give one kind: bf16 and fp16 take the same time."""
        del config
        return "w4a16"


kernel: Final = Nvfp4W4A16()
