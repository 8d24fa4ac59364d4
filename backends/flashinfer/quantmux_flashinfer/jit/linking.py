"""Headers and libraries of the CUDA toolkit that modules need, and where they lie.

FlashInfer hands the compilers ``$CUDA_HOME/include``, ``$CUDA_HOME/lib64`` and its ``stubs``. A
complete toolkit has all of it there. A toolkit of pip packages, or a small one, does not: libcuda
belongs to the driver, libcublas and its headers to other packages, and those carry only versioned
names (``libcublas.so.13``), which a linker does not look for. Then a folder of links with plain
names goes into ``FLASHINFER_EXTRA_LDFLAGS``, and the packages' headers into the flags of both
compilers (`shim`). Only what is of the compiler's own major version is taken.
"""

from __future__ import annotations

import os
import shlex
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from quantmux.capability.rejection import Rejection, RejectionCode
from quantmux_flashinfer.jit.variables import users

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quantmux_flashinfer.jit.modules import JitModule

ALWAYS: Final = ("cudart", "cuda")
"""What every module is linked against."""

LIBRARIES: Final = (*ALWAYS, "cublas", "cublasLt", "nvrtc")

HEADERS: Final = {
    "cublasLt.h": ("nvidia-cublas", "cublas"),
    "curand_kernel.h": ("nvidia-curand", "curand"),
}
"""Header → the package that has it, and the folder of that package before CUDA 13."""

_PACKAGES: Final = {
    "cudart": ("nvidia-cuda-runtime", "cuda_runtime"),
    "cublas": ("nvidia-cublas", "cublas"),
    "cublasLt": ("nvidia-cublas", "cublas"),
    "nvrtc": ("nvidia-cuda-nvrtc", "cuda_nvrtc"),
}
_DRIVER: Final = "libcuda.so.1"
_DRIVER_FOLDERS: Final = ("/usr/lib/wsl/lib", "/usr/local/nvidia/lib64", "/run/opengl-driver/lib")


@dataclass(frozen=True, slots=True)
class Linking:
    """Where headers and libraries lie.

    Attributes:
        major: Major version of the compiler, ``13``; "" when there is none.
        headers: Folder of each header that some module needs: the toolkit's or a package's.
        libraries: File of each library; None where the linker finds it itself.
        absent: Libraries that are nowhere.
        include: Folders of packages that the compilers have to be told of.
    """

    major: str
    headers: dict[str, Path]
    libraries: dict[str, Path | None]
    absent: tuple[str, ...]
    include: tuple[Path, ...]

    @property
    def links(self) -> dict[str, Path]:
        """Libraries that need a link under their plain name."""
        return {name: file for name, file in self.libraries.items() if file is not None}

    @property
    def needs_stub(self) -> bool:
        """No libcuda is here, not even a stub: modules can be compiled for other machines."""
        return "cuda" in self.absent

    def missing(self, module: JitModule) -> Rejection | None:
        """Say which header or library of a module is not here, None when all are."""
        for header in module.headers:
            if header not in self.headers:
                package, _ = HEADERS[header]
                return _no("headers", header, self._pip(package))
        for library in (*ALWAYS, *module.libraries):
            if library in self.absent and library != "cuda":  # for which there is a stub
                package, _ = _PACKAGES[library]
                return _no("libraries", f"lib{library}.so", self._pip(package))
        return None

    def _pip(self, package: str) -> str:
        suffix = f"-cu{self.major}" if self.major and int(self.major) < 13 else ""
        return f"pip install {package}{suffix}, or a complete CUDA toolkit"


def find_linking(home: Path | None, nvcc_version: str) -> Linking:
    """Look for headers and libraries.

    Args:
        home: Folder of the toolkit, None without one.
        nvcc_version: Version of its compiler.
    """
    major = nvcc_version.partition(".")[0]
    headers: dict[str, Path] = {}
    include: list[Path] = []
    for header, (_, old_folder) in HEADERS.items():
        if any((folder / header).is_file() for folder in _told_headers(home)):
            headers[header] = (home or Path("/usr")) / "include"
            continue
        found = next(
            (f for f in _package_folders(major, old_folder, "include") if (f / header).is_file()),
            None,
        )
        if found is not None:
            headers[header] = found
            include.append(found)
    libraries: dict[str, Path | None] = {}
    absent = []
    for name in LIBRARIES:
        if any(_has(folder, name) for folder in _told_libraries(home)):
            libraries[name] = None
            continue
        found = next(_versioned(home, major, name), None)
        if found is None:
            absent.append(name)
        else:
            libraries[name] = found
    return Linking(major, headers, libraries, tuple(absent), tuple(dict.fromkeys(include)))


def _told_headers(home: Path | None) -> Iterator[Path]:
    """Give the folders that compilers look at without being told by us."""
    if home is not None:
        yield home / "include"
    yield from _flag_folders("FLASHINFER_EXTRA_CUDAFLAGS", ("-I", "-isystem"))
    for variable in ("CPATH", "CPLUS_INCLUDE_PATH"):
        yield from (Path(p) for p in os.environ.get(variable, "").split(os.pathsep) if p)
    yield Path("/usr/include")
    yield Path("/usr/local/include")


def _told_libraries(home: Path | None) -> Iterator[Path]:
    if home is not None:
        yield home / "lib64"
        yield home / "lib64" / "stubs"
    yield from _flag_folders("FLASHINFER_EXTRA_LDFLAGS", ("-L",))
    yield from (Path(p) for p in os.environ.get("LIBRARY_PATH", "").split(os.pathsep) if p)
    yield from _system_folders()


def _system_folders() -> Iterator[Path]:
    """Give the folders that linkers of the usual distributions look at."""
    multiarch = sysconfig.get_config_var("MULTIARCH")
    for root in ("/usr/local", "", "/usr"):
        if multiarch:
            yield Path(f"{root}/lib/{multiarch}")
        yield Path(f"{root}/lib64")
        yield Path(f"{root}/lib")


def _versioned(home: Path | None, major: str, name: str) -> Iterator[Path]:
    """Give files of a library that the linker does not find by itself."""
    if name == "cuda":
        folders = [*_system_folders(), *(Path(folder) for folder in _DRIVER_FOLDERS)]
        yield from (folder / _DRIVER for folder in folders if (folder / _DRIVER).is_file())
    if home is not None:
        for place in ("lib", "lib/stubs", "targets/*/lib", "targets/*/lib/stubs"):
            yield from (file for file in home.glob(f"{place}/lib{name}.so") if file.is_file())
        if name != "cuda" and major:
            for place in ("lib64", "lib", "targets/*/lib"):
                yield from home.glob(f"{place}/lib{name}.so.{major}")
    if name == "cuda" or not major:
        return
    _, old_folder = _PACKAGES[name]
    for folder in _package_folders(major, old_folder, "lib"):
        yield from (f for f in [folder / f"lib{name}.so.{major}"] if f.is_file())


def _package_folders(major: str, old_folder: str, kind: str) -> Iterator[Path]:
    """Give a folder of NVIDIA's packages: ``nvidia/cu13/lib``, before ``nvidia/cublas/lib``."""
    if not major:
        return
    own = f"cu{major}" if int(major) >= 13 else old_folder
    for entry in sys.path:
        folder = Path(entry) / "nvidia" / own / kind
        if entry and folder.is_dir():
            yield folder


def _flag_folders(variable: str, flags: tuple[str, ...]) -> Iterator[Path]:
    """Give the folders that flags in a variable name: ``-Lfolder`` and ``-L folder``."""
    text = users(variable) or ""
    try:
        words = shlex.split(text)
    except ValueError:  # FlashInfer then splits at blanks
        words = text.split()
    for flag in flags:
        for place, word in enumerate(words):
            if word == flag and place + 1 < len(words):
                yield Path(words[place + 1])
            elif word.startswith(flag) and len(word) > len(flag):
                yield Path(word.removeprefix(flag))


def _has(folder: Path, name: str) -> bool:
    return (folder / f"lib{name}.so").is_file() or (folder / f"lib{name}.a").is_file()


def _no(field: str, required: str, hint: str) -> Rejection:
    found = "none in the toolkit, none in an installed package"
    return Rejection(RejectionCode.UNAVAILABLE, field, required, found, hint)
