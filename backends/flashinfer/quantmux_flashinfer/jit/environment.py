"""The environment that FlashInfer sees, in this process and in those that compile.

It reads its variables when it is imported, when it writes a build file, and some at the first call.
A module that a worker compiled is compiled anew in this process when a flag differs, so both get
the same. What the user set stays, with one exception: ``FLASHINFER_NO_DOWNLOAD`` is always 1, for
this backend never asks a network.
"""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from quantmux_flashinfer.jit import settings
from quantmux_flashinfer.jit.place import BASE, find_place
from quantmux_flashinfer.jit.shim import shim_flags
from quantmux_flashinfer.jit.targets import VARIABLE, list_of
from quantmux_flashinfer.jit.toolchain import find_toolchain
from quantmux_flashinfer.jit.variables import fill, put, users

if TYPE_CHECKING:
    from quantmux_flashinfer.jit.place import Place
    from quantmux_flashinfer.jit.toolchain import Toolchain

DEEP_GEMM: Final = "TRTLLM_DG_CACHE_DIR"

_lock: Final = threading.Lock()


def apply() -> None:
    """Set it before FlashInfer is imported, and before a module of it is loaded. May be repeated.

    ================================ ===========================================================
    ``FLASHINFER_NO_DOWNLOAD``       1, whatever it was
    ``FLASHINFER_WORKSPACE_BASE``    option ``workspace``, where there is one
    ``FLASHINFER_USE_CUDA_NORM``     1: the norms that nvcc compiles are those that were proven
    ``FLASHINFER_LOGGING_LEVEL``     warning: it tells stderr of every module that it builds
    ``TRTLLM_DG_CACHE_DIR``          a folder for each release and compiler; without it the cache
                                     in the home folder mixes them up
    ``TRTLLM_DG_NVCC_COMPILER``      nvcc, where it is neither in ``CUDA_HOME`` nor on ``PATH``
    ``CUDA_HOME``                    the toolkit, where FlashInfer would take a folder that is none
    ``PATH``                         with ninja's folder at its end, where ninja is not on it
    ``FLASHINFER_EXTRA_…``           folders of links and headers, on a toolkit that lacks some
    ================================ ===========================================================

    Raises:
        BuildError: The folder of links cannot be made.
        ConfigError: Option ``workspace`` is no folder.
    """
    with _lock:
        put("FLASHINFER_NO_DOWNLOAD", "1")
        folder = settings.workspace()
        if folder is not None:
            fill(BASE, str(folder))
        fill("FLASHINFER_USE_CUDA_NORM", "1")
        fill("FLASHINFER_LOGGING_LEVEL", "warning")
        toolchain = find_toolchain()
        _tools(toolchain)
        for name, flags in shim_flags(toolchain.linking, toolchain.host).items():
            before = users(name)
            put(name, f"{before} {flags}" if before else flags)
        place = find_place()
        if place is not None:
            fill(DEEP_GEMM, str(_deep_gemm(place, toolchain)))


def for_worker(place: Place, target: str, jobs: int) -> dict[str, str]:
    """Give the environment of a process that compiles modules.

    It sees no GPU: what it compiles for it is told, and no context of CUDA is made for it.

    Args:
        place: Where modules lie.
        target: What to compile for.
        jobs: Compilers at once.
    """
    apply()
    return {
        **os.environ,
        BASE: str(place.base),
        VARIABLE: list_of(target),
        "MAX_JOBS": str(jobs),
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONUNBUFFERED": "1",
    }


def _tools(toolchain: Toolchain) -> None:
    if toolchain.sets_home and toolchain.home is not None:
        put("CUDA_HOME", str(toolchain.home))
    has_nvcc = os.environ.get("CUDA_HOME") or shutil.which("nvcc")
    if toolchain.nvcc is not None and not has_nvcc:
        fill("TRTLLM_DG_NVCC_COMPILER", str(toolchain.nvcc))
    if toolchain.ninja is not None and shutil.which("ninja") is None:
        before = os.environ.get("PATH", os.defpath)
        put("PATH", f"{before}{os.pathsep}{Path(toolchain.ninja).parent}")


def _deep_gemm(place: Place, toolchain: Toolchain) -> Path:
    """Give the folder for what the block-scale product compiles at the first call of a shape.

    The library's own names say neither the release nor the compiler.
    """
    option = settings.workspace()
    root = option / ".cache" / "quantmux" if option is not None else settings.own_folder()
    return root / "deep_gemm" / f"{place.version}-nvcc{toolchain.version or 'none'}"
