"""Prologue: what stands before the quantization of an input, and how it is fused or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from torch.nn import functional

from quantmux.config.layers import QuantizeConfig, RmsNormQuantizeConfig, SiluMulQuantizeConfig
from quantmux.ops.quantized import DTYPES

if TYPE_CHECKING:
    from quantmux.config import Dtype

Kind = Literal["none", "silu_mul", "rmsnorm"]

_OPS: Final = {
    "none": "quantize",
    "silu_mul": "silu_mul_quantize",
    "rmsnorm": "rmsnorm_quantize",
}


@dataclass(frozen=True, slots=True)
class Prologue:
    """What is computed from the inputs of a fused op before its result [M, n] is quantized.

    Attributes:
        kind: ``none`` of x [M, n], ``silu_mul`` of [gate | up] [M, 2n], ``rmsnorm`` of x [M, n] and
            a weight [n].
        in_dtype: Format of the first input.
        norm_eps: Of a norm: added to the mean of squares.
        fp32_weight: Of a norm: its weight is fp32, else in ``in_dtype``.
    """

    kind: Kind
    in_dtype: Dtype
    norm_eps: float = 0.0
    fp32_weight: bool = False

    @property
    def op(self) -> str:
        """Name of the op that fuses it with the quantization."""
        return _OPS[self.kind]

    @property
    def inputs(self) -> int:
        """Number of tensors it takes."""
        return 2 if self.kind == "rmsnorm" else 1

    def width(self, n: int) -> int:
        """Give the width of the first input, for a result of width n."""
        return 2 * n if self.kind == "silu_mul" else n

    def producer(
        self, reads: QuantizeConfig
    ) -> QuantizeConfig | SiluMulQuantizeConfig | RmsNormQuantizeConfig:
        """Give the config of the kernel that writes, from the inputs, exactly what is read.

        Raises:
            ConfigError: No such config exists: ``norm_eps`` is none that the op takes.
        """
        fields: dict[str, Any] = {
            "operand": reads.operand,
            "n": reads.n,
            "layout": reads.layout,
            "in_dtype": self.in_dtype,
        }
        if self.kind == "silu_mul":
            return SiluMulQuantizeConfig(**fields)
        if self.kind == "rmsnorm":
            fields |= {"norm_eps": self.norm_eps, "fp32_weight": self.fp32_weight}
            return RmsNormQuantizeConfig(**fields)
        return QuantizeConfig(**fields)

    def plain(self, inputs: list[torch.Tensor], dtype: Dtype) -> torch.Tensor:
        """Compute the prologue alone, in fp32, and round its result [M, n] once.

        This is how a call is served whose fused kernels have failed.
        """
        x = inputs[0]
        if self.kind == "silu_mul":
            gate, up = x.to(torch.float32).chunk(2, dim=1)
            x = functional.silu(gate) * up
        elif self.kind == "rmsnorm":
            weight = inputs[1].to(torch.float32)
            x = functional.rms_norm(x.to(torch.float32), (x.shape[1],), weight, self.norm_eps)
        return x.to(DTYPES[dtype])

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON-ready data, what is at its default left out."""
        data: dict[str, Any] = {"kind": self.kind, "in_dtype": self.in_dtype}
        if self.kind == "rmsnorm":
            data |= {"norm_eps": self.norm_eps, "fp32_weight": self.fp32_weight}
        return data

    @classmethod
    def of_dict(cls, data: dict[str, Any]) -> Prologue:
        """Build it from `to_dict`."""
        return cls(**data)


__all__ = ["Kind", "Prologue"]
