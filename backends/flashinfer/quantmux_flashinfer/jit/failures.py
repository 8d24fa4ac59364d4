"""What could not be compiled, so that it is not tried again and again.

A failure is kept with what it was compiled with: another release of FlashInfer, another nvcc or
other flags, and it is tried anew. What the next try may well survive (a full disk, no memory,
Ctrl-C) is not kept.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from quantmux.registry.row_files import write_whole
from quantmux_flashinfer.jit.settings import own_folder
from quantmux_flashinfer.jit.variables import users

if TYPE_CHECKING:
    from pathlib import Path

    from quantmux_flashinfer.jit.place import Place
    from quantmux_flashinfer.jit.toolchain import Toolchain

KEPT: Final = frozenset({"compile", "timeout"})
"""Codes of failures that are kept: the same input fails the same way."""

_FLAGS: Final = (
    "CC",
    "CXX",
    "FLASHINFER_NVCC",
    "FLASHINFER_EXTRA_CFLAGS",
    "FLASHINFER_EXTRA_CUDAFLAGS",
    "FLASHINFER_EXTRA_LDFLAGS",
)


@dataclass(frozen=True, slots=True)
class Failure:
    """One compilation that failed.

    Attributes:
        code: Code of the error.
        log: The last lines of what the compilers said.
        made: When, seconds since 1970.
        ground: Digest of what it was compiled with.
    """

    code: str
    log: tuple[str, ...]
    made: float
    ground: str

    @property
    def when(self) -> str:
        """The time as text, UTC."""
        return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(self.made))


def ground_of(place: Place, toolchain: Toolchain) -> str:
    """Give a digest of what modules are compiled with here."""
    linking = toolchain.linking
    parts = [
        place.version,
        str(place.package),
        f"{toolchain.home} {toolchain.version} {toolchain.host}",
        *(f"{name}={users(name) or ''}" for name in _FLAGS),
        *(f"{name}={file}" for name, file in sorted(linking.links.items())),
        *map(str, linking.include),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def find_failure(name: str, target: str, ground: str) -> Failure | None:
    """Give the failure kept for a module, None without one on this ground. Never raises."""
    try:
        data = json.loads(_file(name, target).read_text(encoding="utf-8"))
        log = tuple(str(line) for line in data["log"])
        found = Failure(str(data["code"]), log, float(data["made"]), str(data["ground"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if found.ground == ground else None


def keep_failure(name: str, target: str, ground: str, code: str, log: tuple[str, ...]) -> None:
    """Keep a failure; does nothing where it may pass, or cannot be written."""
    if code not in KEPT:
        return
    file = _file(name, target)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        found = Failure(code, log, time.time(), ground)
        write_whole(file, json.dumps(asdict(found), indent=1) + "\n")
    except OSError:
        return


def forget_failure(name: str, target: str) -> None:
    """Drop the failure of a module. Never raises."""
    try:
        _file(name, target).unlink(missing_ok=True)
    except OSError:
        return


def _file(name: str, target: str) -> Path:
    return own_folder() / "failed" / f"{name}-{target}.json"
