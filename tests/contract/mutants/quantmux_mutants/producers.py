"""Right producers, cut into steps so that a mutant replaces exactly one of them.

Written from DESIGN §5 and §9 and not over the reference, so that a shared mistake would show.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from quantmux.ops.quantized import QuantizedTensor, empty_quantized
from quantmux_mutants.memory import column_storage, flat, scale_places, zero

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux import DeviceProfile, Operand


def fp32(value: float | list[float]) -> torch.Tensor:
    """Give a constant; without dtype and device it would be of whatever the program prefers."""
    return torch.tensor(value, dtype=torch.float32, device="cpu")


class RowQuantizer:
    """x [M, n] into fp8 or int8 with a scale per tensor, token or group."""

    def bind(self, config: Any, device: DeviceProfile) -> Callable[..., QuantizedTensor]:
        del device

        def run(
            x: torch.Tensor,
            *,
            scale: torch.Tensor | None = None,
            global_scale: torch.Tensor | None = None,
            out: QuantizedTensor | None = None,
        ) -> QuantizedTensor:
            return self.call(config, x, scale, global_scale, out)

        return run

    def warmup(self, config: Any, ms: Sequence[int]) -> None:
        """Do nothing: there is no code to compile."""

    def call(
        self,
        config: Any,
        x: torch.Tensor,
        scale: torch.Tensor | None,
        global_scale: torch.Tensor | None,
        out: QuantizedTensor | None,
    ) -> QuantizedTensor:
        del global_scale
        if out is None:
            out = self.allocate(config, x.shape[0], x.device)
        values, operand = self.values(x, config), config.operand
        if scale is None:
            scales = self.scales(self.amax(values, operand), operand)
        else:
            scales = scale.reshape(1, 1)
        codes = self.codes(values, self.widened(scales, values, operand), operand)
        self.write_data(out, codes)
        self.write_scales(out, scales)
        return out

    def allocate(self, config: Any, m: int, device: torch.device) -> QuantizedTensor:
        return empty_quantized(config.operand, config.layout, m, config.n, device)

    def values(self, x: torch.Tensor, config: Any) -> torch.Tensor:
        del config
        return x.to(torch.float32)

    def amax(self, values: torch.Tensor, operand: Operand) -> torch.Tensor:
        """Largest magnitude of every block [R, C]; its bits order NaN above Inf above the rest."""
        m, n = values.shape
        r = max(m, 1) if operand.block.rows == -1 else operand.block.rows
        c = n if operand.block.cols == -1 else operand.block.cols
        bits = values.contiguous().view(torch.int32) & 0x7FFFFFFF
        rows = 1 if operand.block.rows == -1 else m
        bits = functional.pad(bits, (0, -n % c, 0, rows * r - m))
        return bits.view(rows, r, -(-n // c), c).amax(dim=(1, 3)).view(torch.float32)

    def scales(self, amax: torch.Tensor, operand: Operand) -> torch.Tensor:
        scale = self.bounded(amax, operand) / fp32(operand.max_value)
        if operand.scale_rounding == "pow2":
            scale = self.pow2(scale)
        return torch.where(amax.isfinite(), scale, torch.nan)

    def bounded(self, amax: torch.Tensor, operand: Operand) -> torch.Tensor:
        if operand.scale_ub is not None:
            amax = torch.minimum(amax, fp32(operand.scale_ub))
        return torch.maximum(amax, fp32(operand.eps))

    def pow2(self, scale: torch.Tensor) -> torch.Tensor:
        fraction, exponent = torch.frexp(scale)  # fraction in [½, 1)
        exponent = torch.where(fraction == 0.5, exponent - 1, exponent).clamp(-127, 127)
        return torch.ldexp(torch.ones_like(scale), exponent)

    def widened(self, scales: torch.Tensor, values: torch.Tensor, operand: Operand) -> torch.Tensor:
        if operand.block.cols == -1:
            return scales
        return scales.repeat_interleave(operand.block.cols, dim=1)[:, : values.shape[1]]

    def codes(self, values: torch.Tensor, wide: torch.Tensor, operand: Operand) -> torch.Tensor:
        return self.cast(self.quotient(values, wide), operand)

    def quotient(self, values: torch.Tensor, wide: torch.Tensor) -> torch.Tensor:
        return values / wide

    def cast(self, quotient: torch.Tensor, operand: Operand) -> torch.Tensor:
        limit = operand.max_value
        if operand.element == "int8":
            return quotient.round().clamp(-limit, limit).nan_to_num(0.0).to(torch.int8)
        dtype = torch.float8_e4m3fn if operand.element == "fp8_e4m3" else torch.float8_e5m2
        codes = quotient.clamp(-limit, limit).to(dtype).view(torch.uint8)
        return torch.where(quotient.isnan(), 0x7F, codes).view(dtype)

    def write_data(self, out: QuantizedTensor, codes: torch.Tensor) -> None:
        zero(out.data)
        m, n = codes.shape
        out.data.view(torch.uint8)[:m, :n] = codes.view(torch.uint8)

    def write_scales(self, out: QuantizedTensor, scales: torch.Tensor) -> None:
        rows, cols = scales.shape
        match out.layout.scales:
            case "scalar":
                out.scales.copy_(scales.reshape(1))
            case "packed_pow2":
                storage = column_storage(out)
                storage.zero_()
                words = self.words(scales)
                storage[: words.shape[1], :rows] = words.T
            case "col_major" | "col_major_aligned4":
                storage = column_storage(out)
                storage.zero_()
                storage[:cols, :rows] = scales.T
            case _:
                out.scales.zero_()
                out.scales[:rows, :cols] = scales

    def words(self, scales: torch.Tensor) -> torch.Tensor:
        """Four exponent bytes a word, the first in the low byte; fp32 [M, C] → int32 [M, ⌈C/4⌉]."""
        exponents = (scales.contiguous().view(torch.int32) >> 23) & 0xFF
        exponents = torch.where(scales.isnan(), 0xFF, exponents).to(torch.uint8)
        padded = functional.pad(exponents, (0, -exponents.shape[1] % 4)).contiguous()
        return self.packed(padded)

    def packed(self, exponents: torch.Tensor) -> torch.Tensor:
        return exponents.view(torch.int32)


class SiluMulQuantizer(RowQuantizer):
    """x [M, 2n] = [gate | up]: silu(gate) · up in fp32, then as its parent."""

    def values(self, x: torch.Tensor, config: Any) -> torch.Tensor:
        gate, up = x[:, : config.n].to(torch.float32), x[:, config.n :].to(torch.float32)
        return gate / (1.0 + (-gate).exp()) * up


class Nvfp4Quantizer(RowQuantizer):
    """x [M, n] into NVFP4, in all three scale layouts."""

    def call(
        self,
        config: Any,
        x: torch.Tensor,
        scale: torch.Tensor | None,
        global_scale: torch.Tensor | None,
        out: QuantizedTensor | None,
    ) -> QuantizedTensor:
        del scale
        if out is None:
            out = self.allocate(config, x.shape[0], x.device)
        values = self.values(x, config)
        g = self.dynamic_global(values) if global_scale is None else self.given(global_scale)
        inverse = fp32([1.0]) / g
        scales = self.block_scales(self.amax(values, config.operand), inverse)
        self.write_codes(out, self.fp4(values, scales, inverse))
        self.write_block_scales(out, scales)
        if out.global_scale is not None:
            out.global_scale.copy_(g)
        return out

    def given(self, global_scale: torch.Tensor) -> torch.Tensor:
        return global_scale

    def dynamic_global(self, values: torch.Tensor) -> torch.Tensor:
        size = values.abs()
        finite = size[size.isfinite()]
        peak = finite.max() if finite.numel() else fp32(0.0)
        if peak == 0:
            return fp32([1.0])
        return (peak.clamp(min=2.0**-60) / fp32(2688.0)).reshape(1)

    def block_scales(self, amax: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
        wanted = self.sixth(inverse * amax).clamp(max=448.0)
        codes = wanted.to(torch.float8_e4m3fn).view(torch.uint8)
        return torch.where(amax.isfinite(), codes, 0x7F).view(torch.float8_e4m3fn)

    def sixth(self, value: torch.Tensor) -> torch.Tensor:
        return value / fp32(6.0)

    def fp4(
        self, values: torch.Tensor, scales: torch.Tensor, inverse: torch.Tensor
    ) -> torch.Tensor:
        s = scales.to(torch.float32)
        is_used = s > 0
        multiplier = inverse / torch.where(is_used, s, 1.0)
        n = values.shape[1]
        multiplier, is_used = (t.repeat_interleave(16, 1)[:, :n] for t in (multiplier, is_used))
        scaled = values * multiplier
        # halfway points between the eight magnitudes; a tie goes to the even code
        points = fp32([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
        code = torch.bucketize(scaled.abs().nan_to_num(0.0).contiguous(), points)  # ties go down
        at_tie = (scaled.abs().unsqueeze(-1) == points).any(-1)
        code = code + (at_tie & (code % 2 == 1))
        code = code | (torch.signbit(scaled).to(torch.int64) << 3)
        return torch.where(is_used & ~scaled.isnan(), code, 0).to(torch.uint8)

    def write_codes(self, out: QuantizedTensor, codes: torch.Tensor) -> None:
        m, n = codes.shape
        codes = functional.pad(codes, (0, n % 2))
        zero(out.data)
        out.data[:m, : codes.shape[1] // 2] = self.nibbles(codes[:, ::2], codes[:, 1::2])

    def nibbles(self, even: torch.Tensor, odd: torch.Tensor) -> torch.Tensor:
        return even | (odd << 4)

    def write_block_scales(self, out: QuantizedTensor, scales: torch.Tensor) -> None:
        rows, cols = scales.shape
        storage = flat(out.scales)
        zero(storage)
        places = scale_places(out.layout.scales, rows, cols, out.layout.padded_n)
        storage.view(torch.uint8)[places] = scales.contiguous().view(torch.uint8)


class InverseRope(RowQuantizer):
    """o [T, H, D]: the last columns rotated back, then groups with power-of-two scales.

    It plays a compiled kernel: one variant for a config, which the warmup builds.
    """

    def __init__(self) -> None:
        self.built: set[Any] = set()

    def compiled_variants(self) -> int:
        return len(self.built)

    def warmup(self, config: Any, ms: Sequence[int]) -> None:
        self.built |= {self.variant(config, m) for m in ms}

    def variant(self, config: Any, m: int) -> Any:
        del m
        return config

    def bind(self, config: Any, device: DeviceProfile) -> Callable[..., QuantizedTensor]:
        del device

        def run(
            o: torch.Tensor,
            positions: torch.Tensor,
            cos_sin_cache: torch.Tensor,
            *,
            out: QuantizedTensor | None = None,
        ) -> QuantizedTensor:
            return self.rotate_and_quantize(config, o, cos_sin_cache[positions], out)

        return run

    def rotate_and_quantize(
        self, config: Any, o: torch.Tensor, angles: torch.Tensor, out: QuantizedTensor | None
    ) -> QuantizedTensor:
        from quantmux.ops.spec import op_spec

        t, operand = o.shape[0], config.operand
        self.built.add(self.variant(config, t))
        if out is None:
            like = op_spec(config.op).fake(config, t)
            data, scales = (
                torch.empty_strided(p.shape, p.stride(), dtype=p.dtype, device=o.device)
                for p in (like.data, like.scales)
            )
            if like.scales.untyped_storage().nbytes() != scales.untyped_storage().nbytes():
                # the pad rows of the last column lie behind the last element
                size = like.scales.untyped_storage().nbytes() // scales.element_size()
                scales = torch.empty(size, dtype=scales.dtype, device=o.device).as_strided(
                    like.scales.shape, like.scales.stride()
                )
            out = QuantizedTensor(data, scales, None, operand, config.layout, like.logical_shape)
        rotated = self.rotated(o.to(torch.float32), angles, config.rope_dim)
        rows = rotated.reshape(t * config.groups, config.n)
        scales = self.scales(self.amax(rows, operand), operand)
        codes = self.codes(rows, self.widened(scales, rows, operand), operand)
        out.data.view(torch.uint8).copy_(codes.view(torch.uint8).view(t, config.groups, config.n))
        columns = self.words(scales) if out.layout.scales == "packed_pow2" else scales
        columns = columns.view(t, config.groups, columns.shape[1]).permute(1, 2, 0)  # [G, S, T]
        stored = out.scales.as_strided((*columns.shape[:2], -(-t // 4) * 4), self.strides(columns))
        self.write_grouped(stored, columns)
        return out

    def strides(self, columns: torch.Tensor) -> tuple[int, int, int]:
        rows = -(-columns.shape[2] // 4) * 4
        return columns.shape[1] * rows, rows, 1

    def write_grouped(self, stored: torch.Tensor, columns: torch.Tensor) -> None:
        stored.zero_()
        stored[:, :, : columns.shape[2]] = columns

    def rotated(self, o: torch.Tensor, angles: torch.Tensor, rope_dim: int) -> torch.Tensor:
        cos, sin = (part.unsqueeze(1) for part in angles.chunk(2, dim=-1))
        kept, turned = o[..., : o.shape[-1] - rope_dim], o[..., o.shape[-1] - rope_dim :]
        even, odd = self.pairs(turned)
        return torch.cat((kept, self.joined(*self.turned_back(even, odd, cos, sin))), dim=-1)

    def pairs(self, turned: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return turned[..., ::2], turned[..., 1::2]

    def turned_back(
        self, even: torch.Tensor, odd: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return even * cos + odd * sin, odd * cos - even * sin

    def joined(self, even: torch.Tensor, odd: torch.Tensor) -> torch.Tensor:
        return torch.stack((even, odd), dim=-1).flatten(-2)


class Relayout:
    """A quantized matrix into another layout, code by code and scale by scale."""

    def bind(self, config: Any, device: DeviceProfile) -> Callable[..., QuantizedTensor]:
        del device

        def run(q: QuantizedTensor, *, out: QuantizedTensor | None = None) -> QuantizedTensor:
            if out is None:
                out = empty_quantized(config.operand, config.target, q.m, q.n, q.device)
            self.move(q, out)
            return out

        return run

    def warmup(self, config: Any, ms: Sequence[int]) -> None:
        """Do nothing: there is no code to compile."""

    def move(self, q: QuantizedTensor, out: QuantizedTensor) -> None:
        stored = -(-q.n // 2)
        zero(out.data)
        out.data[: q.m, :stored] = q.data[: q.m, :stored]
        rows, cols = q.m, -(-q.n // 16)
        source = scale_places(q.layout.scales, rows, cols, q.layout.padded_n)
        target = scale_places(out.layout.scales, rows, cols, out.layout.padded_n)
        self.blank(out)
        flat(out.scales).view(torch.uint8)[target] = flat(q.scales).view(torch.uint8)[source]
        if q.global_scale is not None and out.global_scale is not None:
            out.global_scale.copy_(q.global_scale)

    def blank(self, out: QuantizedTensor) -> None:
        zero(flat(out.scales))


group = RowQuantizer()
rows = RowQuantizer()
silu = SiluMulQuantizer()
nvfp4 = Nvfp4Quantizer()
rope = InverseRope()
relayout = Relayout()
