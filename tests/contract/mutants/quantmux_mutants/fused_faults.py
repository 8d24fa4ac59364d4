"""Producers that fuse a norm or a rotation, with one fault each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from quantmux_mutants.fused import HeadQuantizer, NormQuantizer
from quantmux_mutants.producers import fp32

if TYPE_CHECKING:
    from quantmux.ops.quantized import QuantizedTensor


class _NormInBf16(NormQuantizer):
    def normed(self, x: torch.Tensor, weight: torch.Tensor, config: Any) -> torch.Tensor:
        return super().normed(x, weight, config).to(torch.bfloat16).to(torch.float32)


class _RoundedBeforeWeight(NormQuantizer):
    """x / rms(x) goes back into the format of x before the weight, as some models write it."""

    def normed(self, x: torch.Tensor, weight: torch.Tensor, config: Any) -> torch.Tensor:
        plain = super().normed(x, torch.ones_like(weight), config)
        return plain.to(x.dtype).to(torch.float32) * weight.to(torch.float32)


class _EpsOutside(NormQuantizer):
    def inverse_root(self, mean: torch.Tensor, config: Any) -> torch.Tensor:
        return fp32(1.0) / (mean.sqrt() + fp32(config.norm_eps))


class _EpsFixed(NormQuantizer):
    def inverse_root(self, mean: torch.Tensor, config: Any) -> torch.Tensor:
        del config
        return fp32(1.0) / (mean + fp32(1e-6)).sqrt()


class _EpsOfTheOperand(NormQuantizer):
    def inverse_root(self, mean: torch.Tensor, config: Any) -> torch.Tensor:
        return fp32(1.0) / (mean + fp32(config.operand.eps)).sqrt()


class _EpsOfTheLast(NormQuantizer):
    """Works with the norm_eps of the config that it was bound to last."""

    last = 1e-6

    def bind(self, config: Any, device: Any) -> Any:
        self.last = config.norm_eps
        return super().bind(config, device)

    def inverse_root(self, mean: torch.Tensor, config: Any) -> torch.Tensor:
        del config
        return fp32(1.0) / (mean + fp32(self.last)).sqrt()


class _MeanOverPadding(NormQuantizer):
    def mean_of_squares(self, wide: torch.Tensor, config: Any) -> torch.Tensor:
        return wide.square().sum(dim=1, keepdim=True) / fp32(float(config.padded_n))


class _Centered(NormQuantizer):
    def mean_of_squares(self, wide: torch.Tensor, config: Any) -> torch.Tensor:
        return super().mean_of_squares(wide - wide.mean(dim=1, keepdim=True), config)


class _SquaresInFormat(NormQuantizer):
    """Takes squares in the format of x, where those of fp16 overflow."""

    def normed(self, x: torch.Tensor, weight: torch.Tensor, config: Any) -> torch.Tensor:
        wide = x.to(torch.float32)
        mean = super().mean_of_squares(x.square().to(torch.float32).sqrt(), config)
        return wide * self.inverse_root(mean, config) * self.widened_weight(weight)


class _WeightForgotten(NormQuantizer):
    def widened_weight(self, weight: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(weight, dtype=torch.float32)


class _WeightPlusOne(NormQuantizer):
    def widened_weight(self, weight: torch.Tensor) -> torch.Tensor:
        return fp32(1.0) + weight.to(torch.float32)


class _WeightInBf16(NormQuantizer):
    def widened_weight(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.to(torch.bfloat16).to(torch.float32)


class _AlwaysHalves(HeadQuantizer):
    def pairs(self, x: torch.Tensor, *, interleaved: bool) -> tuple[torch.Tensor, torch.Tensor]:
        del interleaved
        return super().pairs(x, interleaved=False)

    def joined(self, a: torch.Tensor, b: torch.Tensor, *, interleaved: bool) -> torch.Tensor:
        del interleaved
        return super().joined(a, b, interleaved=False)


class _AlwaysFirst(HeadQuantizer):
    def start(self, config: Any) -> int:
        del config
        return 0


class _TurnedBack(HeadQuantizer):
    def turned(self, a: Any, b: Any, cos: Any, sin: Any) -> Any:
        return super().turned(a, b, cos, -sin)


class _HeadsInBf16(HeadQuantizer):
    def rotated(self, x: torch.Tensor, angles: torch.Tensor, config: Any) -> torch.Tensor:
        return super().rotated(x, angles, config).to(torch.bfloat16).to(torch.float32)


class _CacheInPairs(HeadQuantizer):
    """Reads the cache as cos, sin, cos, sin, …"""

    def cos_sin(self, angles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return angles[..., ::2], angles[..., 1::2]


class _ScaleNotWritten(HeadQuantizer):
    def write_scale(self, out: QuantizedTensor, scale: torch.Tensor) -> None:
        """Leave it to whoever gave it."""


class _ScaleInverted(HeadQuantizer):
    def quotient(self, values: torch.Tensor, wide: torch.Tensor) -> torch.Tensor:
        return values * wide


class _ScaleByReciprocal(HeadQuantizer):
    def quotient(self, values: torch.Tensor, wide: torch.Tensor) -> torch.Tensor:
        return values * (fp32([1.0]) / wide)


class _PlainUnscaled(HeadQuantizer):
    """Divides by the scale what it rotates, and nothing else."""

    def rotate_and_quantize(self, config: Any, x: Any, angles: Any, scale: Any, out: Any) -> Any:
        made = super().rotate_and_quantize(config, x, angles, scale, out)
        start = self.start(config)
        for part in (slice(0, start), slice(start + config.rope_dim, None)):
            codes = self.cast(x[..., part].to(torch.float32), config.operand)
            made.data.view(torch.uint8)[..., part] = codes.view(torch.uint8)
        return made


class _ScaleOfTheLast(HeadQuantizer):
    """Works with the static_scale of the config that it was bound to last."""

    def __init__(self) -> None:
        self.last: float | None = None

    def bind(self, config: Any, device: Any) -> Any:
        self.last = config.static_scale
        return super().bind(config, device)

    def rotate_and_quantize(self, config: Any, x: Any, angles: Any, scale: Any, out: Any) -> Any:
        used = scale if config.static_scale is None or self.last is None else fp32([self.last])
        return super().rotate_and_quantize(config, x, angles, used, out)


class _NanSaturates(HeadQuantizer):
    """Clamps as fmin and fmax do: NaN becomes the greatest number."""

    def quotient(self, values: torch.Tensor, wide: torch.Tensor) -> torch.Tensor:
        return super().quotient(values, wide).nan_to_num(nan=torch.inf)


class _HeadsSideBySide(HeadQuantizer):
    """Takes the heads of a token to follow each other."""

    def heads(self, x: torch.Tensor) -> torch.Tensor:
        t, count, dim = x.shape
        return x.as_strided((t, count, dim), (x.stride(0), dim, 1)) if t else x


norm_in_bf16 = _NormInBf16()
rounded_before_weight = _RoundedBeforeWeight()
eps_outside = _EpsOutside()
eps_fixed = _EpsFixed()
eps_of_the_operand = _EpsOfTheOperand()
eps_of_the_last = _EpsOfTheLast()
mean_over_padding = _MeanOverPadding()
centered = _Centered()
squares_in_format = _SquaresInFormat()
weight_forgotten = _WeightForgotten()
weight_plus_one = _WeightPlusOne()
weight_in_bf16 = _WeightInBf16()
always_halves = _AlwaysHalves()
always_first = _AlwaysFirst()
turned_back = _TurnedBack()
heads_in_bf16 = _HeadsInBf16()
cache_in_pairs = _CacheInPairs()
scale_not_written = _ScaleNotWritten()
scale_inverted = _ScaleInverted()
scale_by_reciprocal = _ScaleByReciprocal()
plain_unscaled = _PlainUnscaled()
scale_of_the_last = _ScaleOfTheLast()
nan_saturates = _NanSaturates()
heads_side_by_side = _HeadsSideBySide()
