"""torch/linear_scaled_mm_block: FP8 1x128 by 128x128 blocks, by ``torch.nn.functional.scaled_mm``.

Shapes that torch wants, all of them met before the call: scales of x [M, K/128] with strides
(1, M), hence M a multiple of 4; scales of W as [R4(K/128), ceil(N/128)] with K fastest (stored
without the rounding up to 4, wrong numbers come back and no error); whole blocks along K.
``torch._scaled_mm`` knows nothing of the rounding, which is why it is not used here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch.nn import functional

from quantmux.config.layouts import round_up
from quantmux.ops.quantized import DTYPES
from quantmux_torch.devices import moved
from quantmux_torch.dry_run import dry_run
from quantmux_torch.outputs import require_output
from quantmux_torch.padding import padded_matrix, prepared_with
from quantmux_torch.scaled_mm import ALIGNMENT, epilogue_bias, split_bias

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LinearConfig
    from quantmux.ops.quantized import LinearWeights, QuantizedTensor
    from quantmux.registry.protocol import PreparedWeights

_BLOCK: Final = 128


class LinearScaledMmBlock:
    """Codes [R16(N), R128(K)]; x arrives as ``col_major_aligned4``, rows padded to 4, K to 128."""

    def prepare(
        self, weights: LinearWeights, config: LinearConfig, device: DeviceProfile
    ) -> PreparedWeights:
        """Pad N to 16, K to 128, the scales of a block row to a multiple of 4, and the bias."""
        here = moved(weights, device)
        padded_n, padded_k = round_up(config.n, ALIGNMENT), round_up(config.k, _BLOCK)
        block_rows = here.scales.shape[0]
        extra = {"scale_b": padded_matrix(here.scales, block_rows, round_up(padded_k // _BLOCK, 4))}
        if here.bias is not None:
            extra["epilogue_bias"] = epilogue_bias(here.bias, DTYPES[config.out_dtype], padded_n)
        return prepared_with(
            here,
            padded_matrix(here.data, padded_n, padded_k),
            extra,
            weight_layout="torch:padded_block",
            n=config.n,
            k=config.k,
        )

    def bind(
        self,
        config: LinearConfig,
        prepared: PreparedWeights,
        device: DeviceProfile,  # noqa: ARG002
    ) -> Callable[..., torch.Tensor]:
        """Give ``fn(q, *, out=None) -> y``; rows of y have stride R16(N).

        ``out`` costs a copy: torch's call has no place for it, and writes the padded rows too.
        """
        from torch.nn.functional import ScalingType  # newer than the oldest torch supported

        scaled_mm = functional.scaled_mm
        by_row, by_block = ScalingType.BlockWise1x128, ScalingType.BlockWise128x128
        weight_t = prepared.tensors["data"].T
        scale_b = prepared.tensors["scale_b"].T
        bias, wide_bias = split_bias(config, prepared)
        dtype, n = DTYPES[config.out_dtype], config.n
        gemm_dtype = dtype if wide_bias is None else torch.float32

        def run(q: QuantizedTensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
            m = q.logical_shape[0]
            if out is not None:
                require_output(out, m, n, dtype, q.data.device)
            if m == 0:
                return q.data.new_empty((0, n), dtype=dtype) if out is None else out
            # fast accumulation is not asked for: it saves nothing once a block is 128 long
            y = scaled_mm(
                q.data,
                weight_t,
                q.scales,
                by_row,
                scale_b,
                by_block,
                bias=bias,
                output_dtype=gemm_dtype,
            )
            if wide_bias is not None:
                y += wide_bias
            # narrowed before it is cut, so that the stride of rows is the one declared
            return y.to(dtype)[:m, :n] if out is None else out.copy_(y[:m, :n])

        return run

    def warmup(self, config: LinearConfig, ms: Sequence[int]) -> None:
        """Run once per M on zeros, so that cuBLASLt loads its kernels outside a capture."""
        dry_run(self, config, ms, scales="col_major_aligned4", pad_k_to=_BLOCK, pad_m_to=4)


kernel: Final = LinearScaledMmBlock()
