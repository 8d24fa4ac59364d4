"""Element formats: how one number is stored. The single source of their constants."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Literal

from quantmux.config._base import Frozen

Dtype = Literal["bf16", "fp16", "fp32"]
"""Formats of plain activations and outputs."""


class ElementFormat(StrEnum):
    """How one number is stored."""

    BF16 = "bf16"
    FP16 = "fp16"
    FP8_E4M3 = "fp8_e4m3"
    FP8_E5M2 = "fp8_e5m2"
    INT8 = "int8"
    FP4_E2M1 = "fp4_e2m1"


class FormatInfo(Frozen):
    """Facts about one element format."""

    bits: int
    max_value: float
    is_float: bool

    @property
    def elements_per_byte(self) -> int:
        """Elements in one byte (2 for 4-bit formats), at least 1."""
        return max(1, 8 // self.bits)


FORMAT_INFO: Final[dict[ElementFormat, FormatInfo]] = {
    ElementFormat.BF16: FormatInfo(bits=16, max_value=3.3895313892515355e38, is_float=True),
    ElementFormat.FP16: FormatInfo(bits=16, max_value=65504.0, is_float=True),
    ElementFormat.FP8_E4M3: FormatInfo(bits=8, max_value=448.0, is_float=True),
    ElementFormat.FP8_E5M2: FormatInfo(bits=8, max_value=57344.0, is_float=True),
    ElementFormat.INT8: FormatInfo(bits=8, max_value=127.0, is_float=False),
    ElementFormat.FP4_E2M1: FormatInfo(bits=4, max_value=6.0, is_float=True),
}

NVFP4_GLOBAL_DENOMINATOR: Final = 2688.0
"""448 · 6: the largest value an NVFP4 block can hold in units of the global scale."""
