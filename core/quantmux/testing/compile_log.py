"""What of a compiler's output is worth showing."""

from __future__ import annotations

from typing import Final

LINES: Final = 8
"""Lines kept: the error stands last, and above it little more than the way to it."""

_WIDTH: Final = 200


def last_lines(text: str, count: int = LINES) -> list[str]:
    """Give the last lines that are not blank, long ones cut."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return [line if len(line) <= _WIDTH else line[: _WIDTH - 1] + "…" for line in lines[-count:]]
