"""A call on zeros for every M, so that a library loads its kernels outside of a capture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from quantmux.capability.arch import Arch
from quantmux.capability.device import DeviceProfile
from quantmux.dispatch.join import required_input
from quantmux.ops.linear.weights import data_shape, grid_shape
from quantmux.ops.quantized import DATA_DTYPES, DTYPES, LinearWeights, empty_quantized

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantmux.config import LinearConfig
    from quantmux.registry.protocol import Consumer


def dry_run(
    kernel: Consumer,
    config: LinearConfig,
    ms: Sequence[int],
    *,
    scales: str,
    pad_k_to: int,
    pad_m_to: int = 1,
) -> None:
    """Run a linear on the current GPU with zeros for weights and x; without a GPU do nothing.

    Args:
        kernel: The kernel to run.
        config: Its layer.
        ms: Numbers of rows.
        scales: Scale layout of x.
        pad_k_to: As in the kernel's capability.
        pad_m_to: As in the kernel's capability.
    """
    activation, here = config.scheme.activation, current_gpu()
    if activation is None or here is None:
        return
    source = required_input(activation, config.k, scales, pad_k_to, pad_m_to, config.in_dtype)
    if source is None:
        return
    device, profile = here
    prepared = kernel.prepare(_zero_weights(config, device), config, profile)
    run = kernel.bind(config, prepared, profile)
    for m in ms:
        q = empty_quantized(activation, source.layout, m, config.k, device)
        for tensor in q.tensors():
            tensor.zero_()
        run(q)


def current_gpu() -> tuple[torch.device, DeviceProfile] | None:
    """Give the current GPU and a profile that names its architecture, or None without one."""
    if not torch.cuda.is_available():
        return None
    device = torch.device("cuda", torch.cuda.current_device())
    major, minor = torch.cuda.get_device_capability(device)
    arch = Arch.parse(f"{major}.{minor}")
    return device, DeviceProfile(name="here", title="current GPU", arch=arch, index=device.index)


def _zero_weights(config: LinearConfig, device: torch.device) -> LinearWeights:
    operand, n, k = config.scheme.weight, config.n, config.k
    bias = None
    if config.bias:
        bias = torch.zeros(n, dtype=DTYPES[config.out_dtype], device=device)
    return LinearWeights(
        data=torch.zeros(
            data_shape(operand, n, k), dtype=DATA_DTYPES[operand.element], device=device
        ),
        scales=torch.zeros(grid_shape(operand, n, k), dtype=torch.float32, device=device),
        bias=bias,
    )
