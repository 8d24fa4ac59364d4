"""Producers of the other ops, and of NVFP4, with one fault each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from quantmux_mutants.memory import flat, scale_places, zero
from quantmux_mutants.producers import InverseRope, Nvfp4Quantizer, Relayout, SiluMulQuantizer

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantmux import DeviceProfile
    from quantmux.ops.quantized import QuantizedTensor


class _SiluInBf16(SiluMulQuantizer):
    def values(self, x: torch.Tensor, config: Any) -> torch.Tensor:
        return super().values(x, config).to(torch.bfloat16).to(torch.float32)


class _HalvesSwapped(SiluMulQuantizer):
    def values(self, x: torch.Tensor, config: Any) -> torch.Tensor:
        return super().values(x.roll(config.n, dims=1), config)


class _ExpOverflows(SiluMulQuantizer):
    """silu as gate · e / (1 + e): inf / inf for large gates."""

    def values(self, x: torch.Tensor, config: Any) -> torch.Tensor:
        gate, up = x[:, : config.n].to(torch.float32), x[:, config.n :].to(torch.float32)
        e = gate.exp()
        return gate * (e / (1.0 + e)) * up


class _Nibbles(Nvfp4Quantizer):
    def nibbles(self, even: torch.Tensor, odd: torch.Tensor) -> torch.Tensor:
        return odd | (even << 4)


class _RowsLabelledTiles(Nvfp4Quantizer):
    def write_block_scales(self, out: QuantizedTensor, scales: torch.Tensor) -> None:
        if out.layout.scales != "swizzled_128x4":
            super().write_block_scales(out, scales)
            return
        zero(out.scales)
        out.scales.view(torch.uint8)[: scales.shape[0], : scales.shape[1]] = scales.view(
            torch.uint8
        )


class _SmallTilesLabelledLarge(Nvfp4Quantizer):
    def write_block_scales(self, out: QuantizedTensor, scales: torch.Tensor) -> None:
        if out.layout.scales != "swizzled_128x4":
            super().write_block_scales(out, scales)
            return
        zero(out.scales)
        places = scale_places("swizzled_8x4", *scales.shape, out.layout.padded_n)
        flat(out.scales).view(torch.uint8)[places] = scales.view(torch.uint8)


class _DirtyTiles(Nvfp4Quantizer):
    """Writes the scales that exist; those of the rows and columns beyond keep what they held."""

    def write_block_scales(self, out: QuantizedTensor, scales: torch.Tensor) -> None:
        places = scale_places(out.layout.scales, *scales.shape, out.layout.padded_n)
        flat(out.scales).view(torch.uint8)[places] = scales.contiguous().view(torch.uint8)


class _GivenGlobalIgnored(Nvfp4Quantizer):
    def given(self, global_scale: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(global_scale)


class _GlobalInverted(Nvfp4Quantizer):
    def given(self, global_scale: torch.Tensor) -> torch.Tensor:
        return torch.ones(1) / global_scale


class _GlobalNotWritten(Nvfp4Quantizer):
    """Leaves the global scale of its result to whoever gave it."""

    def call(self, config: Any, x: Any, scale: Any, global_scale: Any, out: Any) -> QuantizedTensor:
        if out is None or global_scale is None:
            return super().call(config, x, scale, global_scale, out)
        held = out.global_scale.clone()
        made = super().call(config, x, scale, global_scale, out)
        out.global_scale.copy_(held)
        return made


class _SixthByReciprocal(Nvfp4Quantizer):
    def sixth(self, value: torch.Tensor) -> torch.Tensor:
        return value * (torch.ones(()) / 6.0)


class _TiesAway(Nvfp4Quantizer):
    def fp4(self, values: torch.Tensor, scales: torch.Tensor, inverse: torch.Tensor) -> Any:
        s = scales.to(torch.float32)
        is_used = (s > 0).repeat_interleave(16, 1)[:, : values.shape[1]]
        wide = (inverse / torch.where(s > 0, s, 1.0)).repeat_interleave(16, 1)
        scaled = values * wide[:, : values.shape[1]]
        points = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
        code = torch.bucketize(scaled.abs().nan_to_num(0.0), points, right=True)
        code = code | (torch.signbit(scaled).to(torch.int64) << 3)
        return torch.where(is_used & ~scaled.isnan(), code, 0).to(torch.uint8)


class _RopeForward(InverseRope):
    def turned_back(self, even: Any, odd: Any, cos: Any, sin: Any) -> Any:
        return super().turned_back(even, odd, cos, -sin)


class _RopeHalves(InverseRope):
    """Pairs column i with i + rope_dim / 2, as other models lay them out."""

    def pairs(self, turned: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first, second = turned.chunk(2, dim=-1)
        return first, second

    def joined(self, even: torch.Tensor, odd: torch.Tensor) -> torch.Tensor:
        return torch.cat((even, odd), dim=-1)


class _RopeFirstColumns(InverseRope):
    def rotated(self, o: torch.Tensor, angles: torch.Tensor, rope_dim: int) -> torch.Tensor:
        turned = super().rotated(o.roll(-rope_dim, dims=-1), angles, rope_dim)
        return turned.roll(rope_dim, dims=-1)


class _RopeInBf16(InverseRope):
    def rotated(self, o: torch.Tensor, angles: torch.Tensor, rope_dim: int) -> torch.Tensor:
        return super().rotated(o, angles, rope_dim).to(torch.bfloat16).to(torch.float32)


class _RopeDirtyRows(InverseRope):
    def write_grouped(self, stored: torch.Tensor, columns: torch.Tensor) -> None:
        stored[:, :, : columns.shape[2]] = columns


class _VariantPerRows(InverseRope):
    """Compiles for T = 1, for multiples of 16, and for the rest."""

    def variant(self, config: Any, m: int) -> Any:
        return config, m == 1, m % 16 == 0


class _BuiltByCalls(InverseRope):
    def warmup(self, config: Any, ms: Any) -> None:
        """Leave it to the first call."""


class _RelayoutKept(Relayout):
    """Gives one buffer again and again."""

    def bind(self, config: Any, device: DeviceProfile) -> Callable[..., QuantizedTensor]:
        right = super().bind(config, device)
        kept: dict[int, QuantizedTensor] = {}

        def run(q: QuantizedTensor, *, out: QuantizedTensor | None = None) -> QuantizedTensor:
            if out is None and q.m in kept:
                return right(q, out=kept[q.m])
            made = right(q, out=out)
            return kept.setdefault(q.m, made) if out is None else made

        return run


class _RelaidOnlyByName(Relayout):
    """Copies the bytes of the scales as they lie."""

    def move(self, q: QuantizedTensor, out: QuantizedTensor) -> None:
        super().move(q, out)
        zero(out.scales)
        size = min(q.scales.numel(), out.scales.numel())
        flat(out.scales).view(torch.uint8)[:size] = flat(q.scales).view(torch.uint8)[:size]


class _RelayoutDirty(Relayout):
    def blank(self, out: QuantizedTensor) -> None:
        """Leave what the tiles' padding held."""


class _RelayoutLosesGlobal(Relayout):
    def bind(self, config: Any, device: DeviceProfile) -> Callable[..., QuantizedTensor]:
        right = super().bind(config, device)

        def run(q: QuantizedTensor, *, out: QuantizedTensor | None = None) -> QuantizedTensor:
            made = right(q, out=out)
            if q.global_scale is not None and made.global_scale is not None:
                made.global_scale.fill_(1.0)
            return made

        return run


silu_in_bf16 = _SiluInBf16()
halves_swapped = _HalvesSwapped()
exp_overflows = _ExpOverflows()
nibbles = _Nibbles()
rows_labelled_tiles = _RowsLabelledTiles()
small_tiles_labelled_large = _SmallTilesLabelledLarge()
dirty_tiles = _DirtyTiles()
given_global_ignored = _GivenGlobalIgnored()
global_inverted = _GlobalInverted()
sixth_by_reciprocal = _SixthByReciprocal()
ties_away = _TiesAway()
rope_forward = _RopeForward()
rope_halves = _RopeHalves()
rope_first_columns = _RopeFirstColumns()
rope_in_bf16 = _RopeInBf16()
rope_dirty_rows = _RopeDirtyRows()
relaid_only_by_name = _RelaidOnlyByName()
relayout_dirty = _RelayoutDirty()
relayout_loses_global = _RelayoutLosesGlobal()
variant_per_rows = _VariantPerRows()
built_by_calls = _BuiltByCalls()
relayout_kept = _RelayoutKept()
global_not_written = _GlobalNotWritten()
