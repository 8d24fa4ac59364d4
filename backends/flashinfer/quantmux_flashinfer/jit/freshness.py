"""Whether FlashInfer would load a compiled module as it lies, or compile it anew first.

It leaves that to ninja at every first use of a process: a file with other flags, another toolkit, a
library whose link never ended, and all or some of it is compiled again, in the thread that binds.
Its own build file and ninja's log tell as much, without running either.
"""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from quantmux_flashinfer.jit.shim import shim_folder
from quantmux_flashinfer.jit.variables import users

if TYPE_CHECKING:
    from pathlib import Path

    from quantmux_flashinfer.jit.toolchain import Toolchain


def why_stale(folder: Path, toolchain: Toolchain) -> str:
    """Say why a compiled module would be compiled anew, one line; "" when it would not.

    Args:
        folder: Folder of the module, with ``build.ninja`` and the library.
        toolchain: What would compile it here.
    """
    library = folder / f"{folder.name}.so"
    if not library.is_file():
        return "it is not there"
    try:
        text = (folder / "build.ninja").read_text(encoding="utf-8")
        log = (folder / ".ninja_log").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return "it lies there without ninja's files"
    if f"{library.name}\t" not in log:
        return "its last compilation did not end"
    named = _variables(text)
    for name, here in _chosen(toolchain).items():
        then = named.get(name, here)
        if then != here:
            return f"compiled with {name} = {then}, here it is {here}"
    for flag in _flags(toolchain):
        if flag not in text:
            return f"compiled without {flag}"
    return ""


def _variables(text: str) -> dict[str, str]:
    """Read the lines ``name = value`` at the head of a build file."""
    pairs = (line.partition(" = ") for line in text.splitlines() if line[:1].isalpha())
    return {name: value for name, sign, value in pairs if sign}


def _chosen(toolchain: Toolchain) -> dict[str, str]:
    found = {
        "cxx": os.environ.get("CXX", "c++"),
        "nvcc": os.environ.get("FLASHINFER_NVCC", "$cuda_home/bin/nvcc"),
    }
    if toolchain.home is not None:
        found["cuda_home"] = str(toolchain.home)
    return found


def _flags(toolchain: Toolchain) -> list[str]:
    """Give the flags that a build file of today has, as words: the user's, and ours."""
    words: list[str] = []
    for name in ("CFLAGS", "CUDAFLAGS", "LDFLAGS"):
        try:
            words += shlex.split(users(f"FLASHINFER_EXTRA_{name}") or "")
        except ValueError:
            continue
    linking = toolchain.linking
    if linking.links or linking.needs_stub:
        words.append(f"-L{shim_folder(linking)}")
    return [*words, *(str(folder) for folder in linking.include)]
