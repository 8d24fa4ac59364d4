"""Facts about one device, present or absent."""

from __future__ import annotations

from quantmux.capability.arch import Arch
from quantmux.config._base import Frozen


class DeviceProfile(Frozen):
    """What selection may know of a device.

    Attributes:
        name: Short name as in ``--device``: ``h200``, ``b200``, ``cpu``.
        title: Name as the vendor spells it.
        arch: Architecture.
        is_present: This machine has it (True), or it is a named profile (False).
        index: Ordinal when present.
        sm_count: Streaming multiprocessors.
        memory_gib: Device memory, GiB.
        l2_mib: Level-2 cache, MiB.
        copy_gb_s: Copy rate, bytes read plus written, GB/s: measured where a comment says so,
            else the data sheet's.
        fp8_tflops: Dense FP8 rate, TFLOP/s.
        bf16_tflops: Dense bf16 rate, TFLOP/s.
        fp4_tflops: Dense FP4 rate, TFLOP/s, 0 without FP4 units.
        smem_kib: Shared memory a block may opt in to, KiB.
        driver: Driver version, when present.
    """

    name: str
    title: str
    arch: Arch
    is_present: bool = False
    index: int | None = None
    sm_count: int = 0
    memory_gib: float = 0.0
    l2_mib: float = 0.0
    copy_gb_s: float = 0.0
    fp8_tflops: float = 0.0
    bf16_tflops: float = 0.0
    fp4_tflops: float = 0.0
    smem_kib: float = 0.0
    driver: str | None = None

    @property
    def is_cuda(self) -> bool:
        """Tell whether it is an NVIDIA GPU."""
        return self.arch.vendor == "nvidia"

    @property
    def torch_name(self) -> str:
        """Give the string that torch.device takes for it."""
        if not self.is_cuda:
            return "cpu"
        return "cuda" if self.index is None else f"cuda:{self.index}"

    def __str__(self) -> str:
        return f"{self.name} ({self.arch})"
