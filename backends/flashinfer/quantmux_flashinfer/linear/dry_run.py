"""A call on zeros for every M, so that modules load and tiles compile outside of a capture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from quantmux.ops.linear.weights import data_shape, grid_shape
from quantmux.ops.quantized import DATA_DTYPES, DTYPES, LinearWeights, empty_quantized

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LinearConfig, QuantizeConfig
    from quantmux.registry.protocol import Consumer


def dry_run(
    kernel: Consumer, config: LinearConfig, ms: Sequence[int], source: QuantizeConfig | None
) -> None:
    """Call a linear on the current GPU with zeros for weights and x; without a GPU do nothing.

    Args:
        kernel: The kernel to call.
        config: Its layer.
        ms: Numbers of rows.
        source: What it reads (`quantmux.dispatch.join.required_input`); None for a plain x.
    """
    profile = _current_gpu()
    if profile is None:
        return
    device = torch.device(profile.torch_name)
    prepared = kernel.prepare(_zero_weights(config, device), config, profile)
    run = kernel.bind(config, prepared, profile)
    for m in dict.fromkeys(m for m in ms if m > 0):
        run(_zero_input(config, source, m, device))
    # what compiles or loads in a call must have done so when this returns, errors included
    torch.cuda.current_stream(device).synchronize()


def _current_gpu() -> DeviceProfile | None:
    if not torch.cuda.is_available():
        return None
    from quantmux.capability.detect import device_here

    return device_here(torch.device("cuda", torch.cuda.current_device()))


def _zero_input(
    config: LinearConfig, source: QuantizeConfig | None, m: int, device: torch.device
) -> object:
    if source is None:
        return torch.zeros((m, config.k), dtype=DTYPES[config.in_dtype], device=device)
    q = empty_quantized(source.operand, source.layout, m, config.k, device)
    for tensor in q.tensors():
        tensor.zero_()
    return q


def _zero_weights(config: LinearConfig, device: torch.device) -> LinearWeights:
    operand, n, k = config.scheme.weight, config.n, config.k
    data = torch.zeros(data_shape(operand, n, k), dtype=DATA_DTYPES[operand.element], device=device)
    scale_dtype = torch.float8_e4m3fn if operand.is_nvfp4 else torch.float32
    one = torch.ones(1, dtype=torch.float32, device=device)
    activation = config.scheme.activation
    is_static = activation is not None and not activation.dynamic
    has_global = activation is not None and activation.global_scale == "static"
    return LinearWeights(
        data=data,
        scales=torch.zeros(grid_shape(operand, n, k), dtype=scale_dtype, device=device),
        global_scale=one if operand.is_nvfp4 else None,
        bias=torch.zeros(n, dtype=DTYPES[config.out_dtype], device=device) if config.bias else None,
        input_scale=one if is_static else None,
        input_global_scale=one if has_global else None,
    )
