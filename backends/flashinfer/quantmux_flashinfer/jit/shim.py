"""A folder of links under plain names, for toolkits whose libraries have none or lie elsewhere."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from quantmux.errors import BuildError
from quantmux_flashinfer.jit.settings import own_folder

if TYPE_CHECKING:
    from quantmux_flashinfer.jit.linking import Linking

_STUB: Final = "libcuda.so"
_SONAME: Final = "libcuda.so.1"
_TIMEOUT_S: Final = 60


def shim_flags(linking: Linking, host: str | None) -> dict[str, str]:
    """Give what FlashInfer's compilers have to be told beyond its own; {} on a complete toolkit.

    Args:
        linking: What is where.
        host: The C++ compiler, which makes an empty libcuda where there is none at all.

    Returns:
        Value by variable: ``FLASHINFER_EXTRA_LDFLAGS``, ``…_CFLAGS``, ``…_CUDAFLAGS``.

    Raises:
        BuildError: The folder cannot be written (code ``cache``), or the compiler cannot make a
            library (code ``no_compiler``).
    """
    found: dict[str, str] = {}
    if linking.links or linking.needs_stub:
        found["FLASHINFER_EXTRA_LDFLAGS"] = _link_flags(linking, host)
    if linking.include:
        text = " ".join(f"-isystem {shlex.quote(str(folder))}" for folder in linking.include)
        found["FLASHINFER_EXTRA_CFLAGS"] = found["FLASHINFER_EXTRA_CUDAFLAGS"] = text
    return found


def shim_folder(linking: Linking) -> Path:
    """Give the folder of links; its name changes with what the links show."""
    what = sorted(f"{name}={file}" for name, file in linking.links.items())
    digest = hashlib.sha256("\n".join([*what, str(linking.needs_stub)]).encode()).hexdigest()
    return own_folder() / "link" / digest[:12]


def _link_flags(linking: Linking, host: str | None) -> str:
    folder = shim_folder(linking)
    if not folder.is_dir():
        try:
            _make(folder, linking, host)
        except OSError as error:
            raise BuildError(
                "the folder of links to CUDA's libraries cannot be written",
                facts={"folder": folder, "found": error.strerror or error},
                hint="QUANTMUX_CACHE_DIR names another place",
                code="cache",
            ) from error
    flags = f"-L{shlex.quote(str(folder))}"
    if linking.needs_stub:
        # it has no symbols, so a linker that drops what is not needed would drop it
        flags += " -Wl,--push-state,--no-as-needed -lcuda -Wl,--pop-state"
    return flags


def _make(folder: Path, linking: Linking, host: str | None) -> None:
    """Write the folder beside its place and rename it: who comes second finds it whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new-") as text:
        work = Path(text) / "links"
        work.mkdir()
        for name, file in linking.links.items():
            (work / f"lib{name}.so").symlink_to(file)
        if linking.needs_stub:
            _make_stub(work / _STUB, host)
        with contextlib.suppress(FileExistsError):
            os.rename(work, folder)  # noqa: PTH104 - Path.rename raises another error when it is there


def _make_stub(file: Path, host: str | None) -> None:
    """Make an empty library that goes by the driver's name.

    Modules are shared objects and may leave symbols open; the driver of the machine that loads
    them has the symbols.
    """
    if host is None:
        raise BuildError(
            "an empty libcuda to link against cannot be made: there is no C++ compiler",
            hint="install g++, or set CXX",
            code="no_compiler",
        )
    command = [host, "-shared", "-x", "c", os.devnull, f"-Wl,-soname,{_SONAME}", "-o", str(file)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise _no_stub(host, [f"no result after {_TIMEOUT_S} s"]) from error
    if done.returncode != 0:
        raise _no_stub(host, done.stderr.splitlines()[-4:])


def _no_stub(host: str, facts: list[str]) -> BuildError:
    return BuildError(
        f"{host} cannot make a shared library", facts=facts, hint="set CXX", code="no_compiler"
    )
