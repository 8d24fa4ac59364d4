"""The flashinfer plugin. No kernel is described yet: it loads, and says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantmux._version import __version__
from quantmux.capability.capability import Needs
from quantmux.capability.needs import needs_rejections, package_version
from quantmux.registry import BackendInfo, BackendStatus, hookimpl

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux.registry import KernelSpec

_FLASHINFER = Needs(
    kind="package",
    name="flashinfer-python",
    import_name="flashinfer",
    install="pip install 'quantmux[flashinfer]'",
)


@hookimpl
def quantmux_backend() -> BackendInfo:
    """Give name and version."""
    return BackendInfo(
        name="flashinfer", version=__version__, summary="kernels of the FlashInfer library"
    )


@hookimpl
def quantmux_kernels() -> tuple[KernelSpec, ...]:
    """Give the kernels: none yet."""
    return ()


@hookimpl
def quantmux_probe(device: DeviceProfile) -> BackendStatus:
    """Say whether FlashInfer is installed and the device is one that it runs on."""
    missing = needs_rejections([_FLASHINFER])
    reasons = [f"{r.field}: {r.actual}" for r in missing]
    if not device.is_cuda:
        reasons.append(f"FlashInfer runs on NVIDIA GPUs, the device is {device.name}")
    details = {"kernels": "no kernel yet"}
    version = package_version("flashinfer-python")
    if version:
        details["flashinfer-python"] = version
    return BackendStatus(
        state="unavailable" if reasons else "ok",
        reasons=tuple(reasons),
        hint=missing[0].hint if missing else None,
        details=details,
    )
