"""What compiled the modules that a kernel loads: evidence names it, and holds for it only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantmux_flashinfer.jit.toolchain import find_toolchain

if TYPE_CHECKING:
    from quantmux_flashinfer.entries import Entry


def compiled_by(entry: Entry) -> dict[str, str]:
    """Give the version of nvcc; {} where none is here, or the entry loads nothing compiled.

    FlashInfer compiles a module anew where another toolkit is found than the one that made it, so
    what is here is what made it. The library itself is a package that every kernel needs.
    """
    version = find_toolchain().version if entry.modules else ""
    return {"nvcc": version} if version else {}
