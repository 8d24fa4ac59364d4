"""Configs of producers that fuse a normalization or a rotation with quantization."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import Field, field_validator, model_validator

from quantmux.config._producer import Extent, ProducerBase
from quantmux.errors import ConfigError

if TYPE_CHECKING:
    from quantmux.config.formats import Dtype
    from quantmux.config.layouts import Layout
    from quantmux.config.operands import Operand

RopeAt = Literal["first", "last"]

_LEAST_NORMAL: Final = 2.0**-126
_FP8: Final = ("fp8_e4m3", "fp8_e5m2")


class RmsNormQuantizeConfig(ProducerBase):
    """Quantize ``x / rms(x) · weight`` of x [M, n] and a weight [n]; the result is [M, n].

    Attributes:
        norm_eps: Added to the mean of squares, as fp32.
        fp32_weight: The weight is fp32; else it is in ``in_dtype``.
    """

    op: Literal["rmsnorm_quantize"] = "rmsnorm_quantize"
    norm_eps: float = Field(default=1e-6, ge=_LEAST_NORMAL, le=1.0, allow_inf_nan=False)
    fp32_weight: bool = False

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            operand: Operand | str,
            n: int,
            layout: Layout | str | None = None,
            padded_n: int | None = None,
            padded_m_multiple: int | None = None,
            in_dtype: Dtype = "bf16",
            norm_eps: float = 1e-6,
            fp32_weight: bool = False,
            op: Literal["rmsnorm_quantize"] = "rmsnorm_quantize",
        ) -> None: ...

    @property
    def weight_dtype(self) -> Dtype:
        """Format of the weight."""
        return "fp32" if self.fp32_weight else self.in_dtype

    def __str__(self) -> str:
        weight = " fp32_weight" if self.fp32_weight and self.in_dtype != "fp32" else ""
        return (
            f"rmsnorm_quantize {self.operand.name} n={self.n} {self.layout} "
            f"norm_eps={self.norm_eps:g}{weight} from {self.in_dtype}"
        )


class RopeQuantizeConfig(ProducerBase):
    """Apply RoPE to x [T, heads, head_dim] and quantize all of it with one given scale.

    The result is logically [T, heads, head_dim], contiguous, for an FP8 attention or its cache.
    Positions are int64 [T]; ``cos_sin_cache`` is fp32 [P, rope_dim] = cos | sin.

    Attributes:
        rope_dim: Columns of each head that are rotated; the others are quantized as they are.
        rope_at: Where they are: the ``first`` columns of a head, or the ``last``.
        interleaved: Pairs are columns (2i, 2i + 1); else (i, i + rope_dim / 2).
        static_scale: The scale, rounded to fp32, where it is known when kernels are bound. None:
            ``scale=`` comes with every call. Kernels that take the scale as a number of the host
            serve only the former.
    """

    op: Literal["rope_quantize"] = "rope_quantize"
    heads: Extent
    head_dim: Extent
    rope_dim: Extent
    rope_at: RopeAt = "first"
    interleaved: bool = False
    static_scale: float | None = None
    n: int = 0

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            heads: int,
            head_dim: int,
            rope_dim: int,
            rope_at: RopeAt = "first",
            interleaved: bool = False,
            static_scale: float | None = None,
            operand: Operand | str = "fp8_tensor_static",
            layout: Layout | str | None = None,
            in_dtype: Dtype = "bf16",
            n: int = 0,
            op: Literal["rope_quantize"] = "rope_quantize",
        ) -> None: ...

    @classmethod
    def _row_width(cls, data: dict[str, Any]) -> int | None:
        dim = data.get("head_dim")
        if not isinstance(dim, int) or dim < 1:
            return None
        if data.get("n", dim) not in (0, dim):
            raise ConfigError(f"n is head_dim: {dim}, found {data['n']}")
        data["n"] = dim
        data.setdefault("operand", "fp8_tensor_static")
        return dim

    @field_validator("static_scale")
    @classmethod
    def _scale_is_one(cls, value: float | None) -> float | None:
        """Round to fp32; the scale and its reciprocal must be normal fp32 numbers."""
        if value is None:
            return None
        if not (math.isfinite(value) and _LEAST_NORMAL <= value <= 1.0 / _LEAST_NORMAL):
            raise ConfigError(
                f"static_scale needs to be finite, 2^-126 … 2^126, found {value}",
                hint="leave it out, and give scale= with every call",
            )
        rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
        return rounded

    @model_validator(mode="after")
    def _rope_fits(self) -> RopeQuantizeConfig:
        if self.rope_dim % 2 or self.rope_dim > self.head_dim:
            raise ConfigError(
                f"rope_dim must be even and at most head_dim = {self.head_dim}, "
                f"found {self.rope_dim}"
            )
        operand = self.operand
        if (
            operand.element not in _FP8
            or operand.block.kind != "tensor"
            or operand.dynamic
            or operand.scale_rounding != "none"
        ):
            raise ConfigError(
                f"rope_quantize makes fp8 with one given scale, found {operand.name}",
                hint='use operand="fp8_tensor_static"',
            )
        if self.layout.scales != "scalar":  # a plugin's own
            raise ConfigError(
                f"rope_quantize has one scale (layout scalar), found {self.layout.scales}",
                code="layout_undefined",
            )
        if self.layout.padded_n != self.n or self.layout.padded_m_multiple != 1:
            raise ConfigError("rope_quantize does not pad its data")
        return self

    def __str__(self) -> str:
        pairs = "interleaved" if self.interleaved else "halves"
        scale = "" if self.static_scale is None else f" scale={self.static_scale:g}"
        return (
            f"rope_quantize {self.operand.name} heads={self.heads} head_dim={self.head_dim} "
            f"rope_dim={self.rope_dim} {self.rope_at} {pairs}{scale} from {self.in_dtype}"
        )
