"""FP8 by FP8 with one scale each, by FlashInfer's ``bmm_fp8`` on a batch of one.

The library multiplies Σ by both scales in fp32 and rounds once. It takes no notice of strides of x
and of the output: rows that lie apart would be read, and written, in wrong places (H200,
2026-11-21: a strided output wrote over its neighbours). So both are held to one piece here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from quantmux.config.layouts import round_up
from quantmux.dispatch.join import required_input
from quantmux.ops.quantized import DTYPES
from quantmux_flashinfer.layouts.fp8_matrices import column_major_batch
from quantmux_flashinfer.library.failures import LIBRARY_ERRORS, translate
from quantmux_flashinfer.library.functions import function
from quantmux_flashinfer.linear.call_order import require_order
from quantmux_flashinfer.linear.dry_run import dry_run
from quantmux_flashinfer.linear.fp8_entries import CUBLAS, CUDNN, CUTLASS
from quantmux_flashinfer.linear.fp8_inputs import require_readable
from quantmux_flashinfer.linear.fp8_weights import codes_of, padded_weights
from quantmux_flashinfer.linear.outputs import whole_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LinearConfig
    from quantmux.ops.quantized import LinearWeights, QuantizedTensor
    from quantmux.registry.protocol import PreparedWeights
    from quantmux_flashinfer.entries import Entry


_ORDER: Final = ("A", "B", "A_scale", "B_scale", "dtype", "out", "backend")


class Fp8Tensor:
    """Codes [R(N), R(K)], zero beyond N and K; x arrives with padded_n = R(K)."""

    def __init__(self, entry: Entry, *, pad: int, weight_layout: str) -> None:
        """Say what is called.

        Args:
            entry: ``bmm_fp8`` with one of its back ends.
            pad: N and K are rounded up to a multiple of it.
            weight_layout: Name of padded weights.
        """
        self.entry = entry
        self._pad = pad
        self._weight_layout = weight_layout

    def prepare(
        self, weights: LinearWeights, config: LinearConfig, device: DeviceProfile
    ) -> PreparedWeights:
        """Pad N and K; weights that need no pad are the checkpoint's own."""
        pad = self._pad
        return padded_weights(
            weights,
            config,
            device,
            pad_n_to=pad,
            pad_k_to=pad,
            weight_layout=self._weight_layout,
        )

    def bind(
        self, config: LinearConfig, prepared: PreparedWeights, device: DeviceProfile
    ) -> Callable[..., torch.Tensor]:
        """Give ``fn(q, *, out=None) -> y``; rows of y [M, N] have stride R(N).

        Raises:
            BuildError: FlashInfer does not have it, or cannot be used here.
            NotBuiltError: Its module is being compiled.
        """
        entry, n, dtype = self.entry, config.n, DTYPES[config.out_dtype]
        padded_n, padded_k = round_up(n, self._pad), round_up(config.k, self._pad)
        call = function(entry, device)
        weight = column_major_batch(codes_of(prepared, padded_n, padded_k))
        scale_w = prepared.tensors["scales"]
        require_order(entry, _ORDER)
        backend, home, empty = entry.backend, weight.device, torch.empty

        def run(q: QuantizedTensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
            m, x = q.logical_shape[0], q.data
            if out is not None:
                y = whole_rows(out, m, n, padded_n, dtype, home)
            else:
                y = empty((m, padded_n), dtype=dtype, device=home)
            if m == 0:
                return y[:, :n] if out is None else out
            if not x.is_contiguous() or x.data_ptr() & 15:
                require_readable(q, "scalar")
            try:
                call(x[None], weight, q.scales, scale_w, dtype, y[None], backend, skip_check=True)
            except LIBRARY_ERRORS as error:
                raise translate(error, entry) from error
            if out is not None:
                return out
            return y if padded_n == n else y[:, :n]

        return run

    def warmup(self, config: LinearConfig, ms: Sequence[int]) -> None:
        """Call once per M on zeros: handles, plans and kernels are made outside a capture."""
        activation = config.scheme.activation
        if activation is not None:
            source = required_input(activation, config.k, "scalar", self._pad, 1, config.in_dtype)
            dry_run(self, config, ms, source)


PADDED16: Final = "flashinfer:padded16"
"""Codes [R16(N), R16(K)]."""

PADDED128: Final = "flashinfer:padded128"
"""Codes [R128(N), R128(K)]."""

cublas: Final = Fp8Tensor(CUBLAS, pad=16, weight_layout=PADDED16)
cudnn: Final = Fp8Tensor(CUDNN, pad=16, weight_layout=PADDED16)
cutlass: Final = Fp8Tensor(CUTLASS, pad=16, weight_layout=PADDED16)
cutlass_sm12x: Final = Fp8Tensor(CUTLASS, pad=128, weight_layout=PADDED128)
