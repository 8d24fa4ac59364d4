"""deepgemm/fp8_gemm_nt: FP8 x with 1x128 scales times FP8 weights with 128x128 scales, to bf16.

DeepGEMM reads the checkpoint's own weights, and x as quantmux's layout ``col_major_aligned4`` has
it: the TMA unit wants every column of scales to begin at a multiple of 16 bytes. So nothing is
converted here. Which of its variants is compiled depends on M, hence `warmup`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

import quantmux as qm
from quantmux_deepgemm.library import fp8_gemm_nt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_ALIGNMENT: Final = 16
"""Bytes that the TMA unit wants the address and the row stride of y to be a multiple of."""


class Fp8GemmNt:
    """A consumer: `prepare`, `bind` and `warmup`."""

    def prepare(
        self, weights: qm.LinearWeights, config: qm.LinearConfig, device: qm.DeviceProfile
    ) -> qm.PreparedWeights:
        """Share the canonical tensors: codes [N, K], fp32 scales [ceil(N/128), ceil(K/128)]."""
        if device.is_present and weights.data.device.type != "cuda":
            weights = weights.to(device.torch_name)
        tensors = {name: tensor.contiguous() for name, tensor in weights.named().items()}
        return qm.PreparedWeights(
            tensors=tensors,
            weight_layout="canonical",
            n=config.n,
            k=config.k,
            restore=lambda: qm.LinearWeights(**tensors),
        )

    def bind(
        self, config: qm.LinearConfig, prepared: qm.PreparedWeights, device: qm.DeviceProfile
    ) -> Callable[..., torch.Tensor]:
        """Give ``fn(q, *, out=None) -> y``, y [M, N] bf16 in contiguous rows."""
        del device  # the weights are where it runs
        gemm = fp8_gemm_nt()
        weight = (prepared.tensors["data"], prepared.tensors["scales"])
        n = config.n

        def linear(q: qm.QuantizedTensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
            x = q.data
            m = x.shape[0]
            if out is None:
                out = x.new_empty((m, n), dtype=torch.bfloat16)
            else:
                _check_output(out, m, n)
            if m:
                gemm((x, q.scales), weight, out)
            return out

        return linear

    def warmup(self, config: qm.LinearConfig, ms: Sequence[int]) -> None:
        """Have DeepGEMM compile its variants for these M: one call each, on zeros."""
        activation = config.scheme.activation
        if activation is None or not torch.cuda.is_available():
            return
        gemm, device = fp8_gemm_nt(), torch.device("cuda", torch.cuda.current_device())
        n, k = config.n, config.k
        data = torch.zeros((n, k), dtype=torch.float8_e4m3fn, device=device)
        scales = torch.zeros((-(-n // 128), -(-k // 128)), dtype=torch.float32, device=device)
        layout = qm.Layout(scales="col_major_aligned4", padded_n=k)
        for m in ms:
            if m == 0:
                continue
            q = qm.empty_quantized(activation, layout, m, k, device)
            for tensor in q.tensors():
                tensor.zero_()
            y = torch.empty((m, n), dtype=torch.bfloat16, device=device)
            gemm((q.data, q.scales), (data, scales), y)


def _check_output(out: torch.Tensor, m: int, n: int) -> None:
    if tuple(out.shape) != (m, n):
        raise qm.ShapeError(
            "out has the wrong shape", facts={"need": [m, n], "found": list(out.shape)}
        )
    if out.dtype != torch.bfloat16:
        raise qm.DtypeError(f"out needs {torch.bfloat16}, found {out.dtype}")
    row = out.stride(0) * out.element_size()
    if out.stride(1) != 1 or (m > 1 and row % _ALIGNMENT) or out.data_ptr() % _ALIGNMENT:
        raise qm.LayoutError(
            "out cannot be stored to",
            facts={
                "need": f"contiguous rows, address and row stride multiples of {_ALIGNMENT} bytes",
                "found": f"strides {list(out.stride())}, address {out.data_ptr():#x}",
            },
        )


KERNEL: Final = Fp8GemmNt()
