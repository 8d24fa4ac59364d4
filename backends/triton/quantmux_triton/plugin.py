"""The triton plugin, as data: what it is, its kernels, and whether it can work on a device."""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from quantmux._version import __version__
from quantmux.capability.capability import Needs
from quantmux.capability.needs import needs_rejections, package_version
from quantmux.registry.hookspecs import hookimpl
from quantmux.registry.kernel_spec import BackendInfo, BackendStatus
from quantmux_triton.interpreter import interpreting

if TYPE_CHECKING:
    from collections.abc import Iterable

    from quantmux.capability.device import DeviceProfile
    from quantmux.registry.kernel_spec import KernelSpec

TRITON: Final = Needs(kind="package", name="triton", version=">=3.4")
"""Tests run with 3.6 and 3.9; 3.4 is the first with `tl.extra.cuda.gdc_wait` and its option."""

FIRST_SM: Final = 80
"""Triton's own least architecture of which tests exist."""

SPECS: Final = (
    "quantize.specs_fp8",
    "quantize.specs_nvfp4",
    "silu_mul_quantize.specs_fp8",
    "silu_mul_quantize.specs_nvfp4",
    "rmsnorm_quantize.specs",
    "inverse_rope_quantize.specs",
    "linear.specs_small_m",
    "linear.specs_large_m",
    "linear.specs_weight_only",
)
"""Modules with a function ``specs() -> tuple[KernelSpec, ...]``; they import no torch."""


@hookimpl
def quantmux_backend() -> BackendInfo:
    """Give name, version and API range."""
    return BackendInfo(
        name="triton",
        version=__version__,
        api=">=1.0,<2",
        summary="kernels written in Triton: quantizers and GEMMs, wherever Triton runs",
    )


@hookimpl
def quantmux_kernels() -> Iterable[KernelSpec]:
    """Give the kernels."""
    modules = (importlib.import_module(f"{__package__}.{name}") for name in SPECS)
    return tuple(_needing_triton(spec) for module in modules for spec in module.specs())


@hookimpl
def quantmux_profiles() -> tuple[DeviceProfile, ...]:
    """Give the AMD GPUs that kernels here compile for; rates are the data sheets'."""
    from quantmux.capability.arch import Arch
    from quantmux.capability.device import DeviceProfile

    return (
        DeviceProfile(
            name="mi300x", title="AMD Instinct MI300X", arch=Arch(vendor="amd", name="gfx942"),
            sm_count=304, memory_gib=192, l2_mib=4, copy_gb_s=5300, bf16_tflops=1307,
            fp8_tflops=2615, smem_kib=64,
        ),
        DeviceProfile(
            name="mi355x", title="AMD Instinct MI355X", arch=Arch(vendor="amd", name="gfx950"),
            sm_count=256, memory_gib=288, l2_mib=4, copy_gb_s=8000, bf16_tflops=2516,
            fp8_tflops=5033, fp4_tflops=10066, smem_kib=160,
        ),
    )  # fmt: skip


@hookimpl
def quantmux_probe(device: DeviceProfile) -> BackendStatus:
    """Tell whether Triton is installed and compiles for the device, or interprets on this host."""
    missing = needs_rejections([TRITON])
    reasons = [f"{r.field} {r.required}: {r.actual}" for r in missing]
    hint = missing[0].hint if missing else None
    refusal, way_out = _refusal(device)
    if refusal:
        reasons.append(refusal)
        hint = hint or way_out
    details = {}
    version = package_version("triton")
    if version:
        details["triton"] = version
    if interpreting():
        details["mode"] = "interpreter"
    return BackendStatus(
        state="unavailable" if reasons else "ok",
        reasons=tuple(reasons),
        hint=hint,
        details=details,
    )


@hookimpl
def quantmux_release(device: int, stream: int) -> None:
    """Let go of the partial sums and counters of a stream; nobody has any before a kernel ran."""
    workspace = sys.modules.get(f"{__package__}.linear.workspace")
    if workspace is not None:
        workspace._streams.pop((device, stream), None)  # noqa: SLF001 - this package's own


def _needing_triton(spec: KernelSpec) -> KernelSpec:
    """Give the spec with Triton among its needs.

    What was shown with one release of the compiler is not shown with the next, so evidence and
    times name the release.
    """
    needs = (*spec.capability.needs, TRITON)
    return replace(spec, capability=spec.capability.replace(needs=needs))


def _refusal(device: DeviceProfile) -> tuple[str | None, str | None]:
    """Give why Triton cannot work on the device, and what would make it."""
    if device.arch.vendor == "cpu":
        if interpreting():
            return None, None
        return (
            f"Triton compiles for GPUs, the device is {device.name}",
            "for tests, TRITON_INTERPRET=1 runs the kernels on the host, slowly",
        )
    if device.arch.vendor == "amd":
        return (
            f"{device.name}: kernels compile for {device.arch}, quantmux runs no AMD GPU yet",
            None,
        )
    if device.is_present and interpreting():
        asked = os.environ.get("TRITON_INTERPRET", "")
        return (
            f"TRITON_INTERPRET={asked} is set: Triton compiles nothing in this process",
            "unset TRITON_INTERPRET",
        )
    if device.arch.sm is not None and device.arch.sm < FIRST_SM:
        return f"Triton's kernels need sm{FIRST_SM}, {device.name} is {device.arch}", None
    return None, None
