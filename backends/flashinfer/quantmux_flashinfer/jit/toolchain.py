"""What FlashInfer would compile with on this machine, found as it finds it, and by files alone.

It takes the toolkit in ``CUDA_HOME``, else ``CUDA_PATH``, else two folders above the nvcc on
``PATH``, else ``/usr/local/cuda``. Where that nvcc is a script or a link that lies elsewhere, the
folder above it is no toolkit: no ``cuda_runtime.h``, no library. Then `environment` sets
``CUDA_HOME`` to the toolkit that is there, since FlashInfer would fail late and unclearly.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Final

from packaging.version import InvalidVersion, Version

from quantmux.capability.rejection import Rejection, RejectionCode
from quantmux.testing.compile_cuda import nvcc_version
from quantmux_flashinfer.jit.linking import Linking, find_linking
from quantmux_flashinfer.jit.targets import numbers_of
from quantmux_flashinfer.jit.variables import users

if TYPE_CHECKING:
    from quantmux_flashinfer.jit.modules import JitModule

DEFAULT: Final = Path("/usr/local/cuda")

_OLDEST: Final = {103: "12.9", 107: "12.9", 110: "13.0", 121: "12.9"}
"""The first nvcc that knows a target, where 12.8 does not; for 10.7 FlashInfer takes 100f."""

_LOOKS_AT: Final = (
    "CUDA_HOME",
    "CUDA_PATH",
    "PATH",
    "CC",
    "CXX",
    "FLASHINFER_NVCC",
    "FLASHINFER_EXTRA_LDFLAGS",
    "FLASHINFER_EXTRA_CUDAFLAGS",
    "LIBRARY_PATH",
    "CPATH",
    "CPLUS_INCLUDE_PATH",
)

_GET_NVCC: Final = "install the CUDA toolkit and set CUDA_HOME to it"
_GET_HOST: Final = "install g++, or set CXX and CC to a C++ compiler"
_GET_NINJA: Final = "pip install ninja"


@dataclass(frozen=True, slots=True)
class Toolchain:
    """What modules are compiled with; a part that is not here is None.

    Attributes:
        home: Folder of the CUDA toolkit.
        nvcc: The compiler in it.
        version: ``13.0.88``; "" when it does not say.
        host: The C++ compiler.
        ninja: The program that FlashInfer leaves the order of work to.
        linking: Headers and libraries, and where those lie that the toolkit lacks.
        sets_home: FlashInfer would take another folder, which is no toolkit.
    """

    home: Path | None
    nvcc: Path | None
    version: str
    host: str | None
    ninja: str | None
    linking: Linking
    sets_home: bool = False


_lock: Final = threading.Lock()
_found: Final[dict[tuple[str | None, ...], Toolchain]] = {}


def find_toolchain() -> Toolchain:
    """Look for compilers, headers and libraries; remembered per state of the environment."""
    state = tuple(users(name) for name in _LOOKS_AT)
    with _lock:
        if state not in _found:
            _found[state] = _look()
        return _found[state]


def forget() -> None:
    """Look again at the next question, after something was installed."""
    with _lock:
        _found.clear()


def can_build(module: JitModule, target: str, toolchain: Toolchain) -> Rejection | None:
    """Tell why a module cannot be compiled here, None when it can.

    Args:
        module: The module.
        target: What for, as in `targets`.
        toolchain: What `find_toolchain` gave.
    """
    return (
        _compiler(module, target, toolchain)
        or _programs(toolchain)
        or toolchain.linking.missing(module)
    )


def oldest_nvcc(module: JitModule, target: str) -> str:
    """Give the first nvcc that compiles a module right for a target."""
    needs = [module.nvcc, *(_OLDEST[sm] for sm in numbers_of(target) if sm in _OLDEST)]
    return max(needs, key=Version)


def tool(name: str, required: str, actual: str, hint: str) -> Rejection:
    """Give the rejection for something that a compilation needs."""
    return Rejection(RejectionCode.UNAVAILABLE, name, required, actual, hint)


def _compiler(module: JitModule, target: str, toolchain: Toolchain) -> Rejection | None:
    oldest = oldest_nvcc(module, target)
    need = f"nvcc >= {oldest} for {target}"
    if toolchain.nvcc is None:
        looked = "none in CUDA_HOME, CUDA_PATH, PATH, /usr/local/cuda"
        return tool("nvcc", need, _named(toolchain) or looked, _GET_NVCC)
    try:
        is_enough = Version(toolchain.version) >= Version(oldest)
    except InvalidVersion:
        is_enough = False
    if is_enough:
        return None
    found = f"{toolchain.version or 'a version not named'} at {toolchain.nvcc}"
    return tool("nvcc", need, found, _GET_NVCC)


def _named(toolchain: Toolchain) -> str:
    """Say which folder the user named that holds no nvcc."""
    if toolchain.home is None:
        return ""
    name = next((name for name in ("CUDA_HOME", "CUDA_PATH") if users(name)), None)
    return f"{name}={users(name)} holds no bin/nvcc" if name else ""


def _programs(toolchain: Toolchain) -> Rejection | None:
    if toolchain.host is None:
        name = os.environ.get("CXX", "c++")
        return tool("c++", "a C++ compiler", f"{name} is not on PATH", _GET_HOST)
    if toolchain.ninja is None:
        return tool("ninja", "ninja on PATH", "neither there nor in the package ninja", _GET_NINJA)
    return None


def _look() -> Toolchain:
    named = users("CUDA_HOME") or users("CUDA_PATH")
    home = Path(named) if named else _above_nvcc() or (DEFAULT if DEFAULT.exists() else None)
    real = home if named or home is None or _is_toolkit(home) else _real(home)
    nvcc = None if real is None else _executable(real / "bin" / "nvcc")
    version = "" if nvcc is None else nvcc_version(nvcc)
    return Toolchain(
        home=real,
        nvcc=nvcc,
        version=version,
        host=shutil.which(os.environ.get("CXX", "c++")),
        ninja=_ninja(),
        linking=find_linking(real, version),
        sets_home=real != home,
    )


def _above_nvcc() -> Path | None:
    found = shutil.which("nvcc")
    return Path(found).parent.parent if found else None


def _real(home: Path) -> Path:
    """Give the toolkit behind an nvcc that is a link or stands alone; what was given without."""
    found = shutil.which("nvcc")
    behind = Path(found).resolve().parent.parent if found else home
    return next((place for place in (behind, DEFAULT) if _is_toolkit(place)), home)


def _is_toolkit(home: Path) -> bool:
    return (home / "include" / "cuda_runtime.h").is_file() and (home / "bin" / "nvcc").is_file()


def _ninja() -> str | None:
    found = shutil.which("ninja")
    if found:
        return found
    places = [Path(sys.executable).parent / "ninja"]  # not resolved: of the environment
    try:
        spec = util.find_spec("ninja")
    except (ImportError, ValueError):
        spec = None
    if spec is not None and spec.origin is not None:
        places.append(Path(spec.origin).parent / "data" / "bin" / "ninja")
    return next((str(place) for place in places if _executable(place)), None)


def _executable(path: Path) -> Path | None:
    return path if path.is_file() and os.access(path, os.X_OK) else None
