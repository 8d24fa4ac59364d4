"""vLLM's compiled FP8 group quantizers: of a plain x, and of SiLU·mul in one kernel or two."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.bench.peers.base import BoundPeer, producer_peer
from quantmux.bench.peers.vllm_library import missing, operations
from quantmux.ops.quantized import empty_quantized

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantmux.bench.materials import Materials
    from quantmux.bench.rows import BenchCase
    from quantmux.bench.traffic import Part
    from quantmux.capability.device import DeviceProfile
    from quantmux.config.layers import ProducerConfig
    from quantmux.ops.quantized import QuantizedTensor
    from quantmux.ops.spec import Call

_FMAX: Final = 448.0
_LAYOUTS: Final = ("row_major", "col_major_aligned4")
_WAYS: Final = {
    "fused": ("vLLM fused", ("silu_and_mul_per_block_quant",)),
    "two": ("vLLM two kernels", ("silu_and_mul", "per_token_group_fp8_quant")),
    "torch": ("torch silu*mul + vLLM quant", ("per_token_group_fp8_quant",)),
}


class VllmGroupQuant:
    """``torch.ops._C.per_token_group_fp8_quant`` of vLLM."""

    name = "vLLM per_token_group_fp8_quant"
    part: Part = "pipeline"

    def unavailable(self, device: DeviceProfile) -> str:
        """Give why it cannot run here."""
        return missing("per_token_group_fp8_quant") if device.is_cuda else "it is for GPUs"

    def refuses(self, case: BenchCase) -> str:
        """Give why it does not do this case."""
        return _refusal(case, "quantize")

    def bind(self, case: BenchCase, materials: Materials, inputs: Sequence[Call]) -> BoundPeer:
        """Give its calls."""
        config = case.config
        if config.op != "quantize":
            raise TypeError(config.op)
        calls = [partial(_group_quant, config, call.args[0]) for call in inputs]
        return producer_peer(calls, config, materials, inputs)


class VllmSiluMulQuant:
    """vLLM's SiLU·mul with FP8 group quantization.

    Args:
        way: ``fused`` for its one kernel, ``two`` for its activation and then its quantizer,
            ``torch`` for two torch operations and then its quantizer.
    """

    part: Part = "pipeline"

    def __init__(self, way: str) -> None:
        self.name, self._needs = _WAYS[way]
        self._way = way

    def unavailable(self, device: DeviceProfile) -> str:
        """Give why it cannot run here."""
        return missing(*self._needs) if device.is_cuda else "it is for GPUs"

    def refuses(self, case: BenchCase) -> str:
        """Give why it does not do this case."""
        config = case.config
        if config.op == "silu_mul_quantize" and self._way == "fused":
            if config.layout.scales != "row_major":
                return "it is called for row_major scales"
            if config.operand.scale_rounding != "none":
                return "it has no power-of-two scales"
        return _refusal(case, "silu_mul_quantize")

    def bind(self, case: BenchCase, materials: Materials, inputs: Sequence[Call]) -> BoundPeer:
        """Give its calls."""
        config = case.config
        if config.op != "silu_mul_quantize":
            raise TypeError(config.op)
        run = {"fused": _silu_fused, "two": _silu_two, "torch": _silu_torch}[self._way]
        calls = [partial(run, config, call.args[0]) for call in inputs]
        return producer_peer(calls, config, materials, inputs)


def _refusal(case: BenchCase, op: str) -> str:
    config = case.config
    if config.op == "linear" or config.op == "relayout" or config.op != op:  # noqa: PLR1714 - mypy
        return f"it does {op}"
    operand, layout = config.operand, config.layout
    if operand.element != "fp8_e4m3" or operand.block.kind != "group":
        return "it makes groups of fp8_e4m3"
    if layout.padded_n != config.n or config.n % operand.block.cols:
        return "it does not pad"
    return "" if layout.scales in _LAYOUTS else f"it does not write {layout.scales}"


def _group_quant(config: ProducerConfig, x: torch.Tensor) -> QuantizedTensor:
    q = empty_quantized(config.operand, config.layout, x.shape[0], config.n, x.device)
    operand = config.operand
    operations().per_token_group_fp8_quant(
        x,
        q.data,
        q.scales,
        operand.block.cols,
        operand.eps,
        -_FMAX,
        _FMAX,
        operand.scale_rounding == "pow2",
        False,  # this and the next are read from the strides of the scales
        False,
    )
    return q


def _silu_fused(config: ProducerConfig, x: torch.Tensor) -> QuantizedTensor:
    q = empty_quantized(config.operand, config.layout, x.shape[0], config.n, x.device)
    operations().silu_and_mul_per_block_quant(
        q.data,
        x,
        q.scales,
        config.operand.block.cols,
        None,
        False,  # scales lie row by row
    )
    return q


def _silu_two(config: ProducerConfig, x: torch.Tensor) -> QuantizedTensor:
    y = torch.empty((x.shape[0], config.n), dtype=x.dtype, device=x.device)
    operations().silu_and_mul(y, x)
    return _group_quant(config, y)


def _silu_torch(config: ProducerConfig, x: torch.Tensor) -> QuantizedTensor:
    gate, up = x[:, : config.n], x[:, config.n :]
    product: Any = torch.nn.functional.silu(gate) * up
    return _group_quant(config, product)
