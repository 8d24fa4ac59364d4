"""What the backend offers: every kernel the same, on paper."""

from quantmux import BackendInfo, Capability, KernelSpec, OperandOffer, hookimpl
from quantmux import operand as preset

STEMS = ("crashes", "exits", "hangs", "raises", "sound", "zeros")
GPU_STEMS = ("gpu_poisons", "gpu_sound")


@hookimpl
def quantmux_backend():
    return BackendInfo(name="hazards", version="1.0")


@hookimpl
def quantmux_kernels():
    token = OperandOffer.of(preset("fp8_token"), ("row_major",))
    cpu = Capability(
        arch="cpu",
        produces=(token,),
        takes_padded_n=True,
        takes_padded_m=True,
        in_dtypes=("bf16",),
        tags={"composite", "deterministic"},
    )
    gpu = cpu.replace(arch=("80+",))
    return tuple(
        KernelSpec(
            id=f"hazards/{stem}",
            op="quantize",
            capability=gpu if stem in GPU_STEMS else cpu,
            load=f"quantmux_hazards.kernels:{stem}",
            sources=("kernels.py",),
        )
        for stem in (*STEMS, *GPU_STEMS)
    )
