"""Environment variables that we set: what is ours, and what the user had said.

What a user sets stays. Where we add to it (flags of compilers) or fill it in (a folder), we keep
what was there, so that looking again finds the machine and not our own answer.
"""

from __future__ import annotations

import os
import threading
from typing import Final

_lock: Final = threading.Lock()
_ours: Final[dict[str, tuple[str | None, str]]] = {}


def users(name: str) -> str | None:
    """Give the value that the user, or another program, gave a variable."""
    value = os.environ.get(name)
    before, ours = _ours.get(name, (None, None))
    return before if ours is not None and value == ours else value


def put(name: str, value: str) -> None:
    """Give a variable a value of ours; nothing is done where it has that already."""
    with _lock:
        if os.environ.get(name) == value:
            return
        _ours[name] = (users(name), value)
        os.environ[name] = value


def fill(name: str, value: str) -> None:
    """Give a variable a value of ours, unless the user gave it one."""
    if users(name) is None:
        put(name, value)


def take_back() -> None:
    """Give every variable that we set the value that it had before."""
    with _lock:
        for name, (before, ours) in _ours.items():
            if os.environ.get(name) != ours:
                continue
            if before is None:
                del os.environ[name]
            else:
                os.environ[name] = before
        _ours.clear()
