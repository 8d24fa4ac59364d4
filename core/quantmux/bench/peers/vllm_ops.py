"""vLLM's compiled product with tensor or row scales, if its extension is here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.bench.peers.base import BoundPeer, linear_peer
from quantmux.bench.peers.vllm_library import missing, operations
from quantmux.ops.linear.reference import quantize_input

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux.bench.materials import Materials
    from quantmux.bench.rows import BenchCase
    from quantmux.bench.traffic import Part
    from quantmux.capability.device import DeviceProfile
    from quantmux.ops.spec import Call

_TOLERANCE: Final = 3e-2
_KINDS: Final = (("tensor", "tensor"), ("row", "row"))


class VllmScaledMm:
    """``torch.ops._C.cutlass_scaled_mm`` of vLLM."""

    name = "vLLM cutlass_scaled_mm"
    part: Part = "gemm"

    def unavailable(self, device: DeviceProfile) -> str:
        """Give why it cannot run here."""
        if not device.is_cuda:
            return "it is compiled for GPUs"
        return missing("cutlass_scaled_mm")

    def refuses(self, case: BenchCase) -> str:
        """Give why it does not do this case."""
        config = case.config
        if config.op != "linear" or config.scheme.activation is None:
            return "it does linears with a quantized input"
        weight, activation = config.scheme.weight, config.scheme.activation
        if weight.element != "fp8_e4m3" or activation.element != "fp8_e4m3":
            return "it does fp8"
        if (weight.block.kind, activation.block.kind) not in _KINDS:
            return "it is called with tensor or row scales"
        if config.bias or config.out_dtype != "bf16" or config.n % 16 or config.k % 16:
            return "it is called without a bias, for bf16, N and K of 16"
        return ""

    def bind(self, case: BenchCase, materials: Materials, inputs: Sequence[Call]) -> BoundPeer:
        """Give its calls, on inputs quantized by the reference."""
        config = case.config
        if config.op != "linear":
            raise TypeError(config.op)
        product = operations().cutlass_scaled_mm
        calls: list[Callable[[], torch.Tensor]] = []
        for i, call in enumerate(inputs):
            weights = materials.weights_copy(i)
            q = quantize_input(call.args[0], weights, config)

            def run(q: Any = q, w: Any = weights) -> torch.Tensor:
                shape = (q.data.shape[0], config.n)
                y = torch.empty(shape, dtype=torch.bfloat16, device=q.data.device)
                product(y, q.data, w.data.T, q.scales, w.scales, None)
                return y

            calls.append(run)
        return linear_peer(calls, config, materials, inputs, _TOLERANCE)
