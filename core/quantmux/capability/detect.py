"""The devices of this machine, and what a user means by ``device=``. Without torch."""

from __future__ import annotations

import os
import re
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from quantmux.capability.arch import Arch
from quantmux.capability.device import DeviceProfile
from quantmux.capability.nvml import Gpu, nvidia_gpus
from quantmux.capability.profiles import CPU, PROFILES
from quantmux.capability.visible import cuda_order
from quantmux.config._base import closest
from quantmux.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

HERE_CPU: Final = CPU.replace(is_present=True)

# Shared memory that a block may opt in to, KiB, by compute capability (CUDA programming guide).
_SMEM_KIB: Final = {
    75: 64, 80: 163, 86: 99, 87: 163, 88: 163, 89: 99, 90: 227,
    100: 227, 101: 227, 103: 227, 110: 227, 120: 99, 121: 99,
}  # fmt: skip
_CORES_PER_SM: Final = {75: 64, 80: 64}
_CUDA: Final = re.compile(r"^cuda(?::(\d+))?$")
_ARCH: Final = re.compile(r"^(sm_?\d{2,3}|\d{1,2}\.\d|\d{2,3}|gfx[0-9a-f]{3,4})$")
# Words of a product name that all must occur, as whole words: GH200 is no H200, GB200 no B200.
_PRODUCTS: Final = {
    "a100": "A100", "l40s": "L40S", "h100": "H100", "h200": "H200", "b200": "B200", "b300": "B300",
    "rtx_pro_6000": "RTX PRO 6000 Blackwell", "dgx_spark": "GB10",
}  # fmt: skip


def detect_devices() -> tuple[DeviceProfile, ...]:
    """Give the GPUs that CUDA shows this process, ``cuda:0`` first; empty without any.

    Asks the driver through nvidia-ml-py, neither torch nor a CUDA context; asked once. Never
    raises. A GPU of a known model carries its profile's facts and name, another its architecture's
    (``sm86``).
    """
    return _detected(os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("CUDA_DEVICE_ORDER"))


def forget_devices() -> None:
    """Ask the driver again at the next use."""
    _detected.cache_clear()


def resolve_device(
    device: Any = None, *, profiles: Mapping[str, DeviceProfile] = PROFILES
) -> DeviceProfile:
    """Give the profile that ``device`` means.

    Args:
        device: None (the first GPU here, else the CPU), ``"cuda"``, ``"cuda:1"``, ``"cpu"``, a
            torch.device, a profile's name (``"b200"``: a question about such a device, whether
            or not one is here), an architecture (``"sm90"``, ``"10.3"``), or a DeviceProfile.
        profiles: Named profiles, plugins' included.

    Raises:
        ConfigError: There is no such device (code ``device``).
    """
    if isinstance(device, DeviceProfile):
        return device
    if device is None:
        return (*detect_devices(), HERE_CPU)[0]
    if not isinstance(device, str):
        device = _torch_device_name(device)
    name = device.strip().lower()
    if name == "cpu":
        return HERE_CPU
    cuda = _CUDA.match(name)
    if cuda:
        return _cuda_device(int(cuda[1] or 0), name)
    key = name.replace("-", "_").replace(" ", "_")
    if key in profiles:
        return profiles[key]
    if _ARCH.match(name):
        return _arch_profile(name)
    raise _no_device(device, profiles)


def device_here(device: Any) -> DeviceProfile:
    """Give the profile of a device of this machine; a profile's name means the GPU of that name.

    Raises:
        ConfigError: There is no such device, or it is a named one that is not here.
    """
    found = resolve_device(device)
    if not found.is_present:
        found = next((d for d in detect_devices() if d.name == found.name), found)
    if not found.is_present:
        raise ConfigError(
            f'a device of this machine is needed, found "{found.name}"',
            facts=["here: " + ", ".join(str(d) for d in (*detect_devices(), HERE_CPU))],
            hint="a named device can be asked about (select, explain, plan), not run on",
            code="device",
        )
    return found


def arch_facts(arch: Arch) -> dict[str, Any]:
    """Give the facts that follow from the architecture alone, by field of `DeviceProfile`."""
    smem = _SMEM_KIB.get(arch.sm or 0)
    return {} if smem is None else {"smem_kib": float(smem)}


def profile_of_gpu(gpu: Gpu, index: int) -> DeviceProfile:
    """Give the profile of a GPU that is here: a known model's facts, corrected by the driver's."""
    arch = Arch(vendor="nvidia", name=f"{gpu.major}{gpu.minor}")
    known = _known_model(gpu, arch)
    sm_count = gpu.sm_count or gpu.cores // _CORES_PER_SM.get(arch.sm or 0, 128)
    here: dict[str, Any] = {
        "title": gpu.name,
        "is_present": True,
        "index": index,
        "driver": gpu.driver,
    }
    if gpu.memory_gib:
        here["memory_gib"] = gpu.memory_gib
    if known is None:
        name = f"sm{arch.name}" + ("_mig" if _is_mig(gpu) else "")
        rates = {"copy_gb_s": gpu.copy_gb_s, "sm_count": sm_count}
        return DeviceProfile(name=name, arch=arch, **{**arch_facts(arch), **rates, **here})
    if _is_mig(gpu):
        # a slice is no H200 to a tuning table: its own name, and rates in proportion
        share = sm_count / known.sm_count if known.sm_count else 0.0
        rates = {
            field: round(getattr(known, field) * share, 1)
            for field in ("copy_gb_s", "fp8_tflops", "bf16_tflops", "fp4_tflops")
        }
        here |= {"name": f"{known.name}_mig", "sm_count": sm_count, **rates}
    elif sm_count:
        here["sm_count"] = sm_count
    return known.replace(**here)


@cache
def _detected(visible: str | None, order: str | None) -> tuple[DeviceProfile, ...]:
    given = {"CUDA_VISIBLE_DEVICES": visible, "CUDA_DEVICE_ORDER": order}
    environment = {name: value for name, value in given.items() if value is not None}
    gpus = cuda_order(nvidia_gpus(), environment)
    return tuple(profile_of_gpu(gpu, index) for index, gpu in enumerate(gpus))


def _is_mig(gpu: Gpu) -> bool:
    return gpu.uuid.startswith("MIG-")


def _known_model(gpu: Gpu, arch: Arch) -> DeviceProfile | None:
    words = re.split(r"[\s\-/]+", gpu.name.upper())
    for name, product in _PRODUCTS.items():
        found = PROFILES[name]
        if found.arch == arch and all(word in words for word in product.upper().split()):
            return found
    return None


def _cuda_device(index: int, asked: str) -> DeviceProfile:
    devices = detect_devices()
    if index < len(devices):
        return devices[index]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    facts = [f"cuda:{d.index}  {d.title} ({d.arch})" for d in devices] or ["no NVIDIA GPU is here"]
    if visible is not None:
        facts.append(f'CUDA_VISIBLE_DEVICES = "{visible}"')
    raise ConfigError(
        f'there is no device "{asked}" on this machine',
        facts=facts,
        hint='use device="cpu", or a named profile such as "h200" to ask what one would take'
        if not devices
        else f'use "cuda:{devices[-1].index}"',
        code="device",
    )


def _arch_profile(name: str) -> DeviceProfile:
    arch = Arch.parse(name)
    if arch.vendor == "nvidia" and arch.sm not in _SMEM_KIB:
        raise ConfigError(
            f'"{name}" is no architecture of a GPU that quantmux knows',
            facts=["known: " + " ".join(f"sm{sm}" for sm in _SMEM_KIB)],
            code="device",
        )
    return DeviceProfile(name=str(arch), title=str(arch), arch=arch, **arch_facts(arch))


def _torch_device_name(device: Any) -> str:
    kind, index = getattr(device, "type", None), getattr(device, "index", None)
    if not isinstance(kind, str):
        raise ConfigError(
            f"device is a {type(device).__name__}",
            facts=["accepted: a name, a torch.device, a DeviceProfile, or None"],
            code="device",
        )
    return kind if index is None or kind == "cpu" else f"{kind}:{index}"


def _no_device(asked: str, profiles: Mapping[str, DeviceProfile]) -> ConfigError:
    near = closest(asked.lower(), profiles)
    return ConfigError(
        f'there is no device "{asked}"',
        facts=[
            "profiles: " + " ".join(profiles),
            "or an architecture (sm90), or one that is here: cuda, cuda:0, cpu",
        ],
        hint=f'did you mean "{near}"?' if near else None,
        code="device",
    )
