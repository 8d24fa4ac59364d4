"""For which GPUs modules are compiled here."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from quantmux.capability.arch import ArchSet
from quantmux.capability.detect import detect_devices
from quantmux_flashinfer.jit.targets import VARIABLE, joined, part_of, read_list

if TYPE_CHECKING:
    from quantmux.capability.arch import Arch


def target_here(nvcc_version: str) -> str:
    """Give the target of this process: the listed architectures, else its GPUs; "" without any.

    ``FLASHINFER_CUDA_ARCH_LIST`` is the user's way to name them. FlashInfer asks once, when it is
    imported.
    """
    listed = os.environ.get(VARIABLE)
    if listed is not None:
        return read_list(listed, nvcc_version)
    numbers = {device.arch.sm for device in detect_devices() if device.is_cuda}
    return joined(part_of(sm, nvcc_version) for sm in numbers if sm is not None)


def target_for(arch: Arch, nvcc_version: str) -> str:
    """Give the target whose modules a GPU loads; "" where the user's list leaves it out.

    Args:
        arch: Of the GPU; one that is not here counts as alone in a machine.
        nvcc_version: As in `part_of`.
    """
    here = target_here(nvcc_version)
    if runs_on(here, arch):
        return here
    here_by_device = any(device.arch == arch for device in detect_devices())
    if os.environ.get(VARIABLE) is not None and here_by_device:
        return ""
    return part_of(arch.sm, nvcc_version) if arch.sm is not None else ""


def runs_on(target: str, arch: Arch) -> bool:
    """Tell whether modules of a target have code for an architecture."""
    return any(arch in ArchSet(spec=part) for part in target.split("+") if part)
