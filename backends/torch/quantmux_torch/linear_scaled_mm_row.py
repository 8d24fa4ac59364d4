"""torch/linear_scaled_mm_row: FP8 tokens by FP8 channels, by ``torch._scaled_mm``.

cuBLASLt (12.9 and later) serves sm90; on other architectures torch has CUTLASS kernels, which it
hands a padded copy of the activation scales when M is not a multiple of 256.

The bias is added to an fp32 result, never in the GEMM: with row scales and a bias in its epilogue
cuBLASLt has no algorithm for some shapes and answers CUBLAS_STATUS_NOT_SUPPORTED (H200, torch 2.11,
2026-11-21: 46 of 2156 calls, all with a bf16 bias, at N×K 576×7168, 2112×7168, 4096×14336).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from quantmux_torch.devices import moved
from quantmux_torch.dry_run import dry_run
from quantmux_torch.padding import channel_scales, padded_matrix, prepared_with
from quantmux_torch.scaled_mm import ALIGNMENT, bind_scaled_mm, padded_sizes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LinearConfig
    from quantmux.ops.quantized import LinearWeights
    from quantmux.registry.protocol import PreparedWeights


class LinearScaledMmRow:
    """Codes [R16(N), R16(K)] and one scale a channel; x arrives with padded_n = R16(K)."""

    def prepare(
        self, weights: LinearWeights, config: LinearConfig, device: DeviceProfile
    ) -> PreparedWeights:
        """Pad N and K to 16, scales and bias to R16(N); a scale of all is repeated per channel."""
        here = moved(weights, device)
        padded_n, padded_k = padded_sizes(config)
        extra = {"scale_b": channel_scales(here.scales, config.n, padded_n)}
        if here.bias is not None:
            bias = here.bias.to(torch.float32)
            extra["epilogue_bias"] = torch.nn.functional.pad(bias, (0, padded_n - config.n))
        return prepared_with(
            here,
            padded_matrix(here.data, padded_n, padded_k),
            extra,
            weight_layout="torch:padded16_row",
            n=config.n,
            k=config.k,
        )

    def bind(
        self,
        config: LinearConfig,
        prepared: PreparedWeights,
        device: DeviceProfile,  # noqa: ARG002
    ) -> Callable[..., torch.Tensor]:
        """Give ``fn(q, *, out=None) -> y``; rows of y have stride R16(N)."""
        return bind_scaled_mm(config, prepared)

    def warmup(self, config: LinearConfig, ms: Sequence[int]) -> None:
        """Run once per M on zeros, so that cuBLASLt loads its kernels outside a capture."""
        dry_run(self, config, ms, scales="row_major", pad_k_to=ALIGNMENT)


kernel: Final = LinearScaledMmRow()
