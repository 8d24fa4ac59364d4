"""The CUDA libraries that DeepGEMM is linked with: where they are, and how it comes to find them.

Its binary names them without a path. A torch from PyPI keeps them in packages of their own, where
the dynamic linker does not look. A library that the process already holds is found by its name
whatever its folder, so the ones that are missing are loaded first.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
from functools import cache
from importlib import util
from pathlib import Path
from typing import Final

NAMES: Final = ("libcudart.so.13", "libnvrtc.so.13", "libcublasLt.so.13", "libcublas.so.13")
"""In the order in which they need each other."""

MISSING_HINT: Final = "install a torch built for CUDA 13, or add its folders to LD_LIBRARY_PATH"


@cache
def find_libraries() -> dict[str, Path | None]:
    """Give name → file, None where nothing was found. Loads nothing."""
    return {name: _find(name) for name in NAMES}


def load_libraries() -> None:
    """Load what can be found, for the whole process; what cannot is left to the dynamic linker."""
    for path in find_libraries().values():
        if path is not None:
            ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)


def _find(name: str) -> Path | None:
    for folder in _folders():
        if (folder / name).is_file():
            return folder / name
    stem = name.removeprefix("lib").partition(".so")[0]
    # of the linker's own cache only the name is told
    return Path(name) if ctypes.util.find_library(stem) == name else None


@cache
def _folders() -> tuple[Path, ...]:
    spec = util.find_spec("nvidia")
    packages = [Path(place) for place in (spec.submodule_search_locations if spec else None) or ()]
    of_wheels = [lib for place in packages for lib in sorted(place.glob("*/lib"))]
    named = [Path(p) for p in os.environ.get("LD_LIBRARY_PATH", "").split(":") if p]
    roots = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    return (*of_wheels, *named, *(Path(root) / "lib64" for root in roots if root))
