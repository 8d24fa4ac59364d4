"""FP8 1x128 by 128x128 blocks on Blackwell, by FlashInfer's ``gemm_fp8_nt_groupwise``.

The library wants M in multiples of 4, so x arrives with rows padded to that, as
``col_major_aligned4``, whose memory is what it calls MN-major: [K / 128, R4(M)]. Back end cutlass
reads scales of weights MN-major too, back end trtllm as the checkpoint has them. Neither has been
run by us.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.config.layouts import round_up
from quantmux.dispatch.join import required_input
from quantmux.ops.quantized import DTYPES
from quantmux_flashinfer.layouts.fp8_blocks import mn_major
from quantmux_flashinfer.layouts.fp8_matrices import transposed
from quantmux_flashinfer.layouts.matrices import padded
from quantmux_flashinfer.library.failures import LIBRARY_ERRORS, translate
from quantmux_flashinfer.library.functions import function
from quantmux_flashinfer.linear.dry_run import dry_run
from quantmux_flashinfer.linear.fp8_entries import GROUPWISE_CUTLASS, GROUPWISE_TRTLLM
from quantmux_flashinfer.linear.fp8_inputs import require_readable
from quantmux_flashinfer.linear.fp8_tensor import PADDED128
from quantmux_flashinfer.linear.fp8_weights import codes_of, padded_weights
from quantmux_flashinfer.linear.outputs import require_output, whole_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LinearConfig
    from quantmux.ops.quantized import LinearWeights, QuantizedTensor
    from quantmux.registry.protocol import PreparedWeights
    from quantmux_flashinfer.entries import Entry

_BLOCK: Final = 128
PAD_M: Final = 4


class Fp8BlockGroupwise:
    """Codes [R128(N), R(K)]; x arrives with rows padded to 4, and K as the weights'."""

    def __init__(self, entry: Entry, *, pad_k: int, is_mn_major: bool, weight_layout: str) -> None:
        """Say what is called.

        Args:
            entry: ``gemm_fp8_nt_groupwise`` with one of its back ends.
            pad_k: K is rounded up to a multiple of it, whole blocks.
            is_mn_major: It takes ``scale_major_mode`` and is given "MN": scales of weights are
                transposed when the layer is bound.
            weight_layout: Name of padded weights.
        """
        self.entry = entry
        self._pad_k = pad_k
        self._is_mn_major = is_mn_major
        self._weight_layout = weight_layout

    def prepare(
        self, weights: LinearWeights, config: LinearConfig, device: DeviceProfile
    ) -> PreparedWeights:
        """Pad N to 128, and K; weights that need no pad are the checkpoint's own."""
        return padded_weights(
            weights,
            config,
            device,
            pad_n_to=_BLOCK,
            pad_k_to=self._pad_k,
            weight_layout=self._weight_layout,
        )

    def bind(
        self, config: LinearConfig, prepared: PreparedWeights, device: DeviceProfile
    ) -> Callable[..., torch.Tensor]:
        """Give ``fn(q, *, out=None) -> y``; rows of y [M, N] have stride R128(N).

        ``out`` costs a copy where M is no multiple of 4: the library writes the padded rows too.

        Raises:
            BuildError: FlashInfer does not have it, or cannot be used here.
            NotBuiltError: Its module is being compiled.
        """
        entry, n, dtype = self.entry, config.n, DTYPES[config.out_dtype]
        padded_n, padded_k = round_up(n, _BLOCK), round_up(config.k, self._pad_k)
        call = function(entry, device)
        weight = codes_of(prepared, padded_n, padded_k)
        # a block beyond K has codes 0 and, like x there, scale 0
        scales = padded(prepared.tensors["scales"], padded_n // _BLOCK, padded_k // _BLOCK)
        fixed: dict[str, Any] = {"backend": entry.backend, "skip_check": True}
        if self._is_mn_major:
            fixed["scale_major_mode"] = "MN"
            scales = transposed(scales)
        empty = torch.empty

        def run(q: QuantizedTensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
            m, x, scales_x = q.logical_shape[0], q.data, q.scales
            padded_m = (m + 3) & -4
            if out is not None and m == padded_m:
                y = whole_rows(out, m, n, padded_n, dtype, x.device)
            else:
                if out is not None:
                    require_output(out, m, n, dtype, x.device)
                y = empty((padded_m, padded_n), dtype=dtype, device=x.device)
            if m == 0:
                return y[:, :n] if out is None else out
            if (
                not x.is_contiguous()
                or x.shape[0] != padded_m
                or scales_x.stride() != (1, padded_m)
                or (x.data_ptr() | scales_x.data_ptr()) & 15
            ):
                require_readable(q, "col_major_aligned4")
            try:
                call(a=x, b=weight, a_scale=mn_major(scales_x), b_scale=scales, out=y, **fixed)
            except LIBRARY_ERRORS as error:
                raise translate(error, entry) from error
            if out is None:
                return y if (padded_m, padded_n) == (m, n) else y[:m, :n]
            return out if m == padded_m else out.copy_(y[:m, :n])

        return run

    def warmup(self, config: LinearConfig, ms: Sequence[int]) -> None:
        """Call once per M on zeros: modules load outside a capture."""
        activation = config.scheme.activation
        if activation is not None:
            source = required_input(
                activation, config.k, "col_major_aligned4", self._pad_k, PAD_M, config.in_dtype
            )
            dry_run(self, config, ms, source)


PADDED_K256: Final = "flashinfer:padded_n128_k256"
"""Codes [R128(N), R256(K)]: back end trtllm refuses K below 256."""

cutlass: Final = Fp8BlockGroupwise(
    GROUPWISE_CUTLASS, pad_k=_BLOCK, is_mn_major=True, weight_layout=PADDED128
)
trtllm: Final = Fp8BlockGroupwise(
    GROUPWISE_TRTLLM, pad_k=2 * _BLOCK, is_mn_major=False, weight_layout=PADDED_K256
)
