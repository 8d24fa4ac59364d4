"""The torch backend, as data: what it is, its kernels, and whether it can work on a device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantmux._version import __version__
from quantmux.registry.hookspecs import hookimpl
from quantmux.registry.kernel_spec import BackendInfo, BackendStatus
from quantmux_torch.consumers import consumer_specs
from quantmux_torch.fused_producers import fused_producer_specs
from quantmux_torch.producers import producer_specs
from quantmux_torch.torch_build import installed_torch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from quantmux.capability.device import DeviceProfile
    from quantmux.registry.kernel_spec import KernelSpec


@hookimpl
def quantmux_backend() -> BackendInfo:
    """Give name, version and API range."""
    return BackendInfo(
        name="torch",
        version=__version__,
        api=">=1.0,<2",
        summary="PyTorch's own operations: the reference floor and torch's scaled GEMMs",
    )


@hookimpl
def quantmux_kernels() -> Iterable[KernelSpec]:
    """Give the kernels."""
    # without torch's version: evidence and times keep the releases they were taken with, and are
    # to be read on a laptop with another torch when its user asks about an H200
    return (*producer_specs(), *fused_producer_specs(), *consumer_specs())


@hookimpl
def quantmux_probe(device: DeviceProfile) -> BackendStatus:
    """Tell whether the installed torch can work on the device."""
    build = installed_torch()
    if build is None:
        return BackendStatus(
            "unavailable", ("torch is not installed",), "pip install torch, 2.8 or later"
        )
    details = {"torch": build.version}
    if build.cuda:
        details["cuda"] = build.cuda
    if build.hip:
        details["hip"] = build.hip
    if device.is_present and device.is_cuda and not build.cuda:
        return BackendStatus(
            "unavailable",
            (f"torch {build.version} was built without CUDA",),
            "install a CUDA build of torch",
            details,
        )
    return BackendStatus(details=details)
