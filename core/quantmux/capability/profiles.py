"""Named profiles of GPUs that need not be here: "what would a B200 take?" on a laptop.

Rates are data-sheet figures without sparsity unless a comment says measured. They only price
relayouts and order nothing across backends.
"""

from __future__ import annotations

from typing import Final

from quantmux.capability.arch import Arch
from quantmux.capability.device import DeviceProfile
from quantmux.config._base import closest
from quantmux.errors import ConfigError


def _gpu(name: str, title: str, sm: int, **facts: float) -> DeviceProfile:
    arch = Arch(vendor="nvidia", name=str(sm))
    return DeviceProfile(name=name, title=title, arch=arch, **facts)  # type: ignore[arg-type]


CPU: Final = DeviceProfile(name="cpu", title="CPU", arch=Arch(vendor="cpu", name="cpu"))

PROFILES: Final[dict[str, DeviceProfile]] = {
    p.name: p
    for p in (
        CPU,
        _gpu("a100", "NVIDIA A100 80GB", 80, sm_count=108, memory_gib=80, l2_mib=40,
             copy_gb_s=2039, bf16_tflops=312, smem_kib=163),
        _gpu("l40s", "NVIDIA L40S", 89, sm_count=142, memory_gib=48, l2_mib=96,
             copy_gb_s=864, bf16_tflops=362, fp8_tflops=733, smem_kib=99),
        _gpu("h100", "NVIDIA H100 SXM", 90, sm_count=132, memory_gib=80, l2_mib=50,
             copy_gb_s=3350, bf16_tflops=989, fp8_tflops=1979, smem_kib=227),
        # copy rate, bf16 and fp8 measured on one H200, 2026-10/11: facts of docs/numerics
        _gpu("h200", "NVIDIA H200", 90, sm_count=132, memory_gib=139, l2_mib=60,
             copy_gb_s=4268, bf16_tflops=768, fp8_tflops=1426, smem_kib=227),
        _gpu("b200", "NVIDIA B200", 100, sm_count=148, memory_gib=180, l2_mib=126,
             copy_gb_s=8000, bf16_tflops=2250, fp8_tflops=4500, fp4_tflops=9000, smem_kib=227),
        _gpu("b300", "NVIDIA B300", 103, sm_count=148, memory_gib=268, l2_mib=126,
             copy_gb_s=8000, bf16_tflops=2250, fp8_tflops=4500, fp4_tflops=13500, smem_kib=227),
        _gpu("rtx_pro_6000", "NVIDIA RTX PRO 6000 Blackwell", 120, sm_count=188, memory_gib=96,
             l2_mib=128, copy_gb_s=1792, bf16_tflops=503, fp8_tflops=1007, fp4_tflops=2015,
             smem_kib=99),
        _gpu("dgx_spark", "NVIDIA GB10 (DGX Spark)", 121, sm_count=48, memory_gib=128, l2_mib=24,
             copy_gb_s=273, bf16_tflops=125, fp8_tflops=250, fp4_tflops=500, smem_kib=99),
    )
}  # fmt: skip


def profile(name: str) -> DeviceProfile:
    """Give the named profile.

    Raises:
        ConfigError: No profile has that name (code ``device``).
    """
    found = PROFILES.get(name.lower().replace("-", "_").replace(" ", "_"))
    if found is None:
        near = closest(name.lower(), PROFILES)
        raise ConfigError(
            f'there is no device "{name}"',
            facts=["profiles: " + " ".join(PROFILES), "or one that is here: cuda, cuda:0"],
            hint=f'did you mean "{near}"?' if near else None,
            code="device",
        )
    return found
