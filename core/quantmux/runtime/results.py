"""Whether what a kernel returned can be its op's result at all: type, shape, dtype, device.

No numbers are looked at: that would wait for the device. Agreement with the reference is another
question.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from quantmux.ops.quantized import DTYPES, QuantizedTensor

if TYPE_CHECKING:
    from quantmux.config import LayerConfig, LinearConfig


def result_problem(config: LayerConfig, result: Any, m: int, device: torch.device) -> str | None:
    """Say what is wrong with a result for M rows, None when nothing is.

    Args:
        config: Config of the op.
        result: What its last kernel returned.
        m: Rows of the input.
        device: Where the input lies.
    """
    if config.op == "linear":
        return _output_problem(config, result, m, device)
    if not isinstance(result, QuantizedTensor):
        return f"returned a {type(result).__name__}, needs a QuantizedTensor"
    layout = config.target if config.op == "relayout" else config.layout
    for name, have, need in (
        ("operand", result.operand, config.operand),
        ("layout", result.layout, layout),
        ("rows", result.logical_shape[0], m),
        ("width", result.logical_shape[-1], config.n),
        ("device", result.data.device, device),
    ):
        if have != need:
            return f"returned {name} {have}, needs {need}"
    return None


def _output_problem(config: LinearConfig, result: Any, m: int, device: torch.device) -> str | None:
    if not isinstance(result, torch.Tensor):
        return f"returned a {type(result).__name__}, needs a tensor"
    for name, have, need in (
        ("shape", tuple(result.shape), (m, config.n)),
        ("dtype", result.dtype, DTYPES[config.out_dtype]),
        ("device", result.device, device),
    ):
        if have != need:
            return f"returned {name} {have}, needs {need}"
    return None
