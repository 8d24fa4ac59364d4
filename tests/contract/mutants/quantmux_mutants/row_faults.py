"""Quantizers of rows with one fault each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from quantmux_mutants.memory import column_storage, flat, zero
from quantmux_mutants.producers import RowQuantizer

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantmux import DeviceProfile, Operand
    from quantmux.ops.quantized import QuantizedTensor


class _AllZeros(RowQuantizer):
    def call(self, config: Any, x: Any, scale: Any, global_scale: Any, out: Any) -> QuantizedTensor:
        out = super().call(config, x, scale, global_scale, out)
        zero(out.data)
        zero(column_storage(out) if "col_major" in out.layout.scales else out.scales)
        return out


class _Stale(RowQuantizer):
    """Keeps the answer of the first call with so many rows."""

    def bind(self, config: Any, device: DeviceProfile) -> Callable[..., QuantizedTensor]:
        right = super().bind(config, device)
        kept: dict[int, QuantizedTensor] = {}

        def run(x: torch.Tensor, *, out: QuantizedTensor | None = None, **given: Any) -> Any:
            first = kept.setdefault(x.shape[0], right(x, **given))
            if out is None:
                out = self.allocate(config, x.shape[0], x.device)
            for target, source in zip(out.tensors(), first.tensors(), strict=True):
                target.copy_(source)
            if "aligned4" in config.layout.scales or "packed" in config.layout.scales:
                column_storage(out).copy_(column_storage(first))
            return out

        return run


class _OutIgnored(RowQuantizer):
    def call(self, config: Any, x: Any, scale: Any, global_scale: Any, out: Any) -> QuantizedTensor:
        del out
        return super().call(config, x, scale, global_scale, None)


class _SameBuffer(RowQuantizer):
    """Gives one buffer again and again: the caller's last result changes under its feet."""

    def bind(self, config: Any, device: DeviceProfile) -> Callable[..., QuantizedTensor]:
        right = super().bind(config, device)
        kept: dict[int, QuantizedTensor] = {}

        def run(x: torch.Tensor, *, out: QuantizedTensor | None = None, **given: Any) -> Any:
            if out is None:
                m = x.shape[0]
                out = kept.setdefault(m, self.allocate(config, m, x.device))
            return right(x, out=out, **given)

        return run


class _WrongEps(RowQuantizer):
    def bounded(self, amax: torch.Tensor, operand: Operand) -> torch.Tensor:
        return super().bounded(amax, operand.replace(eps=1e-12))


class _FloorOnScale(RowQuantizer):
    def scales(self, amax: torch.Tensor, operand: Operand) -> torch.Tensor:
        bound = amax if operand.scale_ub is None else amax.clamp(max=operand.scale_ub)
        scale = (bound / torch.tensor(operand.max_value)).clamp(min=operand.eps)
        if operand.scale_rounding == "pow2":
            scale = self.pow2(scale)
        return torch.where(amax.isfinite(), scale, torch.nan)


class _LeastScale(RowQuantizer):
    def scales(self, amax: torch.Tensor, operand: Operand) -> torch.Tensor:
        scale = super().scales(amax, operand)
        return torch.maximum(scale, torch.tensor(1.0 / (operand.max_value * 512.0)))


class _Reciprocal(RowQuantizer):
    def quotient(self, values: torch.Tensor, wide: torch.Tensor) -> torch.Tensor:
        return values * (torch.ones(()) / wide)


class _ScaleByReciprocal(RowQuantizer):
    def scales(self, amax: torch.Tensor, operand: Operand) -> torch.Tensor:
        scale = self.bounded(amax, operand) * (torch.ones(()) / operand.max_value)
        if operand.scale_rounding == "pow2":
            scale = self.pow2(scale)
        return torch.where(amax.isfinite(), scale, torch.nan)


class _Pow2Dropped(RowQuantizer):
    def pow2(self, scale: torch.Tensor) -> torch.Tensor:
        return scale


class _Pow2ByLog2(RowQuantizer):
    def pow2(self, scale: torch.Tensor) -> torch.Tensor:
        return torch.exp2(torch.ceil(torch.log2(scale)))


class _Pow2Nearest(RowQuantizer):
    def pow2(self, scale: torch.Tensor) -> torch.Tensor:
        return torch.exp2(torch.round(torch.log2(scale)))


class _DirtyDataColumns(RowQuantizer):
    def write_data(self, out: QuantizedTensor, codes: torch.Tensor) -> None:
        m, n = codes.shape
        zero(out.data[m:])
        out.data.view(torch.uint8)[:m, :n] = codes.view(torch.uint8)


class _DirtyDataRows(RowQuantizer):
    def write_data(self, out: QuantizedTensor, codes: torch.Tensor) -> None:
        m, n = codes.shape
        out.data.view(torch.uint8)[:m, n:] = 0
        out.data.view(torch.uint8)[:m, :n] = codes.view(torch.uint8)


class _DirtyScaleRows(RowQuantizer):
    def write_scales(self, out: QuantizedTensor, scales: torch.Tensor) -> None:
        rows, cols = scales.shape
        if out.layout.scales == "packed_pow2":
            super().write_scales(out, scales)
            return
        out.scales[:rows, cols:] = 0
        out.scales[:rows, :cols] = scales
        if "aligned4" in out.layout.scales:
            column_storage(out)[:, out.scales.shape[0] :] = 0


class _DirtyScaleColumns(RowQuantizer):
    def write_scales(self, out: QuantizedTensor, scales: torch.Tensor) -> None:
        rows, cols = scales.shape
        if out.layout.scales == "packed_pow2":
            super().write_scales(out, scales)
            return
        out.scales[rows:] = 0
        out.scales[:rows, :cols] = scales
        if "aligned4" in out.layout.scales:
            column_storage(out)[:, out.scales.shape[0] :] = 0


class _DirtyAlignedRows(RowQuantizer):
    """Leaves the rows between M and R4(M), which shape and strides do not show."""

    def write_scales(self, out: QuantizedTensor, scales: torch.Tensor) -> None:
        if "aligned4" not in out.layout.scales:
            super().write_scales(out, scales)
            return
        rows, cols = scales.shape
        out.scales.zero_()
        out.scales[:rows, :cols] = scales


class _BigEndianWords(RowQuantizer):
    def packed(self, exponents: torch.Tensor) -> torch.Tensor:
        m, cols = exponents.shape
        return exponents.view(m, cols // 4, 4).flip(-1).reshape(m, cols).view(torch.int32)


class _RowsLabelledColumns(RowQuantizer):
    def write_scales(self, out: QuantizedTensor, scales: torch.Tensor) -> None:
        if out.layout.scales != "col_major":
            super().write_scales(out, scales)
            return
        rows, cols = out.scales.shape
        storage = column_storage(out).view(rows, cols) if rows and cols else out.scales
        storage.zero_()
        storage[: scales.shape[0], : scales.shape[1]] = scales


class _LastRow(RowQuantizer):
    def write_data(self, out: QuantizedTensor, codes: torch.Tensor) -> None:
        super().write_data(out, codes)
        if codes.shape[0] > 1:
            zero(out.data[codes.shape[0] - 1 :])


class _LastGroup(RowQuantizer):
    """Counts whole groups: a partial last one is left zero."""

    def write_data(self, out: QuantizedTensor, codes: torch.Tensor) -> None:
        super().write_data(out, codes)
        cols = out.operand.block.cols
        whole = codes.shape[1] // cols * cols
        out.data.view(torch.uint8)[:, whole:] = 0


class _LastElement(RowQuantizer):
    """The largest magnitude is looked for in all columns but the last."""

    def amax(self, values: torch.Tensor, operand: Operand) -> torch.Tensor:
        if values.shape[1] > 1:
            values = torch.cat((values[:, :-1], torch.zeros_like(values[:, -1:])), dim=1)
        return super().amax(values, operand)


class _EightRowsWrong(RowQuantizer):
    def write_data(self, out: QuantizedTensor, codes: torch.Tensor) -> None:
        super().write_data(out, codes)
        zero(out.data[codes.shape[0] // 8 * 8 :])


class _EightRowsRaises(RowQuantizer):
    def values(self, x: torch.Tensor, config: Any) -> torch.Tensor:
        if x.shape[0] % 8:
            raise ValueError(f"M = {x.shape[0]} is not a multiple of 8")
        return super().values(x, config)


class _PaddedNIgnored(RowQuantizer):
    """Writes rows of n elements one behind the other, whatever their stored width."""

    def write_data(self, out: QuantizedTensor, codes: torch.Tensor) -> None:
        zero(out.data)
        storage = flat(out.data).view(torch.uint8)
        storage[: codes.numel()] = codes.view(torch.uint8).flatten()


class _BoundOnScale(RowQuantizer):
    def scales(self, amax: torch.Tensor, operand: Operand) -> torch.Tensor:
        scale = super().scales(amax, operand.replace(scale_ub=None))
        if operand.scale_ub is None:
            return scale
        return torch.minimum(scale, torch.tensor(operand.scale_ub))


class _NanDropped(RowQuantizer):
    def amax(self, values: torch.Tensor, operand: Operand) -> torch.Tensor:
        return super().amax(values.nan_to_num(0.0, torch.inf, -torch.inf), operand)


class _InfSaturates(RowQuantizer):
    def values(self, x: torch.Tensor, config: Any) -> torch.Tensor:
        most = torch.finfo(torch.float32).max
        values = super().values(x, config)
        return torch.where(values.isinf(), values.clamp(-most, most), values)


class _NanCodes(RowQuantizer):
    def cast(self, quotient: torch.Tensor, operand: Operand) -> torch.Tensor:
        quotient = torch.where(quotient.abs() > operand.max_value, torch.nan, quotient)
        return super().cast(quotient, operand)


class _Overrun(RowQuantizer):
    """Writes whole vectors of 16 bytes, past the end of the last one where there is memory."""

    def write_data(self, out: QuantizedTensor, codes: torch.Tensor) -> None:
        super().write_data(out, codes)
        end = out.data.storage_offset() + out.data.numel()
        if out.data.untyped_storage().nbytes() >= end + 16:
            zero(out.data.as_strided((16,), (1,), end))


class _InputChanged(RowQuantizer):
    def values(self, x: torch.Tensor, config: Any) -> torch.Tensor:
        values = super().values(x, config).clone()
        x.clamp_(-1.0, 1.0)
        return values


class _DefaultDtype(RowQuantizer):
    """The floor is a constant of the program's default dtype."""

    def bounded(self, amax: torch.Tensor, operand: Operand) -> torch.Tensor:
        right = super().bounded(amax, operand)
        return torch.where(amax < operand.eps, torch.tensor(operand.eps, device="cpu"), right)


class _DirtyOwnOutput(RowQuantizer):
    """Zeroes the padding of ``out``, and not that of memory it has just allocated."""

    def call(self, config: Any, x: Any, scale: Any, global_scale: Any, out: Any) -> QuantizedTensor:
        made = super().call(config, x, scale, global_scale, out)
        if out is not None or "aligned4" not in config.layout.scales:
            return made
        fresh = self.allocate(config, x.shape[0], x.device)
        fresh.data.copy_(made.data)
        fresh.scales.copy_(made.scales)
        return fresh


class _LastConfig(RowQuantizer):
    """Keeps its config on itself: every bound function works by the last one that was bound."""

    def bind(self, config: Any, device: DeviceProfile) -> Callable[..., QuantizedTensor]:
        self.config = config
        own = super().bind(config, device)

        def run(x: torch.Tensor, *, out: QuantizedTensor | None = None, **given: Any) -> Any:
            if self.config.n != config.n or self.config.layout != config.layout:
                return own(x, out=out, **given)  # else it would not even run
            return super(_LastConfig, self).bind(self.config, device)(x, out=out, **given)

        return run


class _StridesIgnored(RowQuantizer):
    """Takes the rows of x to lie one behind the other."""

    def values(self, x: torch.Tensor, config: Any) -> torch.Tensor:
        if x.numel():
            x = x.as_strided(x.shape, (x.shape[1], 1))
        return super().values(x, config)


class _TooManyRows(RowQuantizer):
    """A tile buffer of 256 rows: what lies beyond keeps its zeros."""

    def write_data(self, out: QuantizedTensor, codes: torch.Tensor) -> None:
        super().write_data(out, codes)
        zero(out.data[256:])


class _Sm90Only(RowQuantizer):
    def values(self, x: torch.Tensor, config: Any) -> torch.Tensor:
        if x.device.type != "cuda":
            raise RuntimeError("no kernel image is available for execution on the device")
        return super().values(x, config)


class _HalfAway(RowQuantizer):
    def cast(self, quotient: torch.Tensor, operand: Operand) -> torch.Tensor:
        if operand.element != "int8":
            return super().cast(quotient, operand)
        away = torch.sign(quotient) * torch.floor(quotient.abs() + 0.5)
        return super().cast(away, operand)


class _Minus128(RowQuantizer):
    def cast(self, quotient: torch.Tensor, operand: Operand) -> torch.Tensor:
        if operand.element != "int8":
            return super().cast(quotient, operand)
        return quotient.round().clamp(-128.0, 127.0).nan_to_num(0.0).to(torch.int8)


class _StaticIgnored(RowQuantizer):
    """Computes a scale from x where one was given."""

    def call(self, config: Any, x: Any, scale: Any, global_scale: Any, out: Any) -> QuantizedTensor:
        made = super().call(config, x, None, global_scale, out)
        if scale is not None:
            made.scales.copy_(scale)
        return made


class _ScaleChanged(RowQuantizer):
    """Floors the caller's static scale in place."""

    def call(self, config: Any, x: Any, scale: Any, global_scale: Any, out: Any) -> QuantizedTensor:
        made = super().call(config, x, scale, global_scale, out)
        if scale is not None:
            scale.mul_(1.0 + 2.0**-20)
        return made


all_zeros = _AllZeros()
stale = _Stale()
out_ignored = _OutIgnored()
same_buffer = _SameBuffer()
wrong_eps = _WrongEps()
floor_on_scale = _FloorOnScale()
least_scale = _LeastScale()
reciprocal = _Reciprocal()
scale_by_reciprocal = _ScaleByReciprocal()
pow2_dropped = _Pow2Dropped()
pow2_by_log2 = _Pow2ByLog2()
pow2_nearest = _Pow2Nearest()
dirty_data_columns = _DirtyDataColumns()
dirty_data_rows = _DirtyDataRows()
dirty_scale_rows = _DirtyScaleRows()
dirty_scale_columns = _DirtyScaleColumns()
dirty_aligned_rows = _DirtyAlignedRows()
big_endian_words = _BigEndianWords()
rows_labelled_columns = _RowsLabelledColumns()
last_row = _LastRow()
last_group = _LastGroup()
last_element = _LastElement()
eight_rows_wrong = _EightRowsWrong()
eight_rows_raises = _EightRowsRaises()
padded_n_ignored = _PaddedNIgnored()
bound_on_scale = _BoundOnScale()
nan_dropped = _NanDropped()
inf_saturates = _InfSaturates()
nan_codes = _NanCodes()
overrun = _Overrun()
input_changed = _InputChanged()
too_many_rows = _TooManyRows()
sm90_only = _Sm90Only()
half_away = _HalfAway()
minus_128 = _Minus128()
static_ignored = _StaticIgnored()
scale_changed = _ScaleChanged()
strides_ignored = _StridesIgnored()
default_dtype = _DefaultDtype()
dirty_own_output = _DirtyOwnOutput()
last_config = _LastConfig()
