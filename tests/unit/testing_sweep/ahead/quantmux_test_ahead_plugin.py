"""A backend, installed by entry point, whose kernels compile ahead, or over-claim."""

from quantmux import BackendInfo, Capability, KernelSpec, OperandOffer, hookimpl
from quantmux import operand as preset


@hookimpl
def quantmux_backend():
    return BackendInfo(name="ahead", version="1.0")


@hookimpl
def quantmux_kernels():
    token = OperandOffer.of(preset("fp8_token"), ("row_major",))
    kernels = {
        "claims_too_much": ("triton_kernel", "80+"),
        "plain": ("plain", "90a"),
        "token": ("triton_kernel", "89+"),
    }
    return tuple(
        KernelSpec(
            id=f"ahead/{stem}",
            op="quantize",
            load=f"quantmux_test_ahead_kernels:{attribute}",
            capability=Capability(arch=arch, produces=(token,), launches=1),
            sources=("quantmux_test_ahead_kernels.py",),
        )
        for stem, (attribute, arch) in kernels.items()
    )
