"""Faults that one call on fresh memory does not show: they need a second look."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from quantmux_mutants.consumers import (
    BlockLinear,
    ChannelLinear,
    Nvfp4Linear,
    WeightOnlyLinear,
)
from quantmux_mutants.memory import column_storage, zero
from quantmux_mutants.producers import InverseRope, Relayout, RowQuantizer, fp32

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantmux import DeviceProfile, LinearConfig, Operand
    from quantmux.ops.quantized import QuantizedTensor
    from quantmux.registry.protocol import PreparedWeights


class _Ring(RowQuantizer):
    """Gives one of four buffers by turns."""

    def bind(self, config: Any, device: DeviceProfile) -> Callable[..., QuantizedTensor]:
        right = super().bind(config, device)
        ring: dict[tuple[int, int], QuantizedTensor] = {}
        calls = [0]

        def run(x: torch.Tensor, *, out: QuantizedTensor | None = None, **given: Any) -> Any:
            if out is None:
                calls[0] += 1
                place = (x.shape[0], calls[0] % 4)
                if place not in ring:
                    ring[place] = self.allocate(config, x.shape[0], x.device)
                out = ring[place]
            return right(x, out=out, **given)

        return run


class _Remembered(RowQuantizer):
    """Remembers what it made of a tensor, and does not see that the tensor was filled again."""

    def __init__(self) -> None:
        self.made: dict[Any, tuple[Any, QuantizedTensor]] = {}

    def call(self, config: Any, x: Any, scale: Any, global_scale: Any, out: Any) -> QuantizedTensor:
        key = (config, x.data_ptr(), x.shape)
        known = self.made.get(key)
        if known is None or known[0]() is not x:
            right = super().call(config, x, scale, global_scale, None)
            self.made[key] = known = (weakref.ref(x), right)
        if out is None:
            out = self.allocate(config, x.shape[0], x.device)
        for target, source in zip(out.tensors(), known[1].tensors(), strict=True):
            target.copy_(source)
        if "aligned4" in config.layout.scales or "packed" in config.layout.scales:
            column_storage(out).copy_(column_storage(known[1]))
        return out


class _Hoarder(RowQuantizer):
    """Keeps every input for ever."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def values(self, x: torch.Tensor, config: Any) -> torch.Tensor:
        self.seen.append(x)
        return super().values(x, config)


class _PadsInPlace(RowQuantizer):
    """Zeroes what lies between the rows of x."""

    def values(self, x: torch.Tensor, config: Any) -> torch.Tensor:
        m, n = x.shape
        if m > 1 and x.stride(1) == 1 and x.stride(0) > n:
            shape = (m - 1, x.stride(0) - n)
            x.as_strided(shape, x.stride(), x.storage_offset() + n).zero_()
        return super().values(x, config)


class _TransposeIgnored(RowQuantizer):
    """Takes the columns of x to lie side by side."""

    def values(self, x: torch.Tensor, config: Any) -> torch.Tensor:
        if x.numel() and x.stride(1) != 1:
            x = x.as_strided(x.shape, (x.shape[1], 1))
        return super().values(x, config)


class _OneWorkspace(RowQuantizer):
    """Works in memory that it keeps by shape: two threads write it at once."""

    def __init__(self) -> None:
        self.kept: dict[Any, torch.Tensor] = {}

    def scales(self, amax: torch.Tensor, operand: Operand) -> torch.Tensor:
        right = super().scales(amax, operand)
        place = self.kept.setdefault(tuple(right.shape), torch.empty_like(right))
        return place.copy_(right)


class _OnlyOverPoison(RowQuantizer):
    """Writes where it finds NaN: right into poison, wrong into last call's result."""

    def write_scales(self, out: QuantizedTensor, scales: torch.Tensor) -> None:
        held = out.scales.to(torch.float32)
        if out.layout.scales == "packed_pow2" or bool(held.isnan().any()) or not bool(held.any()):
            super().write_scales(out, scales)


class _SpoiledLeft(RowQuantizer):
    """A block that holds NaN keeps the scale that it had."""

    def write_scales(self, out: QuantizedTensor, scales: torch.Tensor) -> None:
        rows, cols = scales.shape
        before = out.scales.clone()
        super().write_scales(out, scales)
        if out.layout.scales != "packed_pow2":
            part = out.scales[:rows, :cols]
            part.copy_(torch.where(scales.isnan(), before[:rows, :cols], part))


class _Reseeds(RowQuantizer):
    """Seeds the program's generator."""

    def values(self, x: torch.Tensor, config: Any) -> torch.Tensor:
        torch.manual_seed(0)
        return super().values(x, config)


class _DefaultDevice(RowQuantizer):
    """Makes a constant on whatever device the program prefers."""

    def bounded(self, amax: torch.Tensor, operand: Operand) -> torch.Tensor:
        least = torch.tensor([operand.eps], dtype=torch.float32)
        return torch.maximum(super().bounded(amax, operand), least)


class _PlusZero(RowQuantizer):
    """A zero has no sign."""

    def values(self, x: torch.Tensor, config: Any) -> torch.Tensor:
        right = super().values(x, config)
        return torch.where(right == 0, fp32(0.0), right)


class _FirstRows(RowQuantizer):
    """The scale of a tensor comes from its first 256 rows."""

    def amax(self, values: torch.Tensor, operand: Operand) -> torch.Tensor:
        return super().amax(values[:256] if operand.block.rows == -1 else values, operand)


class _StaticReciprocal(RowQuantizer):
    """x * RN(1 / s) where the scale is given."""

    def call(self, config: Any, x: Any, scale: Any, global_scale: Any, out: Any) -> QuantizedTensor:
        if scale is None:
            return super().call(config, x, scale, global_scale, out)
        return _Multiplied().call(config, x, scale, global_scale, out)


class _Multiplied(RowQuantizer):
    def quotient(self, values: torch.Tensor, wide: torch.Tensor) -> torch.Tensor:
        return values * (fp32(1.0) / wide)


class _PositionsContiguous(InverseRope):
    """Takes positions to lie side by side."""

    def bind(self, config: Any, device: DeviceProfile) -> Callable[..., QuantizedTensor]:
        right = super().bind(config, device)

        def run(o: torch.Tensor, positions: torch.Tensor, cache: torch.Tensor, **given: Any) -> Any:
            return right(o, positions.as_strided(positions.shape, (1,)), cache, **given)

        return run


class _SharedData(Relayout):
    """Gives the codes of its input on, where the row width stays."""

    def bind(self, config: Any, device: DeviceProfile) -> Callable[..., QuantizedTensor]:
        right = super().bind(config, device)

        def run(q: QuantizedTensor, *, out: QuantizedTensor | None = None) -> QuantizedTensor:
            made = right(q, out=out)
            is_own = out is None and made.data.shape == q.data.shape
            return replace(made, data=q.data) if is_own else made

        return run


class _DeepColumns(ChannelLinear):
    """Columns of K beyond 4096 are lost."""

    def product(self, a: torch.Tensor, w: torch.Tensor, config: LinearConfig) -> torch.Tensor:
        return super().product(a[:, :4096], w[:, :4096], config)


class _OddSplits(ChannelLinear):
    """Cuts K into parts of 1024 and loses the last where their number is odd."""

    def product(self, a: torch.Tensor, w: torch.Tensor, config: LinearConfig) -> torch.Tensor:
        parts = -(-config.k // 1024)
        last = (parts - 1) * 1024 if parts > 1 and parts % 2 else config.k
        return super().product(a[:, :last], w[:, :last], config)


class _ManyOutputs(ChannelLinear):
    """Outputs beyond 8192 are zero."""

    def product(self, a: torch.Tensor, w: torch.Tensor, config: LinearConfig) -> torch.Tensor:
        y = super().product(a, w, config)
        y[:, 8192:] = 0.0
        return y


class _HalfIsBrain(ChannelLinear):
    """Reads a bias of fp16 as bf16."""

    def with_bias(
        self, y: torch.Tensor, bias: torch.Tensor | None, config: LinearConfig
    ) -> torch.Tensor:
        if bias is not None and bias.dtype == torch.float16:
            bias = bias.view(torch.bfloat16)
        return super().with_bias(y, bias, config)


class _AddsToOut(ChannelLinear):
    """Adds to what ``out`` holds, if that is finite."""

    def stored(self, y: torch.Tensor, config: LinearConfig, out: Any) -> torch.Tensor:
        if out is not None and out.numel() and bool(out.isfinite().all()):
            y = y + out.to(torch.float64)
        return super().stored(y, config, out)


class _OtherForm(ChannelLinear):
    """Prepares other scales than its twin under one name, and undoes that in every call."""

    def prepared_scales(self, weights: Any, n: int) -> torch.Tensor:
        return super().prepared_scales(weights, n) * 0.5

    def weight_values(self, tensors: Any, config: LinearConfig) -> torch.Tensor:
        return super().weight_values(tensors, config) * 2.0


class _NotCanonical(BlockLinear):
    """Calls weights canonical whose scales it has changed."""

    def prepare(self, weights: Any, config: LinearConfig, device: DeviceProfile) -> PreparedWeights:
        made = replace(weights, scales=weights.scales * 0.5)
        return super().prepare(made, config, device)

    def block_grid(self, scales: torch.Tensor) -> torch.Tensor:
        return scales * 2.0


class _InfSaturates(WeightOnlyLinear):
    """An Inf in x is the largest number there is."""

    def activations(self, x: torch.Tensor, config: LinearConfig) -> torch.Tensor:
        return super().activations(x.nan_to_num(nan=torch.nan), config)


class _GridOfThree(BlockLinear):
    """Reads a square grid of three blocks or more transposed."""

    def block_grid(self, scales: torch.Tensor) -> torch.Tensor:
        return scales.T if scales.shape[0] == scales.shape[1] > 2 else scales


class _ZeroByZero(Nvfp4Linear):
    """Divides by the scales of weights, of which some are 0."""

    def weight_values(self, tensors: Any, config: LinearConfig) -> torch.Tensor:
        right = super().weight_values(tensors, config)
        wide = tensors["scales"].to(torch.float64).repeat_interleave(16, dim=1)
        wide = wide[:, : config.k]
        return right * (wide / wide)


class _Flushes(ChannelLinear):
    """Turns subnormal numbers off, for everybody and for good."""

    def product(self, a: torch.Tensor, w: torch.Tensor, config: LinearConfig) -> torch.Tensor:
        torch.set_flush_denormal(True)
        return super().product(a, w, config)


class _OneAccumulator(ChannelLinear):
    """Keeps its products by shape: two threads write them at once."""

    def __init__(self) -> None:
        self.kept: dict[Any, torch.Tensor] = {}

    def product(self, a: torch.Tensor, w: torch.Tensor, config: LinearConfig) -> torch.Tensor:
        right = super().product(a, w, config)
        return self.kept.setdefault(tuple(right.shape), torch.empty_like(right)).copy_(right)


class _SecondCall(RowQuantizer):
    """Is wrong once it has been called twice."""

    def __init__(self) -> None:
        self.calls = 0

    def write_data(self, out: QuantizedTensor, codes: torch.Tensor) -> None:
        self.calls += 1
        super().write_data(out, codes)
        if self.calls > 1:
            zero(out.data)


ring = _Ring()
remembered = _Remembered()
hoarder = _Hoarder()
pads_in_place = _PadsInPlace()
transpose_ignored = _TransposeIgnored()
one_workspace = _OneWorkspace()
only_over_poison = _OnlyOverPoison()
spoiled_left = _SpoiledLeft()
reseeds = _Reseeds()
default_device = _DefaultDevice()
plus_zero = _PlusZero()
second_call = _SecondCall()
first_rows = _FirstRows()
static_reciprocal = _StaticReciprocal()
positions_contiguous = _PositionsContiguous()
shared_data = _SharedData()
deep_columns = _DeepColumns()
odd_splits = _OddSplits()
many_outputs = _ManyOutputs()
half_is_brain = _HalfIsBrain()
adds_to_out = _AddsToOut()
other_form = _OtherForm()
not_canonical = _NotCanonical()
inf_saturates = _InfSaturates()
grid_of_three = _GridOfThree()
zero_by_zero = _ZeroByZero()
flushes = _Flushes()
one_accumulator = _OneAccumulator()
