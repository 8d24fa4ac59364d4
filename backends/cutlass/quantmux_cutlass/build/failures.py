"""What could not be compiled, so that it is not tried again and again.

A failure is kept under the key of the build: another nvcc, other headers, other sources and it is
tried anew. What the next try may well survive (a full disk, no memory, Ctrl-C) is not kept.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from quantmux.registry.row_files import write_whole

if TYPE_CHECKING:
    from pathlib import Path

FOLDER: Final = "failed"
KEPT: Final = frozenset({"compile", "timeout", "library"})
"""Codes of failures that are kept: the same input fails the same way."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One build that failed.

    Attributes:
        code: Code of the error.
        log: The last lines of what the compiler said.
        made: When, seconds since 1970.
    """

    code: str
    log: tuple[str, ...]
    made: float

    @property
    def when(self) -> str:
        """The time as text, UTC."""
        return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(self.made))


def find_failure(cache: Path, name: str) -> Failure | None:
    """Give the failure kept for a library's folder name, None without one. Never raises."""
    try:
        data = json.loads(_file(cache, name).read_text(encoding="utf-8"))
        log = tuple(str(line) for line in data["log"])
        return Failure(str(data["code"]), log, float(data["made"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep_failure(cache: Path, name: str, code: str, log: tuple[str, ...]) -> None:
    """Keep a failure, the only one of its unit and target.

    Does nothing where it is of a kind that may pass, or cannot be written.
    """
    if code not in KEPT:
        return
    file = _file(cache, name)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        for other in file.parent.glob(f"{name.rsplit('-', 2)[0]}-*.json"):
            other.unlink(missing_ok=True)  # of other compilers, or of sources that are gone
        write_whole(file, json.dumps(asdict(Failure(code, log, time.time())), indent=1) + "\n")
    except OSError:
        return


def forget_failure(cache: Path, name: str) -> None:
    """Drop the failure of a library's folder name. Never raises."""
    try:
        _file(cache, name).unlink(missing_ok=True)
    except OSError:
        return


def _file(cache: Path, name: str) -> Path:
    return cache / FOLDER / f"{name}.json"
