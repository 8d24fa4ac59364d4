"""The cutlass plugin. No kernel is written yet: it loads, and says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantmux._version import __version__
from quantmux.capability.needs import find_tool
from quantmux.registry import BackendInfo, BackendStatus, hookimpl
from quantmux_cutlass.headers import VARIABLE, find_headers, headers_version

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux.registry import KernelSpec


@hookimpl
def quantmux_backend() -> BackendInfo:
    """Give name and version."""
    return BackendInfo(
        name="cutlass", version=__version__, summary="CUDA kernels built on CUTLASS when needed"
    )


@hookimpl
def quantmux_kernels() -> tuple[KernelSpec, ...]:
    """Give the kernels: none yet."""
    return ()


@hookimpl
def quantmux_probe(device: DeviceProfile) -> BackendStatus:
    """Say whether the CUDA compiler and the headers are here, and the device is one for them."""
    details = {"kernels": "no kernel yet"}
    reasons, hints = [], []
    nvcc = find_tool("nvcc")
    if nvcc:
        details["nvcc"] = nvcc
    else:
        reasons.append("nvcc: not on PATH, not in CUDA_HOME")
        hints.append("install the CUDA toolkit, or set CUDA_HOME")
    headers = find_headers()
    if headers:
        details["headers"] = str(headers)
        details["cutlass"] = headers_version(headers) or "version not named"
    else:
        reasons.append(f"CUTLASS headers: no package carries them, {VARIABLE} names none")
        hints.append("pip install 'quantmux[cutlass]'")
    if not device.is_cuda:
        reasons.append(f"CUTLASS compiles for NVIDIA GPUs, the device is {device.name}")
    return BackendStatus(
        state="unavailable" if reasons else "ok",
        reasons=tuple(reasons),
        hint="; ".join(hints) or None,
        details=details,
    )
