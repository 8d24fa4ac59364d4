"""A CUDA source file to machine code for a GPU that need not be here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from quantmux.errors import BuildError
from quantmux.registry.protocol import CompiledCode
from quantmux.testing.compile_log import last_lines

if TYPE_CHECKING:
    from collections.abc import Sequence

TIMEOUT: Final = 900
"""Seconds one file may take; CUTLASS kernels were seen to take two minutes."""

_RELEASE: Final = re.compile(r"\bV(\d+\.\d+\.\d+)")
_TARGET: Final = re.compile(r"^\d{2,3}[af]?$")


def compile_cuda(
    source: str | Path,
    target: str,
    include_dirs: Sequence[str | Path] = (),
    flags: Sequence[str] = (),
    *,
    timeout: float = TIMEOUT,
) -> CompiledCode:
    """Compile one ``.cu`` file, device code only.

    Args:
        source: The file.
        target: What to assemble for: ``90a``, ``100f``, ``89`` (the kernel knows which it needs).
        include_dirs: Folders of headers.
        flags: More arguments for nvcc, ``-std=c++17``, ``-D…``.
        timeout: Seconds until nvcc is given up.

    Raises:
        BuildError: nvcc refuses or takes too long (code ``compile``); carries its last lines. No
            nvcc is here (code ``no_compiler``).
    """
    file = Path(source)
    if not _TARGET.match(target):
        raise BuildError(
            f'"{target}" is not what nvcc can assemble for',
            facts=["forms: 90a · 100f · 89"],
            code="compile",
        )
    nvcc = find_nvcc()
    if nvcc is None:
        raise BuildError(
            f"{file.name} cannot be compiled: nvcc is not here",
            facts=["looked at CUDA_HOME, CUDA_PATH, PATH, and the nvidia-cuda-nvcc package"],
            hint="install the CUDA toolkit, or: pip install nvidia-cuda-nvcc",
            code="no_compiler",
        )
    with tempfile.TemporaryDirectory(prefix="quantmux-") as folder:
        out = Path(folder) / "code.cubin"
        command = [str(nvcc), "-cubin", f"-gencode=arch=compute_{target},code=sm_{target}"]
        command += [f"-I{path}" for path in include_dirs]
        command += [*flags, "-o", str(out), str(file)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise _refused(file, target, [f"no result after {timeout:g} s"]) from error
        except OSError as error:
            raise _refused(file, target, [f"{nvcc}: {error}"]) from error
        if done.returncode != 0 or not out.is_file():
            raise _refused(file, target, last_lines(done.stdout + done.stderr))
        return CompiledCode(file.name, f"sm_{target}", out.read_bytes(), "nvcc", nvcc_version(nvcc))


def find_nvcc() -> Path | None:
    """Give nvcc: of CUDA_HOME or CUDA_PATH, of PATH, or of nvidia's wheels; None without one."""
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    candidates = [Path(home) / "bin" / "nvcc" for home in homes]
    on_path = shutil.which("nvcc")
    candidates += [Path(on_path)] if on_path else []
    candidates += [
        nvcc
        for entry in sys.path
        for pattern in ("cuda_nvcc/bin/nvcc", "cu[0-9]*/bin/nvcc")
        for nvcc in sorted((Path(entry) / "nvidia").glob(pattern))
    ]
    return next((path for path in candidates if os.access(path, os.X_OK)), None)


@cache
def nvcc_version(nvcc: Path) -> str:
    """Give its version, ``13.0.88``; "" when it does not say."""
    try:
        done = subprocess.run(
            [str(nvcc), "--version"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = _RELEASE.search(done.stdout)
    return found[1] if found else ""


def _refused(file: Path, target: str, lines: Sequence[str]) -> BuildError:
    return BuildError(
        f"nvcc cannot compile {file.name} for sm_{target}",
        facts=lines,
        hint=f"a kernel that does not compile for {target} must not claim it",
        code="compile",
    )
