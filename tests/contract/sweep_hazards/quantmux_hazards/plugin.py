"""What the backend offers: every kernel the same, on paper."""

from quantmux import BackendInfo, Capability, KernelSpec, OperandOffer, hookimpl
from quantmux import operand as preset

STEMS = ("crashes", "exits", "hangs", "raises", "sound", "zeros")


@hookimpl
def quantmux_backend():
    return BackendInfo(name="hazards", version="1.0")


@hookimpl
def quantmux_kernels():
    token = OperandOffer.of(preset("fp8_token"), ("row_major",))
    capability = Capability(
        arch="cpu",
        produces=(token,),
        takes_padded_n=True,
        takes_padded_m=True,
        in_dtypes=("bf16",),
        tags={"composite", "deterministic"},
    )
    return tuple(
        KernelSpec(
            id=f"hazards/{stem}",
            op="quantize",
            capability=capability,
            load=f"quantmux_hazards.kernels:{stem}",
            sources=("kernels.py",),
        )
        for stem in STEMS
    )
