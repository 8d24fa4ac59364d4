"""DeepGEMM itself, imported when its first kernel is bound."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import platformdirs

import quantmux as qm
from quantmux_deepgemm.libraries import find_libraries, load_libraries

if TYPE_CHECKING:
    from collections.abc import Callable

CACHE_VARIABLE: Final = "DG_JIT_CACHE_DIR"
"""DeepGEMM's own variable: the folder of the kernels that it has compiled."""


@cache
def fp8_gemm_nt() -> Callable[..., None]:
    """Give ``deep_gemm.fp8_gemm_nt``: ``((a, scales_a), (b, scales_b), d)``, d = a · bᵀ.

    Raises:
        BuildError: DeepGEMM cannot be imported; says what it was looking for.
    """
    # the library would use ~/.deep_gemm
    os.environ.setdefault(CACHE_VARIABLE, str(cache_folder()))
    load_libraries()
    try:
        import deep_gemm
    # whatever another library raises while it is imported: ImportError, OSError of the dynamic
    # linker, AssertionError without CUDA, an error of tvm-ffi about its own version
    except Exception as error:
        lost = [name for name, path in find_libraries().items() if path is None]
        raise qm.BuildError(
            "DeepGEMM cannot be imported",
            facts=[f"{type(error).__name__}: {error}", *(f"{name}: not found" for name in lost)],
            hint="run: quantmux doctor",
            code="deepgemm_import",
        ) from error
    gemm: Callable[..., None] = deep_gemm.fp8_gemm_nt
    return gemm


def cache_folder() -> Path:
    """Give the folder of compiled kernels where the user has not named one."""
    return Path(platformdirs.user_cache_dir("quantmux")) / "deepgemm"
