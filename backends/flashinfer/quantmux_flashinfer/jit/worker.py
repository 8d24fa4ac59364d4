"""Run as a program: import FlashInfer and have it compile one module, in a process of its own.

    python -m quantmux_flashinfer.jit.worker gemm --arch 90a

Between quantmux and FlashInfer for three reasons. FlashInfer decides at its import what it compiles
for, once in a process. Its import takes seconds, and a gigabyte of torch beside the weights of a
model. And when quantmux is killed the compilers have to end, which nobody else would see to.

It imports nothing of quantmux but the table of modules. It compiles in the folder that
``FLASHINFER_WORKSPACE_BASE`` names, under FlashInfer's own lock.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib
import inspect
import json
import os
import resource
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantmux_flashinfer.jit.modules import MODULES
from quantmux_flashinfer.jit.targets import list_of

if TYPE_CHECKING:
    from quantmux_flashinfer.jit.modules import JitModule

_PR_SET_PDEATHSIG = 1

UNSUPPORTED = 3
"""Exit status: the installed release has no such module."""


def main(arguments: list[str] | None = None) -> int:
    """Compile one module; 0 when it is there, `UNSUPPORTED` with the reason printed, or raises."""
    parser = argparse.ArgumentParser(prog="python -m quantmux_flashinfer.jit.worker")
    parser.add_argument("module", choices=sorted(MODULES))
    parser.add_argument("--arch", required=True, help="what to compile for: 90a, 89+90a")
    parser.add_argument("--jobs", type=int, help="compilers at once")
    parser.add_argument("--force", action="store_true", help="throw away what is there")
    parser.add_argument("--report", type=Path, help="file for what it took, JSON")
    parser.add_argument("--parent", type=int, help="end with this process")
    given = parser.parse_args(arguments)
    if given.parent is not None and not _ends_with(given.parent):
        return 1
    os.environ["FLASHINFER_CUDA_ARCH_LIST"] = list_of(given.arch)
    os.environ["FLASHINFER_NO_DOWNLOAD"] = "1"
    if given.jobs is not None:
        os.environ["MAX_JOBS"] = str(given.jobs)
    began = time.monotonic()
    try:
        library = compile_module(MODULES[given.module], force=given.force)
    except LookupError as error:
        sys.stdout.write(f"{error}\n")
        return UNSUPPORTED
    # of memory it cannot tell: the kernel counts this process's own as that of what it starts
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = {
        "library": str(library),
        "seconds": time.monotonic() - began,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "bytes": library.stat().st_size,
    }
    if given.report is not None:
        given.report.write_text(json.dumps(found), encoding="utf-8")
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


def compile_module(module: JitModule, *, force: bool = False) -> Path:
    """Have FlashInfer compile a module, and give its library.

    Args:
        module: Which one.
        force: Throw away what is there first.

    Raises:
        LookupError: The installed release has no such generator, or it gives another module.
        RuntimeError: ninja or a compiler failed; what they said was printed.
    """
    spec: Any = _spec(module)
    lock: Any = importlib.import_module("filelock").FileLock(spec.lock_path, thread_local=False)
    with lock:
        if force:
            shutil.rmtree(spec.jit_library_path.parent, ignore_errors=True)
        # 0.6 keeps a build file that is there though its flags are others now
        spec.write_ninja()
    spec.build(verbose=True, need_lock=True)
    library = Path(spec.jit_library_path)
    if not library.is_file():
        raise RuntimeError(f"ninja ended well, and {library} is not there")
    return library


def _spec(module: JitModule) -> Any:
    """Give FlashInfer's own description of a module."""
    path, _, name = module.generator.partition(":")
    try:
        generator = getattr(importlib.import_module(path), name, None)
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("flashinfer."):
            raise
        generator = None
    if generator is None:
        raise LookupError(f"this FlashInfer has no {path}.{name}")
    arguments = dict(module.arguments)
    unknown = arguments.keys() - inspect.signature(generator).parameters.keys()
    if unknown:
        raise LookupError(f"{path}.{name} takes no {', '.join(sorted(unknown))}")
    spec = generator(**arguments)
    if spec.name != module.name:
        raise LookupError(f"{path}.{name} gave the module {spec.name}, not {module.name}")
    return spec


def _ends_with(parent: int) -> bool:
    """See that this group is ended when the parent is; False when that has happened already."""
    signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))
    with contextlib.suppress(OSError, AttributeError):  # no Linux: then without
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    return os.getppid() == parent


if __name__ == "__main__":
    sys.exit(main())
