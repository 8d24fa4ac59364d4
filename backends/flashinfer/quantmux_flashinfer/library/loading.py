"""The import of FlashInfer: once, when a kernel is bound, and never before.

It costs 0.6 s on top of torch where its files are in memory and up to 4.5 s where they are not
(2 cores, 2026-11-21), makes folders under its workspace, and asks CUDA for its devices; so it is
not done to describe, to select or to explain. What it reads of the environment is set before
(`jit.environment`): its workspace, and that it never downloads.
"""

from __future__ import annotations

import importlib
import threading
import time
import warnings
from typing import TYPE_CHECKING, Any, Final

from quantmux.errors import BuildError, QuantmuxError

if TYPE_CHECKING:
    from types import ModuleType

_LOCK: Final = threading.RLock()
_DISTRIBUTIONS: Final = {
    "flashinfer": "'quantmux[flashinfer]'",
    "tvm_ffi": "apache-tvm-ffi",
    "pynvml": "nvidia-ml-py",
    "cutlass": "nvidia-cutlass-dsl",
    "cudnn": "nvidia-cudnn-frontend",
    "cuda": "cuda-python",
}
"""Module → what pip calls it, where the names differ."""

_seconds: list[float] = []


def flashinfer() -> ModuleType:
    """Give FlashInfer, imported by the first call; safe between threads.

    Raises:
        BuildError: It, or a module that it needs, is not installed or does not import (code
            ``unavailable``); a later call tries again.
    """
    return module("flashinfer")


def module(name: str) -> ModuleType:
    """Give a module of FlashInfer, imported by the first call.

    Args:
        name: ``flashinfer`` or a module inside it.

    Raises:
        BuildError: See `flashinfer`; one that the release does not have is ``unsupported``.
    """
    with _LOCK:
        if not _seconds:
            _first(name)
        return _imported(name)


def import_seconds() -> float | None:
    """Give how long the import took; None before it was done."""
    return _seconds[0] if _seconds else None


def pip_line(name: str) -> str:
    """Give the command that installs a module."""
    top = name.partition(".")[0]
    return f"pip install {_DISTRIBUTIONS.get(top, top)}"


def _first(name: str) -> None:
    from quantmux_flashinfer.jit.environment import apply

    apply()
    begun = time.perf_counter()
    _imported("flashinfer", asked=name)
    _seconds.append(time.perf_counter() - begun)


def _imported(name: str, asked: str = "") -> ModuleType:
    try:
        with warnings.catch_warnings():
            # of its dependencies, and nothing that who binds a kernel can act on
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise _missing(error, name, asked) from error
    except QuantmuxError:
        raise
    except Exception as error:  # a library that does not load, a version that does not match
        raise BuildError(
            f"{name} does not import",
            facts={"raised": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"},
            hint="run: quantmux doctor",
            code="unavailable",
        ) from error


def _missing(error: ModuleNotFoundError, name: str, asked: str) -> BuildError:
    lost = error.name or name
    if lost != "flashinfer" and lost.partition(".")[0] == "flashinfer":
        return BuildError(
            f"the installed FlashInfer has no module {lost}",
            facts={"asked": asked or name, "version": version()},
            hint="install a release that has it: pip install --upgrade flashinfer-python",
            code="unsupported",
        )
    return BuildError(
        f"{name} does not import: there is no module {lost}",
        facts={"asked": asked or name},
        hint=pip_line(lost),
        code="unavailable",
    )


def version() -> str:
    """Give the version of FlashInfer that is installed, ``none`` where none is."""
    from quantmux.capability.needs import package_version

    return package_version("flashinfer-python") or "none"


def resolved(path: str) -> Any:
    """Give what ``module:name.name`` names in FlashInfer.

    Raises:
        BuildError: It does not import (``unavailable``), or the installed release does not have it
            (``unsupported``).
    """
    where, _, names = path.partition(":")
    found: Any = module(where)
    for name in names.split("."):
        if not hasattr(found, name):
            raise BuildError(
                f"the installed FlashInfer has no {path}",
                facts={"missing": name, "version": version()},
                hint="install a release that has it: pip install --upgrade flashinfer-python",
                code="unsupported",
            )
        found = getattr(found, name)
    return found
