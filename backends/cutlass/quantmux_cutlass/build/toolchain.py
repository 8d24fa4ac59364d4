"""What this machine can compile with, and what it cannot, said before anything is tried."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from quantmux.capability.arch import ArchSet
from quantmux.capability.rejection import Rejection, RejectionCode
from quantmux.testing.compile_cuda import find_nvcc, nvcc_version
from quantmux_cutlass.build.header_digest import header_digest
from quantmux_cutlass.headers import VARIABLE, find_headers, headers_version

if TYPE_CHECKING:
    from quantmux.capability.arch import Arch
    from quantmux_cutlass.units import Unit

OLDEST: Final = "12.8"
"""The first nvcc that knows compute capability 12.0."""

OLDEST_FAMILY: Final = "12.9"
"""The first nvcc that knows targets of a family: 100f, 120f."""

_VARIABLES: Final = ("NVCC_CCBIN", "NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS")
"""nvcc itself reads these, so what they say is part of what is compiled."""

_LOOKS_AT: Final = ("CUDACXX", "CUDA_HOME", "CUDA_PATH", "PATH", VARIABLE, *_VARIABLES)

_GET_NVCC: Final = (
    "install the CUDA toolkit and set CUDA_HOME, or: pip install nvidia-cuda-nvcc nvidia-cuda-cccl"
)
_PACKAGED: Final = "4.2.0"
"""The newest headers that ``nvidia-cutlass`` carries (2026-11)."""

_GET_HEADERS: Final = "pip install 'quantmux[cutlass]', or set CUTLASS_PATH to a CUTLASS checkout"
_GET_NEWER_HEADERS: Final = (
    "set CUTLASS_PATH to a CUTLASS checkout, or: pip install --no-deps flashinfer-python"
)
_GET_HOST: Final = "install g++, or set NVCC_CCBIN to the compiler that nvcc shall use"


@dataclass(frozen=True, slots=True)
class Toolchain:
    """What libraries are compiled with.

    Attributes:
        nvcc: The compiler.
        nvcc_version: ``13.0.88``; "" when it does not say.
        host: Version line of the host compiler that nvcc drives.
        headers: The folder that holds ``cutlass/version.h``, None without one.
        headers_version: ``4.5.0``; None when there are none, or they do not say.
        settings: Values of the variables that nvcc itself reads, those that are set.
    """

    nvcc: Path
    nvcc_version: str
    host: str
    headers: Path | None
    headers_version: str | None
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def headers_digest(self) -> str:
        """Digest of the header tree: names and contents; "" without headers."""
        return header_digest(self.headers) if self.headers is not None else ""


@dataclass(frozen=True, slots=True)
class Missing:
    """Why nothing can be compiled here.

    Attributes:
        reasons: What is missing and where it was looked for, one fact a line.
        hint: What to install.
    """

    reasons: tuple[str, ...]
    hint: str


_lock: Final = threading.Lock()
_found: Final[dict[tuple[str | None, ...], Toolchain | Missing]] = {}


def find_toolchain() -> Toolchain | Missing:
    """Find nvcc, its host compiler and the headers; remembered per state of the environment.

    nvcc is looked for in ``CUDACXX``, ``CUDA_HOME``, ``CUDA_PATH``, on ``PATH`` and in NVIDIA's
    ``nvidia-cuda-nvcc`` package. Never raises.
    """
    state = tuple(os.environ.get(name) for name in _LOOKS_AT)
    with _lock:
        if state not in _found:
            _found[state] = _look()
        return _found[state]


def forget() -> None:
    """Look again at the next question, after something was installed."""
    with _lock:
        _found.clear()
        _host_version.cache_clear()


def can_build(unit: Unit, target: str, toolchain: Toolchain | Missing) -> Rejection | None:
    """Tell why a unit cannot be compiled for a target with a toolchain; None when it can.

    Args:
        unit: What would be compiled.
        target: One of its targets.
        toolchain: What `find_toolchain` gave.
    """
    if isinstance(toolchain, Missing):
        return _tool(f"nvcc >= {_nvcc_for(target)}", "; ".join(toolchain.reasons), toolchain.hint)
    oldest = _nvcc_for(target)
    version = _version(toolchain.nvcc_version)
    if version is None or version < Version(oldest):
        found = f"{toolchain.nvcc_version or 'a version not named'} at {toolchain.nvcc}"
        return _tool(f"nvcc >= {oldest} for {target}", found, _GET_NVCC)
    if not unit.cutlass:
        return None
    if toolchain.headers is None:
        chosen = os.environ.get(VARIABLE)
        none = "no package carries them"
        found = f"{VARIABLE}={chosen} holds no cutlass/version.h, {none}" if chosen else none
        return _headers(unit, found)
    have = _version(toolchain.headers_version or "")
    if have is None or not SpecifierSet(unit.cutlass).contains(have, prereleases=True):
        version_text = toolchain.headers_version or "a version not named"
        return _headers(unit, f"{version_text} at {toolchain.headers}")
    return None


def target_for(unit: Unit, arch: Arch) -> str | None:
    """Give the target of a unit whose code runs on an architecture, None without one."""
    return next((target for target in unit.targets if runs_on(target, arch)), None)


@cache
def runs_on(target: str, arch: Arch) -> bool:
    """Tell whether code for a target runs there: ``90a`` exactly, ``100f`` the family.

    Args:
        target: A target, or several with plus signs: ``90a+100f+120f``.
        arch: Architecture of the device.
    """
    return any(arch in ArchSet(spec=part) for part in target.split("+"))


def _look() -> Toolchain | Missing:
    nvcc = _nvcc()
    host, refusal = _host()
    reasons = []
    if nvcc is None:
        reasons.append(
            "nvcc: not in CUDACXX, CUDA_HOME, CUDA_PATH, PATH, nor in the package nvidia-cuda-nvcc"
        )
    if refusal:
        reasons.append(refusal)
    if nvcc is None or refusal:
        return Missing(tuple(reasons), _GET_NVCC if nvcc is None else _GET_HOST)
    headers = find_headers()
    return Toolchain(
        nvcc=nvcc,
        nvcc_version=nvcc_version(nvcc),
        host=host,
        headers=headers,
        headers_version=headers_version(headers) if headers is not None else None,
        settings=tuple((n, os.environ[n]) for n in _VARIABLES if os.environ.get(n)),
    )


def _nvcc() -> Path | None:
    chosen = os.environ.get("CUDACXX")
    found = shutil.which(chosen) if chosen else None
    if found is not None:
        return Path(found)
    return find_nvcc()


def _host() -> tuple[str, str]:
    """Give the host compiler's version line, or why there is none."""
    name = os.environ.get("NVCC_CCBIN") or "g++"
    path = shutil.which(name) or shutil.which("g++", path=name)  # NVCC_CCBIN may be a folder
    if path is None:
        return "", f"host compiler: {name} is not here"
    stat = os.stat(path)  # noqa: PTH116 - a name, as `which` gave it
    return _host_version(path, stat.st_mtime_ns), ""


@cache
def _host_version(path: str, _mtime: int) -> str:
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return path
    lines = done.stdout.splitlines()
    return lines[0].strip() if lines else path


def _nvcc_for(target: str) -> str:
    return OLDEST_FAMILY if "f" in target else OLDEST


def _version(text: str) -> Version | None:
    try:
        return Version(text)
    except InvalidVersion:
        return None


def _tool(required: str, actual: str, hint: str) -> Rejection:
    return Rejection(RejectionCode.NEEDS_TOOL, "nvcc", required, actual, hint)


def _headers(unit: Unit, actual: str) -> Rejection:
    required = f"CUTLASS headers {unit.cutlass}"
    enough = SpecifierSet(unit.cutlass).contains(_PACKAGED)
    hint = _GET_HEADERS if enough else _GET_NEWER_HEADERS
    return Rejection(RejectionCode.NEEDS_PACKAGE, "cutlass", required, actual, hint)
