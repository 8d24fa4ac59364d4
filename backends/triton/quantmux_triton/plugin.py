"""The triton plugin. No kernel is written yet: it loads, and says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantmux._version import __version__
from quantmux.capability.capability import Needs
from quantmux.capability.needs import needs_rejections, package_version
from quantmux.registry import BackendInfo, BackendStatus, hookimpl

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux.registry import KernelSpec

_TRITON = Needs(kind="package", name="triton", version=">=3.4")


@hookimpl
def quantmux_backend() -> BackendInfo:
    """Give name and version."""
    return BackendInfo(name="triton", version=__version__, summary="kernels written in Triton")


@hookimpl
def quantmux_kernels() -> tuple[KernelSpec, ...]:
    """Give the kernels: none yet."""
    return ()


@hookimpl
def quantmux_probe(device: DeviceProfile) -> BackendStatus:
    """Say whether Triton is installed and the device is one that it compiles for."""
    missing = needs_rejections([_TRITON])
    reasons = [f"{r.field} {r.required}: {r.actual}" for r in missing]
    if not device.is_cuda:
        reasons.append(f"Triton compiles for GPUs, the device is {device.name}")
    details = {"kernels": "no kernel yet"}
    version = package_version("triton")
    if version:
        details["triton"] = version
    return BackendStatus(
        state="unavailable" if reasons else "ok",
        reasons=tuple(reasons),
        hint=missing[0].hint if missing else None,
        details=details,
    )
