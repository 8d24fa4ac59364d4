"""Linears with one fault each."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from quantmux.ops.linear.spec import empty_output
from quantmux.ops.quantized import DTYPES, LinearWeights
from quantmux_mutants.consumers import (
    BlockLinear,
    ChannelLinear,
    InsideLinear,
    Int8Linear,
    Nvfp4Linear,
    WeightOnlyLinear,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantmux import DeviceProfile, LinearConfig
    from quantmux.registry.protocol import PreparedWeights


class _AllZeros(ChannelLinear):
    def product(self, a: torch.Tensor, w: torch.Tensor, config: LinearConfig) -> torch.Tensor:
        return torch.zeros_like(super().product(a, w, config))


class _Stale(ChannelLinear):
    """Keeps the answer of the first call with so many rows."""

    def bind(
        self, config: LinearConfig, prepared: PreparedWeights, device: DeviceProfile
    ) -> Callable[..., torch.Tensor]:
        right = super().bind(config, prepared, device)
        kept: dict[int, torch.Tensor] = {}

        def run(x: Any, *, out: torch.Tensor | None = None) -> torch.Tensor:
            first = kept.setdefault(x.m, right(x))
            return (self.allocate(x.m, config) if out is None else out).copy_(first)

        return run


class _OutIgnored(ChannelLinear):
    def stored(self, y: torch.Tensor, config: LinearConfig, out: Any) -> torch.Tensor:
        del out
        return super().stored(y, config, None)


class _SameBuffer(ChannelLinear):
    """Gives one buffer again and again: the caller's last result changes under its feet."""

    def bind(
        self, config: LinearConfig, prepared: PreparedWeights, device: DeviceProfile
    ) -> Callable[..., torch.Tensor]:
        right = super().bind(config, prepared, device)
        kept: dict[int, torch.Tensor] = {}

        def run(x: Any, *, out: torch.Tensor | None = None) -> torch.Tensor:
            if out is None:
                out = kept.setdefault(x.m, self.allocate(x.m, config))
            return right(x, out=out)

        return run


class _BiasSkipped(ChannelLinear):
    def with_bias(self, y: torch.Tensor, bias: Any, config: LinearConfig) -> torch.Tensor:
        del bias, config
        return y


class _BiasRounded(ChannelLinear):
    """Rounds the product to the output's format, then adds the bias and rounds again."""

    def with_bias(self, y: torch.Tensor, bias: Any, config: LinearConfig) -> torch.Tensor:
        if bias is None:
            return y
        rounded = y.to(torch.float32).to(DTYPES[config.out_dtype]).to(torch.float64)
        return super().with_bias(rounded, bias, config)


class _BiasNarrowed(ChannelLinear):
    """Rounds the bias to the output's format before it is added."""

    def with_bias(self, y: torch.Tensor, bias: Any, config: LinearConfig) -> torch.Tensor:
        if bias is not None:
            bias = bias.to(DTYPES[config.out_dtype])
        return super().with_bias(y, bias, config)


class _TwoRoundings(ChannelLinear):
    """A bf16 intermediate on the way to any output."""

    def product(self, a: torch.Tensor, w: torch.Tensor, config: LinearConfig) -> torch.Tensor:
        return super().product(a, w, config).to(torch.bfloat16).to(torch.float64)


class _HalfSums(ChannelLinear):
    """Keeps its sums in fp16 from one 16 columns to the next, though ``exact`` is declared."""

    def product(self, a: torch.Tensor, w: torch.Tensor, config: LinearConfig) -> torch.Tensor:
        del config
        y = torch.zeros(a.shape[0], w.shape[0], dtype=torch.float64)
        if not a.numel():
            return y
        size = a.abs().amax().clamp(min=1e-30) * w.abs().amax().clamp(min=1e-30) * 64.0
        for start in range(0, a.shape[1], 16):
            part = a[:, start : start + 16] @ w[:, start : start + 16].T
            y = ((y + part) / size).to(torch.float16).to(torch.float64) * size
        return y


class _LastColumnOfK(ChannelLinear):
    def product(self, a: torch.Tensor, w: torch.Tensor, config: LinearConfig) -> torch.Tensor:
        return super().product(a[:, :-1], w[:, :-1], config)


class _LastRowLeft(ChannelLinear):
    """The last row of y is not written."""

    def stored(self, y: torch.Tensor, config: LinearConfig, out: Any) -> torch.Tensor:
        if out is None:
            out = self.allocate(y.shape[0], config)
        out[: y.shape[0] - 1] = y[: y.shape[0] - 1].to(torch.float32)
        return out


class _LastColumnsOfN(ChannelLinear):
    """Whole tiles of eight columns: those beyond are zero."""

    def product(self, a: torch.Tensor, w: torch.Tensor, config: LinearConfig) -> torch.Tensor:
        y = super().product(a, w, config)
        y[:, config.n // 8 * 8 :] = 0
        return y


class _EightRowsWrong(ChannelLinear):
    def product(self, a: torch.Tensor, w: torch.Tensor, config: LinearConfig) -> torch.Tensor:
        y = super().product(a, w, config)
        y[y.shape[0] // 8 * 8 :] = 0
        return y


class _PreparedInPlace(ChannelLinear):
    """Folds a factor into the checkpoint's own scales."""

    def prepare(self, weights: LinearWeights, config: Any, device: Any) -> PreparedWeights:
        right = super().prepare(weights, config, device)
        weights.scales.mul_(0.5)
        return right


class _PreparedOnce(ChannelLinear):
    """Keeps a count: what is prepared a second time is not what it was."""

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def prepare(self, weights: LinearWeights, config: Any, device: Any) -> PreparedWeights:
        key = weights.data.data_ptr()
        if key in self.seen:
            weights = replace(weights, scales=weights.scales * 2.0)
        self.seen.add(key)
        return super().prepare(weights, config, device)


class _NanSwallowed(ChannelLinear):
    """A row that holds NaN comes out as zeros."""

    def scaled(self, y: torch.Tensor, tensors: Any, x: Any) -> torch.Tensor:
        return super().scaled(y, tensors, x).nan_to_num(0.0)


class _OffsetIgnored(ChannelLinear):
    """Reads codes from the beginning of their storage: a part of a fused weight is not there."""

    def prepare(self, weights: LinearWeights, config: Any, device: Any) -> PreparedWeights:
        data = weights.data.as_strided(weights.data.shape, weights.data.stride(), 0)
        return super().prepare(replace(weights, data=data), config, device)


class _NarrowedByAutocast(ChannelLinear):
    """An fp32 matmul, which autocast makes one of bf16."""

    def product(self, a: torch.Tensor, w: torch.Tensor, config: LinearConfig) -> torch.Tensor:
        del config
        return (a.to(torch.float32) @ w.to(torch.float32).T).to(torch.float64)


class _LastLayer(ChannelLinear):
    """Keeps the weights on itself: every layer of one shape multiplies by the last one bound."""

    def __init__(self) -> None:
        self.last: dict[Any, PreparedWeights] = {}

    def bind(
        self, config: LinearConfig, prepared: PreparedWeights, device: DeviceProfile
    ) -> Callable[..., torch.Tensor]:
        del device
        self.last[config] = prepared

        def run(x: Any, *, out: torch.Tensor | None = None) -> torch.Tensor:
            tensors = self.last[config].tensors
            return self.call(config, tensors, self.weight_values(tensors, config), x, out)

        return run


class _PreparedByShape(ChannelLinear):
    """Keeps what it prepared by shape and scheme: the next layer of that shape gets it too."""

    def __init__(self) -> None:
        self.kept: dict[Any, PreparedWeights] = {}

    def prepare(self, weights: LinearWeights, config: Any, device: Any) -> PreparedWeights:
        key = (config, None if weights.bias is None else weights.bias.data_ptr())
        if key not in self.kept:
            self.kept[key] = super().prepare(weights, config, device)
        return self.kept[key]


class _OutStrideIgnored(ChannelLinear):
    """Stores rows N apart, whatever the stride of ``out``."""

    def stored(self, y: torch.Tensor, config: LinearConfig, out: Any) -> torch.Tensor:
        if out is None or not out.numel():
            return super().stored(y, config, out)
        out.as_strided(y.shape, (config.n, 1)).copy_(y.to(torch.float32))
        return out


class _PaddedN(ChannelLinear):
    """Takes the padded N for the logical one."""

    def logical(self, data: torch.Tensor, config: LinearConfig) -> tuple[int, int]:
        del config
        return data.shape[0], data.shape[1]


class _RestoresPadded(ChannelLinear):
    def prepare(self, weights: LinearWeights, config: Any, device: Any) -> PreparedWeights:
        right = super().prepare(weights, config, device)
        return replace(right, restore=lambda: replace(weights, data=right.tensors["data"]))


class _Drifting(ChannelLinear):
    """Within tolerance, and different in every call, though it is tagged deterministic."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def product(self, a: torch.Tensor, w: torch.Tensor, config: LinearConfig) -> torch.Tensor:
        y = super().product(a, w, config)
        noise = torch.rand(y.shape, generator=self.generator, dtype=torch.float64) - 0.5
        return y * (1.0 + noise * 2.0**-16)


class _Contiguous(ChannelLinear):
    """Gives contiguous rows where it declares a stride of R8(N)."""

    def allocate(self, m: int, config: LinearConfig) -> torch.Tensor:
        return torch.empty(m, config.n, dtype=DTYPES[config.out_dtype])


class _NeverContiguous(ChannelLinear):
    """Declares contiguous rows and gives a stride of R8(N), also where they are asked for."""

    def allocate(self, m: int, config: LinearConfig) -> torch.Tensor:
        return empty_output(m, config.n, DTYPES[config.out_dtype], "cpu")


class _InputChanged(ChannelLinear):
    """Clears the scales of x when it has read them."""

    def activations(self, x: Any, config: LinearConfig) -> torch.Tensor:
        values = super().activations(x, config)
        x.scales.zero_()
        return values


class _WrongDtype(ChannelLinear):
    """Gives fp32 whatever was asked."""

    def stored(self, y: torch.Tensor, config: LinearConfig, out: Any) -> torch.Tensor:
        if out is None:
            return super().stored(y, config.replace(out_dtype="fp32"), None)
        return super().stored(y, config, out)


class _OverrunRow(ChannelLinear):
    """Stores whole vectors of eight columns, into the gap and past the last row."""

    def stored(self, y: torch.Tensor, config: LinearConfig, out: Any) -> torch.Tensor:
        made = super().stored(y, config, out)
        end = made.storage_offset() + max(made.shape[0] - 1, 0) * made.stride(0) + made.shape[1]
        held = made.untyped_storage().nbytes() // made.element_size()
        if made.numel() and held >= end + 8:
            made.as_strided((8,), (1,), end).zero_()
        return made


class _GridTransposed(BlockLinear):
    def block_grid(self, scales: torch.Tensor) -> torch.Tensor:
        return scales.T.reshape(scales.shape)


class _WholeBlocks(BlockLinear):
    """The rows of a partial last block get the scales of the block before it."""

    def weight_values(self, tensors: Any, config: LinearConfig) -> torch.Tensor:
        scales = tensors["scales"]
        if config.n % 128 and scales.shape[0] > 1:
            scales = torch.cat((scales[:-1], scales[-2:-1]))
        return super().weight_values({**tensors, "scales": scales}, config)


class _RowMajorRead(BlockLinear):
    """Reads the columns of scales as if they were rows."""

    def activations(self, x: Any, config: LinearConfig) -> torch.Tensor:
        stored = x.scales.T
        flat = stored.as_strided((x.scales.numel(),), (1,))
        scales = flat.view(x.scales.shape).repeat_interleave(128, dim=1)[:, : config.k]
        return x.data[:, : config.k].to(torch.float64) * scales.to(torch.float64)


class _Placeholder(InsideLinear):
    """Its GEMM reads an activation scale that nobody wrote; it is harmless unless it is NaN."""

    def activations(self, x: torch.Tensor, config: LinearConfig) -> torch.Tensor:
        placeholder = torch.empty(1, dtype=torch.float32)
        return super().activations(x, config) + placeholder.to(torch.float64) * 0.0


class _PlaceholderWeightOnly(WeightOnlyLinear):
    """Multiplies by an activation scale that nobody wrote."""

    def activations(self, x: torch.Tensor, config: LinearConfig) -> torch.Tensor:
        scales = torch.empty(x.shape[0], 1, dtype=torch.float32)
        unread = torch.where(scales.isnan(), torch.nan, 1.0).to(torch.float64)
        return super().activations(x, config) * unread


class _ActivationKept(InsideLinear):
    """Leaves x in 16 bit where the scheme asks that it be quantized."""

    def activations(self, x: torch.Tensor, config: LinearConfig) -> torch.Tensor:
        del config
        return x.to(torch.float64)


class _ShortSum(Int8Linear):
    """Adds up in 16 bit."""

    def integer_sum(self, a: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return super().integer_sum(a, w).to(torch.int16).to(torch.int32)


class _AlphaForgotten(Nvfp4Linear):
    def scaled(self, y: torch.Tensor, tensors: Any, x: Any) -> torch.Tensor:
        del tensors, x
        return y


class _WeightGlobalForgotten(Nvfp4Linear):
    def scaled(self, y: torch.Tensor, tensors: Any, x: Any) -> torch.Tensor:
        del tensors
        return y * x.global_scale.to(torch.float64)


class _Nibbles(Nvfp4Linear):
    def halves(self, data: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return data >> 4, data & 0xF


class _ReadAsSmallTiles(Nvfp4Linear):
    def read_as(self, x: Any) -> str:
        del x
        return "swizzled_8x4"


class _PaddingCounts(ChannelLinear):
    """Multiplies stored columns: what lies in the padding of x counts, if W's is not zero."""

    def weight_values(self, tensors: Any, config: LinearConfig) -> torch.Tensor:
        codes = tensors["data"].to(torch.float64)
        columns = codes.shape[1] - config.k
        codes = functional.pad(codes[:, : config.k], (0, columns), value=1.0)
        return (codes * tensors["scales"].to(torch.float64))[: config.n]

    def activations(self, x: Any, config: LinearConfig) -> torch.Tensor:
        right = super().activations(x, config)
        return functional.pad(right, (0, x.data.shape[1] - config.k), value=1.0)


all_zeros = _AllZeros()
stale = _Stale()
out_ignored = _OutIgnored()
same_buffer = _SameBuffer()
bias_skipped = _BiasSkipped()
bias_rounded = _BiasRounded()
bias_narrowed = _BiasNarrowed()
two_roundings = _TwoRoundings()
half_sums = _HalfSums()
last_column_of_k = _LastColumnOfK()
last_row_left = _LastRowLeft()
last_columns_of_n = _LastColumnsOfN()
eight_rows_wrong = _EightRowsWrong()
prepared_in_place = _PreparedInPlace()
prepared_once = _PreparedOnce()
padded_n = _PaddedN()
restores_padded = _RestoresPadded()
drifting = _Drifting()
contiguous = _Contiguous()
never_contiguous = _NeverContiguous()
input_changed = _InputChanged()
wrong_dtype = _WrongDtype()
overrun_row = _OverrunRow()
grid_transposed = _GridTransposed()
row_major_read = _RowMajorRead()
placeholder = _Placeholder()
placeholder_weight_only = _PlaceholderWeightOnly()
activation_kept = _ActivationKept()
short_sum = _ShortSum()
alpha_forgotten = _AlphaForgotten()
weight_global_forgotten = _WeightGlobalForgotten()
nibbles = _Nibbles()
read_as_small_tiles = _ReadAsSmallTiles()
padding_counts = _PaddingCounts()
prepared_by_shape = _PreparedByShape()
out_stride_ignored = _OutStrideIgnored()
nan_swallowed = _NanSwallowed()
offset_ignored = _OffsetIgnored()
narrowed_by_autocast = _NarrowedByAutocast()
whole_blocks = _WholeBlocks()
last_layer = _LastLayer()
