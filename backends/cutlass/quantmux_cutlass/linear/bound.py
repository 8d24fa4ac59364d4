"""One call of a bound layer.

It checks what it is given by the cheapest questions that settle it, takes the plan of this M,
allocates y, and calls ``qm_run`` with addresses. Where a cheap question has another answer than
expected, the whole check (`Layer.accepted`) says what is wrong, or that nothing is. Addresses are
read anew in every call, since tensors move.

docs/decisions/0013-calls-into-native-code.md has what each part of it costs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from quantmux_cutlass import native
from quantmux_cutlass.linear.layer import Layer

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LinearConfig
    from quantmux.ops.quantized import QuantizedTensor
    from quantmux.registry.protocol import PreparedWeights
    from quantmux_cutlass.linear.consumer import CutlassLinear


def bound_linear(
    kernel: CutlassLinear, config: LinearConfig, prepared: PreparedWeights, device: DeviceProfile
) -> Callable[..., torch.Tensor]:
    """Give ``fn(q, *, out=None) -> y`` [M, N]; see `CutlassLinear.bind`."""
    layer = Layer(kernel, config, prepared, device)
    layer.make_plans()
    return call_of(layer)


def call_of(layer: Layer) -> Callable[..., torch.Tensor]:
    """Give ``fn(q, *, out=None) -> y`` of a layer."""
    return _with_global(layer) if layer.is_nvfp4 else _without_global(layer)


def _without_global(layer: Layer) -> Callable[..., torch.Tensor]:
    n, row, dtype, home, index = layer.n, layer.row, layer.dtype, layer.home, layer.index
    element, seen, fit = layer.element, layer.seen, _scales_fit(layer)
    stream, is_tight = native.raw_stream(index), row == n
    empty = torch.empty_strided  # a third cheaper than torch.empty: 0.9 µs instead of 1.4

    def call(q: QuantizedTensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        try:
            x, scales, m, layout = q.data, q.scales, q.logical_shape[0], q.layout
            reads = seen.get(id(layout))
            if (
                reads is None  # it holds the layout, so no other one has its id
                or x.get_device() != index
                or x.dtype is not element
                or not x.is_contiguous()
                or x.numel() < m * reads.width
                or not fit(scales, m)
            ):
                reads = layer.accepted(q)
        except AttributeError:
            layer.accepted(q)
            raise
        if out is None:
            y = empty((m, row), (row, 1), dtype=dtype, device=home)
            if not is_tight:
                y = y[:, :n]
        else:
            y, y_row = out, row
            if (
                not is_tight
                or out.dtype is not dtype
                or out.get_device() != index
                or not out.is_contiguous()
                or out.shape != (m, n)
            ):
                y_row = layer.output(out, m)
        if m == 0:
            return y
        plan = reads.plans.get(m) or layer.plan(reads, m)
        if out is None or y_row == row:
            status = plan.run(
                plan.address, x.data_ptr(), scales.data_ptr(), y.data_ptr(), m, stream(index)
            )
        else:
            status = plan.run_at(
                plan.address,
                x.data_ptr(),
                layout.padded_n,
                scales.data_ptr(),
                y.data_ptr(),
                y_row,
                m,
                stream(index),
            )
        if status:
            raise layer.failed(status, q, m, out)
        return y

    return call


def _with_global(layer: Layer) -> Callable[..., torch.Tensor]:
    """Give the same for NVFP4, whose activations have a global scale."""
    n, row, dtype, home, index = layer.n, layer.row, layer.dtype, layer.home, layer.index
    seen, stream, element = layer.seen, native.raw_stream(index), layer.element

    def call(q: QuantizedTensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        try:
            x, scales, m, layout = q.data, q.scales, q.logical_shape[0], q.layout
            of_all = q.global_scale
            reads = seen.get(id(layout))
            if (
                reads is None
                or x.get_device() != index
                or x.dtype is not element
                or not x.is_contiguous()
                or x.numel() < m * reads.width
                or scales.get_device() != index
                or scales.dtype is not torch.float8_e4m3fn
                or not scales.is_contiguous()
                or scales.numel() < (m + 127 & -128) * (reads.width + 31 >> 5 << 2)
                or of_all is None
                or of_all.get_device() != index
                or of_all.dtype is not torch.float32
                or of_all.numel() != 1
            ):
                reads = layer.accepted(q)
        except AttributeError:
            layer.accepted(q)
            raise
        if out is None:
            y, y_row = torch.empty((m, row), dtype=dtype, device=home)[:, :n], row
        else:
            y, y_row = out, layer.output(out, m)
        if m == 0 or of_all is None:
            return y
        plan = reads.plans.get(m) or layer.plan(reads, m)
        status = plan.run_at(
            plan.address,
            x.data_ptr(),
            layout.padded_n,
            scales.data_ptr(),
            of_all.data_ptr(),
            y.data_ptr(),
            y_row,
            m,
            stream(index),
        )
        if status:
            raise layer.failed(status, q, m, out)
        return y

    return call


def _scales_fit(layer: Layer) -> Callable[[torch.Tensor, int], bool]:
    """Give a cheap test of the scales of x that only says yes when they are as they must be."""
    index, kind = layer.index, layer.activation.block.kind
    if kind == "group":
        columns = -(-layer.k // layer.activation.block.cols)

        def aligned_columns(scales: torch.Tensor, m: int) -> bool:
            return (
                scales.get_device() == index
                and scales.numel() == m * columns
                and scales.dtype is torch.float32
                and scales.stride() == (1, m + 3 & ~3)
            )

        return aligned_columns
    one_each = kind == "row"

    def contiguous(scales: torch.Tensor, m: int) -> bool:
        return (
            scales.get_device() == index
            and scales.numel() == (m if one_each else 1)
            and scales.dtype is torch.float32
            and scales.is_contiguous()
        )

    return contiguous
