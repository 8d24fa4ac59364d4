"""A call on zeros for every M: libraries load, and DSLs compile, outside of a capture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from quantmux.dispatch.join import required_input
from quantmux.ops.linear.weights import data_shape, grid_shape
from quantmux.ops.quantized import DTYPES, LinearWeights, empty_quantized

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantmux.config import LinearConfig
    from quantmux.registry.protocol import Consumer


def dry_run(
    kernel: Consumer, config: LinearConfig, ms: Sequence[int], *, scales: str, pad_k_to: int
) -> None:
    """Run an NVFP4 linear on the current GPU, zeros for weights and x; without a GPU do nothing.

    Args:
        kernel: The kernel to run.
        config: Its layer.
        ms: Numbers of rows.
        scales: Layout of the scales of x, where x is quantized.
        pad_k_to: As in the kernel's capability.
    """
    if not torch.cuda.is_available():
        return
    from quantmux.capability.detect import device_here

    home = torch.device("cuda", torch.cuda.current_device())
    device = device_here(home)
    run = kernel.bind(config, kernel.prepare(_zero_weights(config, home), config, device), device)
    activation = config.scheme.activation
    for m in ms:
        if activation is None:
            run(torch.zeros((m, config.k), dtype=DTYPES[config.in_dtype], device=home))
            continue
        source = required_input(activation, config.k, scales, pad_k_to, 1, config.in_dtype)
        if source is None:
            return
        q = empty_quantized(activation, source.layout, m, config.k, home)
        for tensor in q.tensors():
            tensor.zero_()
        run(q)


def _zero_weights(config: LinearConfig, home: torch.device) -> LinearWeights:
    operand, n, k = config.scheme.weight, config.n, config.k
    return LinearWeights(
        data=torch.zeros(data_shape(operand, n, k), dtype=torch.uint8, device=home),
        scales=torch.zeros(grid_shape(operand, n, k), dtype=torch.float8_e4m3fn, device=home),
        global_scale=torch.ones(1, dtype=torch.float32, device=home),
    )
