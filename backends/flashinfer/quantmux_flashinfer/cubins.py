"""Precompiled kernels, which FlashInfer downloads at first use and this backend never does.

Such kernels serve where the files are there already: in the package flashinfer-cubin, in the
folder that ``FLASHINFER_CUBIN_DIR`` names, or in FlashInfer's own cache.
"""

from __future__ import annotations

import os
from functools import cache
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Final

from quantmux.capability.needs import package_version
from quantmux.capability.rejection import Rejection, RejectionCode
from quantmux_flashinfer.jit.place import base_folder

if TYPE_CHECKING:
    from quantmux_flashinfer.surface.declared import Surface

VARIABLE: Final = "FLASHINFER_CUBIN_DIR"
ARTIFACT: Final = "TRTLLM_GEN_GEMM"
"""The one set of files that entries here load: TensorRT-LLM's matrix products."""

MANIFEST: Final = "checksums.txt"


def cubins_rejection(surface: Surface) -> Rejection | None:
    """Tell which precompiled kernels a release would have to download, None when all are here."""
    inside = surface.artifacts.get(ARTIFACT)
    if inside is None:
        return _no(f"flashinfer-python {surface.version} does not say which files they are", None)
    folder = cubin_folder(surface.version)
    found = _found(folder / inside)
    return None if not found else _no(found, _hint(surface.version))


def cubin_folder(version: str) -> Path:
    """Give the folder in which the library looks.

    Args:
        version: The library's; it takes no notice of a flashinfer-cubin of another one.
    """
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    packaged = _packaged()
    if packaged is not None and package_version("flashinfer-cubin") == version:
        return packaged
    return base_folder() / ".cache" / "flashinfer" / "cubins"


@cache
def _found(folder: Path) -> str:
    """Say what is missing in a folder, "" when every file of its manifest is there."""
    try:
        lines = (folder / MANIFEST).read_text(encoding="utf-8").splitlines()
        there = set(os.listdir(folder))  # noqa: PTH208 - thousands of names, no need of a Path each
    except (OSError, ValueError):
        return f"no {MANIFEST} in {folder}"
    named = [line.split()[-1].rpartition("/")[2] for line in lines if line.strip()]
    cubins = [name for name in named if name.endswith(".cubin")]
    missing = [name for name in cubins if name not in there]
    if not cubins:
        return f"{MANIFEST} in {folder} names none"
    return f"{len(missing)} of {len(cubins)} files are not in {folder}" if missing else ""


def forget() -> None:
    """Look again at the next question."""
    _found.cache_clear()


def _packaged() -> Path | None:
    try:
        spec = util.find_spec("flashinfer_cubin")
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "cubins"


def _hint(version: str) -> str:
    return (
        f"install flashinfer-cubin=={version} from the FlashInfer project's wheel index, or set "
        f"{VARIABLE}; nothing is downloaded here"
    )


def _no(found: str, hint: str | None) -> Rejection:
    return Rejection(
        RejectionCode.UNAVAILABLE, "cubins", "precompiled kernels of FlashInfer", found, hint
    )
