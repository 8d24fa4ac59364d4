"""A compiled library whose device is the host, so that calls run, and count, without a GPU."""

from __future__ import annotations

import ctypes
import os
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
from quantmux_cutlass.units import Unit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SOURCE = Path(__file__).with_name("host_library.cpp")
CSRC = Path(native.__file__).with_name("csrc")
KINDS = {"row": 0, "block": 1, "nvfp4": 2}
HOST = DeviceProfile(name="cpu", title="the host", arch=Arch.parse("cpu"), is_present=True)


def unit_of(
    kind: str, name: str = "host", test_options: tuple[tuple[int, ...], ...] = ((),)
) -> Unit:
    """Give the unit of a library of the host; its name begins with its kind."""
    interface = "linear_global" if kind == "nvfp4" else "linear"
    return Unit(
        name=f"{kind}_{name}",
        source=SOURCE.name,
        targets=("90a",),
        interface=interface,
        test_options=test_options,
    )


@dataclass(eq=False)
class HostLibrary:
    """What `quantmux_cutlass.build.library.Library` is, for the host."""

    unit: Unit
    path: Path
    handle: ctypes.CDLL
    target: str = "90a"

    def __post_init__(self) -> None:
        functions: dict[str, Any] = {**ALWAYS, **INTERFACES[self.unit.interface]}
        for name, (result, arguments) in functions.items():
            function = getattr(self.handle, name)
            function.restype, function.argtypes = result, arguments
        self.handle.qm_calls.restype = ctypes.c_int64
        self.handle.qm_plans.restype = ctypes.c_int64
        self.handle.qm_last_stream.restype = ctypes.c_void_p
        self.handle.qm_sizeof.restype = ctypes.c_size_t
        self.handle.qm_offset.restype = ctypes.c_size_t
        self.plan_bytes: int = self.handle.qm_plan_bytes()
        self.plan, self.run = self.handle.qm_plan, self.handle.qm_run
        self.run_at = self.handle.qm_run_at

    @property
    def calls(self) -> int:
        """Launches so far: calls of ``qm_run`` and ``qm_run_at`` with M > 0 that did not fail."""
        return int(self.handle.qm_calls())

    @property
    def plans(self) -> int:
        """Plans made so far."""
        return int(self.handle.qm_plans())


@pytest.fixture(scope="session")
def host() -> DeviceProfile:
    """Give the host as a device that is here."""
    return HOST


@pytest.fixture(scope="session")
def host_unit() -> Callable[..., Unit]:
    """Give ``make(kind, name=None, test_options=((),))``: a unit that the host's library serves."""
    return unit_of


@pytest.fixture(scope="session")
def host_library(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], HostLibrary]:
    """Give ``make(kind)``: the library of the host for ``row``, ``block`` or ``nvfp4``."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    folder = tmp_path_factory.mktemp("host-libraries")
    made: dict[str, HostLibrary] = {}

    def make(kind: str) -> HostLibrary:
        if kind not in made:
            path = folder / f"{kind}.so"
            macros = {"KIND": str(KINDS[kind]), "NAME": '"host"', "TARGETS": '"90a"'}
            macros["DIGEST"] = '"none"'
            command = [compiler, "-std=c++17", "-O2", "-shared", "-fPIC", "-fvisibility=hidden"]
            command += [f"-DQM_{name}={value}" for name, value in macros.items()]
            command += [f"-I{CSRC}", str(SOURCE), "-o", str(path)]
            subprocess.run(command, check=True)
            made[kind] = HostLibrary(unit_of(kind), path, ctypes.CDLL(str(path)))
        return made[kind]

    return make


@pytest.fixture
def host_libraries(
    host_library: Callable[[str], HostLibrary], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], HostLibrary]:
    """Let every unit whose name begins with a kind be served by the host's library of it."""

    def opened(units: Iterable[Unit], device: DeviceProfile) -> dict[Unit, HostLibrary]:
        del device
        return {unit: host_library(unit.name.partition("_")[0]) for unit in units}

    monkeypatch.setattr(native, "opened", opened)
    return host_library
