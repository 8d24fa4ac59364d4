"""The NVIDIA GPUs of this machine, asked from the driver's management library. Never raises."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Final

_log: Final = logging.getLogger("quantmux.devices")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, or one MIG slice of one, as the driver describes it.

    Attributes:
        name: Product name, ``NVIDIA H200``.
        uuid: ``GPU-…`` or ``MIG-…``.
        major: Compute capability, major.
        minor: Compute capability, minor.
        memory_gib: Memory, GiB.
        cores: CUDA cores, 0 when the driver does not say.
        copy_gb_s: Data-sheet memory rate, GB/s, 0 when the driver does not say.
        driver: Driver version.
        slices: MIG slices, when the GPU is partitioned; CUDA then sees these only.
        sm_count: Multiprocessors, 0 when the driver does not say.
    """

    name: str
    uuid: str
    major: int
    minor: int
    memory_gib: float = 0.0
    cores: int = 0
    copy_gb_s: float = 0.0
    driver: str | None = None
    slices: tuple[Gpu, ...] = ()
    sm_count: int = 0


def nvidia_gpus() -> tuple[Gpu, ...]:
    """Give the GPUs in the driver's order (by PCI bus), none when there is no driver."""
    try:
        import pynvml
    except ImportError:
        return ()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        _log.debug("no NVIDIA driver: %s", error)
        return ()
    try:
        driver = _text(_ask(pynvml, "nvmlSystemGetDriverVersion")) or None
        count = _ask(pynvml, "nvmlDeviceGetCount") or 0
        found = (_read(pynvml, index, driver) for index in range(count))
        return tuple(gpu for gpu in found if gpu is not None)
    finally:
        _ask(pynvml, "nvmlShutdown")


def _ask(nvml: Any, question: str, *arguments: Any) -> Any:
    """Ask one question; None when this binding, driver or GPU has no answer."""
    function = getattr(nvml, question, None)
    if function is None:
        return None
    try:
        return function(*arguments)
    except nvml.NVMLError as error:
        _log.debug("%s: %s", question, error)
        return None


def _read(nvml: Any, index: int, driver: str | None) -> Gpu | None:
    handle = _ask(nvml, "nvmlDeviceGetHandleByIndex", index)
    capability = (
        None if handle is None else _ask(nvml, "nvmlDeviceGetCudaComputeCapability", handle)
    )
    if capability is None:
        return None
    major, minor = capability
    name = _text(_ask(nvml, "nvmlDeviceGetName", handle))
    return Gpu(
        name=name,
        uuid=_text(_ask(nvml, "nvmlDeviceGetUUID", handle)),
        major=major,
        minor=minor,
        memory_gib=_memory_gib(nvml, handle),
        cores=_ask(nvml, "nvmlDeviceGetNumGpuCores", handle) or 0,
        copy_gb_s=_copy_gb_s(nvml, handle),
        driver=driver,
        slices=_slices(nvml, handle, name, (major, minor), driver),
    )


def _slices(
    nvml: Any, handle: Any, name: str, capability: tuple[int, int], driver: str | None
) -> tuple[Gpu, ...]:
    mode = _ask(nvml, "nvmlDeviceGetMigMode", handle)
    if not mode or mode[0] != nvml.NVML_DEVICE_MIG_ENABLE:
        return ()
    count = _ask(nvml, "nvmlDeviceGetMaxMigDeviceCount", handle) or 0
    found = []
    for index in range(count):
        part = _ask(nvml, "nvmlDeviceGetMigDeviceHandleByIndex", handle, index)
        if part is None:
            continue
        facts = _ask(nvml, "nvmlDeviceGetAttributes", part)
        found.append(
            Gpu(
                name=_text(_ask(nvml, "nvmlDeviceGetName", part)) or f"{name} MIG",
                uuid=_text(_ask(nvml, "nvmlDeviceGetUUID", part)),
                major=capability[0],
                minor=capability[1],
                memory_gib=_memory_gib(nvml, part),
                driver=driver,
                sm_count=getattr(facts, "multiprocessorCount", 0),
            )
        )
    return tuple(found)


def _memory_gib(nvml: Any, handle: Any) -> float:
    memory = _ask(nvml, "nvmlDeviceGetMemoryInfo", handle)
    return 0.0 if memory is None else round(float(memory.total) / 2**30, 1)


def _copy_gb_s(nvml: Any, handle: Any) -> float:
    bits = _ask(nvml, "nvmlDeviceGetMemoryBusWidth", handle)
    mhz = _ask(nvml, "nvmlDeviceGetMaxClockInfo", handle, nvml.NVML_CLOCK_MEM)
    if not bits or not mhz:
        return 0.0
    return float(round(2.0 * mhz * 1e6 * bits / 8 / 1e9))  # two transfers a clock


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value or "")
