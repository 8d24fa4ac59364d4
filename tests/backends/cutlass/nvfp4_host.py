"""The NVFP4 quantizer's library with the host as its device, compiled from its own device code."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from quantmux.capability.arch import Arch
from quantmux.capability.device import DeviceProfile
from quantmux_cutlass import native
from quantmux_cutlass.interfaces import ALWAYS, INTERFACES
from quantmux_cutlass.linear.choice import Choice
from quantmux_cutlass.quantize.bound import Bound
from quantmux_cutlass.quantize.units import NVFP4

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantmux.config import QuantizeConfig
    from quantmux.ops.quantized import QuantizedTensor

SOURCE = Path(__file__).with_name("nvfp4_on_host.cpp")
CSRC = Path(native.__file__).with_name("csrc")
HOST = DeviceProfile(name="cpu", title="the host", arch=Arch.parse("cpu"), is_present=True)


@dataclass(eq=False)
class HostQuantizer:
    """What `quantmux_cutlass.build.library.Library` is, for the host."""

    handle: ctypes.CDLL
    unit: Any = NVFP4

    def __post_init__(self) -> None:
        for name, (result, arguments) in {**ALWAYS, **INTERFACES["quantize"]}.items():
            function = getattr(self.handle, name)
            function.restype, function.argtypes = result, arguments
        more = {
            "qm_calls": (ctypes.c_int64, ()),
            "qm_launches": (ctypes.c_int64, ()),
            "qm_sizeof": (ctypes.c_size_t, ()),
            "qm_code_of": (ctypes.c_uint32, (ctypes.c_float,)),
            "qm_plain_code_of": (ctypes.c_uint32, (ctypes.c_float,)),
            "qm_sixth": (ctypes.c_float, (ctypes.c_float,)),
            "qm_multiplier": (ctypes.c_float, (ctypes.c_uint32, ctypes.c_float)),
            "qm_quotient": (ctypes.c_int32, (ctypes.c_int32, ctypes.c_int32)),
        }
        for name, (result, arguments) in more.items():
            function = getattr(self.handle, name)
            function.restype, function.argtypes = result, arguments
        self.plan_bytes: int = self.handle.qm_plan_bytes()
        self.plan: Any = self.handle.qm_plan

    @property
    def calls(self) -> int:
        """Calls so far that quantized something."""
        return int(self.handle.qm_calls())

    @property
    def launches(self) -> int:
        """Launches that these would have been."""
        return int(self.handle.qm_launches())

    def bound(
        self, config: QuantizeConfig, options: tuple[int, ...] = (0, 0)
    ) -> Callable[..., QuantizedTensor]:
        """Give what ``bind`` gives, with this library and these options."""
        return Bound(config, HOST, lambda _index: self, Choice(NVFP4, options)).function()


def compiled_for_host(folder: Path, *macros: str) -> HostQuantizer:
    """Compile the device code for the host, with nvcc's headers; skip where nvcc is not."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("no nvcc, whose headers have the 16-bit floats")
    path = folder / "nvfp4_on_host.so"
    # without contraction: what rounds twice on the GPU must round twice here
    flags = "-fPIC,-fvisibility=hidden,-ffp-contract=off"
    command = [nvcc, "-x", "c++", "-std=c++17", "-O2", "-w", f"-Xcompiler={flags}", "-shared"]
    command += ["-cudart=none", *macros, f"-I{CSRC}", "-o", str(path), str(SOURCE)]
    subprocess.run(command, check=True)
    return HostQuantizer(ctypes.CDLL(str(path)))
