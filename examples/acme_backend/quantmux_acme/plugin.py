"""What the backend is and offers, as data. Imports neither torch nor the kernel."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

from quantmux import BackendInfo, BackendStatus, Capability, KernelSpec, OperandOffer, hookimpl
from quantmux import operand as preset

if TYPE_CHECKING:
    from collections.abc import Iterable

    from quantmux import DeviceProfile


@hookimpl
def quantmux_backend() -> BackendInfo:
    return BackendInfo(
        name="acme",
        version="1.0.0",
        api=">=1.0,<2",
        summary="example: quantizes tokens to FP8 in one pass over rows that fit the cache",
    )


@hookimpl
def quantmux_kernels() -> Iterable[KernelSpec]:
    # exactly this operand, any eps and scale_ub, in this one layout
    token = OperandOffer.of(preset("fp8_token"), ("row_major",))
    return (
        KernelSpec(
            id="acme/token_quant",
            op="quantize",
            capability=Capability(
                arch="cpu",
                produces=(token,),
                takes_padded_n=True,
                takes_padded_m=True,
                in_dtypes=("bf16", "fp16", "fp32"),
                tags=frozenset({"composite", "deterministic"}),
            ),
            load="quantmux_acme.token_quant:KERNEL",
            sources=("token_quant.py",),
            summary="FP8 tokens, block of rows by block of rows",
        ),
    )


@hookimpl
def quantmux_probe(device: DeviceProfile) -> BackendStatus:
    # asks metadata, not the library: a probe must not import it
    try:
        torch = metadata.version("torch")
    except metadata.PackageNotFoundError:
        return BackendStatus("unavailable", ("torch is not installed",), "pip install torch")
    if device.arch.vendor != "cpu":
        return BackendStatus("unavailable", (f"it runs on CPUs, the device is {device.name}",))
    return BackendStatus(details={"torch": torch})
