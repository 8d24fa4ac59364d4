"""Where the CUTLASS C++ headers are: found as files, without importing their packages."""

from __future__ import annotations

import os
import re
from importlib import util
from pathlib import Path
from typing import Final

# what CUTLASS's own tools read
VARIABLE: Final = "CUTLASS_PATH"
_PACKAGES: Final = (
    ("flashinfer", "data/cutlass/include"),
    ("cutlass_library", "source/include"),
)
_VERSION: Final = re.compile(r"#define\s+CUTLASS_(MAJOR|MINOR|PATCH)\s+(\d+)")


def find_headers() -> Path | None:
    """Give the folder that holds ``cutlass/version.h``, None when there is none here.

    What ``CUTLASS_PATH`` names goes first, then the newest that a package carries.
    """
    chosen = os.environ.get(VARIABLE)
    named = [Path(chosen) / "include", Path(chosen)] if chosen else []
    found = next((folder for folder in named if _version_file(folder).is_file()), None)
    if found is not None:
        return found
    carried = [folder for folder in _packaged() if _version_file(folder).is_file()]
    return max(carried, key=_order, default=None)


def headers_version(folder: Path) -> str | None:
    """Give the version that the headers name, None when they name none."""
    try:
        text = _version_file(folder).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = dict(_VERSION.findall(text))
    if "MAJOR" not in found:
        return None
    return ".".join(found.get(part, "0") for part in ("MAJOR", "MINOR", "PATCH"))


def _packaged() -> list[Path]:
    folders = []
    for package, inside in _PACKAGES:
        try:
            spec = util.find_spec(package)
        except (ImportError, ValueError):
            continue
        if spec is not None and spec.origin is not None:
            folders.append(Path(spec.origin).parent / inside)
    return folders


def _order(folder: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in (headers_version(folder) or "0").split("."))


def _version_file(folder: Path) -> Path:
    return folder / "cutlass" / "version.h"
