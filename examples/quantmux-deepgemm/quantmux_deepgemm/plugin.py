"""What the backend offers, as data. Imports neither torch nor DeepGEMM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import quantmux as qm
from quantmux_deepgemm.libraries import MISSING_HINT, find_libraries

if TYPE_CHECKING:
    from collections.abc import Iterable

DEEPGEMM_VERSION: Final = "0.1.2"
"""The version this package was written for and measured with."""

NEEDS: Final = (
    qm.Needs(
        kind="package",
        name="sgl-deep-gemm",
        version=f"=={DEEPGEMM_VERSION}",
        import_name="deep_gemm",
    ),
    # the release it was measured with; 0.1.11 under newer builds of the library failed host checks
    qm.Needs(kind="package", name="apache-tvm-ffi", version="==0.1.9", import_name="tvm_ffi"),
    # the library is compiled against torch's C++ classes, which differ between minor versions
    qm.Needs(kind="package", name="torch", version=">=2.11,<2.12"),
    qm.Needs(
        kind="tool",
        name="nvcc",
        install="install CUDA 12.9 or later, and put its bin/ on PATH or name it in CUDA_HOME",
    ),
)

_BOTH: Final = ("none", "pow2")  # powers of two are fp32 numbers like any other
_FP8_BLOCK128: Final = qm.SchemeOffer(
    weight=qm.OperandOffer.of(qm.operand("fp8_block128"), ("row_major",), roundings=_BOTH),
    # one scale for 128 columns of x, transposed for the TMA unit
    activation=qm.OperandOffer.of(
        qm.operand("fp8_group128"), ("col_major_aligned4",), roundings=_BOTH
    ),
)


@qm.hookimpl
def quantmux_backend() -> qm.BackendInfo:
    return qm.BackendInfo(
        name="deepgemm",
        version="0.1.0",
        api=">=1.0,<2",
        summary="DeepGEMM's FP8 block GEMM for Hopper",
    )


@qm.hookimpl
def quantmux_kernels() -> Iterable[qm.KernelSpec]:
    return (
        qm.KernelSpec(
            id="deepgemm/fp8_gemm_nt",
            op="linear",
            capability=qm.Capability(
                # the library has sm100 kernels too, of other scale layouts: not tried, not offered
                arch="90a",
                schemes=(_FP8_BLOCK128,),
                # n % 8: a trap in the device code. k % 16: rows of both matrices, for the TMA unit.
                # Partial blocks of 128 are right too (48 shapes, and the suite, on an H200).
                align_n=8,
                align_k=16,
                out_dtypes=("bf16",),
                # every block of 128 products is added up in fp32 outside the tensor core
                accumulations=("fast", "exact"),
                launches=1,
                needs=NEEDS,
                tags={"cuda_graph", "deterministic"},
            ),
            load="quantmux_deepgemm.fp8_gemm_nt:KERNEL",
            sources=("fp8_gemm_nt.py", "library.py", "libraries.py"),
            version=DEEPGEMM_VERSION,
            summary="fp8_gemm_nt, compiled by nvcc when a shape first needs it",
        ),
    )


@qm.hookimpl
def quantmux_probe(device: qm.DeviceProfile) -> qm.BackendStatus:
    # asks metadata and looks for files; a probe must not import the library
    if not device.is_cuda:
        reason = f"DeepGEMM runs on NVIDIA GPUs, the device is {device.name}"
        return qm.BackendStatus("unavailable", (reason,))
    missing = qm.needs_rejections(NEEDS)
    reasons = [f"{r.field}: needs {r.required}, found {r.actual}" for r in missing]
    hints = [r.hint for r in missing if r.hint]
    found = find_libraries()
    lost = [f"{name}: not found" for name, path in found.items() if path is None]
    if device.is_present and lost:
        reasons += lost
        hints.append(MISSING_HINT)
    return qm.BackendStatus(
        state="unavailable" if reasons else "ok",
        reasons=tuple(reasons),
        hint=hints[0] if hints else None,
        details={name: str(path) for name, path in found.items() if path is not None},
    )
