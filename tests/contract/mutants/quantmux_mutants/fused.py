"""Right producers that fuse a norm or a rotation, cut into steps like those of `producers`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from quantmux.ops.quantized import DATA_DTYPES, QuantizedTensor
from quantmux_mutants.producers import RowQuantizer, fp32

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantmux import DeviceProfile


class NormQuantizer(RowQuantizer):
    """x [M, n] / rms(x) · weight in fp32, then as its parent."""

    def bind(self, config: Any, device: DeviceProfile) -> Callable[..., QuantizedTensor]:
        del device

        def run(
            x: torch.Tensor,
            weight: torch.Tensor,
            *,
            scale: torch.Tensor | None = None,
            global_scale: torch.Tensor | None = None,
            out: QuantizedTensor | None = None,
        ) -> QuantizedTensor:
            normed = self.normed(x, weight, config)
            return self.call(config, normed, scale, global_scale, out)

        return run

    def normed(self, x: torch.Tensor, weight: torch.Tensor, config: Any) -> torch.Tensor:
        wide = x.to(torch.float32)
        inverse = self.inverse_root(self.mean_of_squares(wide, config), config)
        return wide * inverse * self.widened_weight(weight)

    def mean_of_squares(self, wide: torch.Tensor, config: Any) -> torch.Tensor:
        # fp32 as kernels have it, the squares added in pairs
        return wide.square().sum(dim=1, keepdim=True) / fp32(float(config.n))

    def inverse_root(self, mean: torch.Tensor, config: Any) -> torch.Tensor:
        return fp32(1.0) / (mean + fp32(config.norm_eps)).sqrt()

    def widened_weight(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.to(torch.float32)


class HeadQuantizer(RowQuantizer):
    """x [T, H, D]: some columns of every head rotated, and one scale that is given."""

    def bind(self, config: Any, device: DeviceProfile) -> Callable[..., QuantizedTensor]:
        del device
        known = self.known(config)

        def run(
            x: torch.Tensor,
            positions: torch.Tensor,
            cos_sin_cache: torch.Tensor,
            *,
            scale: torch.Tensor | None = None,
            out: QuantizedTensor | None = None,
        ) -> QuantizedTensor:
            given = scale if known is None else fp32([known])
            if given is None:
                raise ValueError("no scale")
            return self.rotate_and_quantize(config, x, cos_sin_cache[positions], given, out)

        return run

    def known(self, config: Any) -> float | None:
        found: float | None = config.static_scale
        return found

    def rotate_and_quantize(
        self,
        config: Any,
        x: torch.Tensor,
        angles: torch.Tensor,
        scale: torch.Tensor,
        out: QuantizedTensor | None,
    ) -> QuantizedTensor:
        if out is None:
            data = torch.empty(x.shape, dtype=DATA_DTYPES[config.operand.element], device=x.device)
            scales = torch.empty(1, dtype=torch.float32, device=x.device)
            shape = tuple(x.shape)
            out = QuantizedTensor(data, scales, None, config.operand, config.layout, shape)
        rotated = self.rotated(self.heads(x).to(torch.float32), angles, config)
        codes = self.cast(self.quotient(rotated, scale), config.operand)
        out.data.view(torch.uint8).copy_(codes.view(torch.uint8))
        self.write_scale(out, scale)
        return out

    def heads(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def write_scale(self, out: QuantizedTensor, scale: torch.Tensor) -> None:
        out.scales.copy_(scale)

    def rotated(self, x: torch.Tensor, angles: torch.Tensor, config: Any) -> torch.Tensor:
        start = self.start(config)
        end = start + config.rope_dim
        before, turned, after = x[..., :start], x[..., start:end], x[..., end:]
        a, b = self.pairs(turned, interleaved=config.interleaved)
        cos, sin = (part.unsqueeze(1) for part in self.cos_sin(angles))
        turned = self.joined(*self.turned(a, b, cos, sin), interleaved=config.interleaved)
        return torch.cat((before, turned, after), dim=-1)

    def start(self, config: Any) -> int:
        return 0 if config.rope_at == "first" else config.head_dim - config.rope_dim

    def cos_sin(self, angles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        cos, sin = angles.chunk(2, dim=-1)
        return cos, sin

    def pairs(self, x: torch.Tensor, *, interleaved: bool) -> tuple[torch.Tensor, torch.Tensor]:
        if interleaved:
            return x[..., ::2], x[..., 1::2]
        first, second = x.chunk(2, dim=-1)
        return first, second

    def turned(
        self, a: torch.Tensor, b: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return a * cos - b * sin, b * cos + a * sin

    def joined(self, a: torch.Tensor, b: torch.Tensor, *, interleaved: bool) -> torch.Tensor:
        if interleaved:
            return torch.stack((a, b), dim=-1).flatten(-2)
        return torch.cat((a, b), dim=-1)


norm = NormQuantizer()
heads = HeadQuantizer()
