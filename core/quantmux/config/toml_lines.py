"""Where each key of a TOML text stands. tomllib gives values without positions; errors need both.

Runs on text that tomllib has accepted, so that it only has to find statements, not judge them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

KeyPath = tuple[str | int, ...]

_NAME: Final = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_DOTTED: Final = rf"{_NAME}(?:\s*\.\s*{_NAME})*"
_HEADER: Final = re.compile(rf"^\s*(\[\[?)\s*({_DOTTED})\s*\]")
_KEY: Final = re.compile(rf"^\s*({_DOTTED})\s*=")
_PART: Final = re.compile(_NAME)


@dataclass(frozen=True, slots=True)
class Span:
    """First and last line of one statement, counted from 1."""

    first: int
    last: int


class LineIndex:
    """The lines of a TOML text's keys; ``("rule", 0, "layer")`` is a key of the first [[rule]]."""

    def __init__(self, text: str) -> None:
        self._lines = text.splitlines()
        self._spans: dict[KeyPath, Span] = {}
        self._counts: dict[KeyPath, int] = {}
        self._index()

    def line(self, path: KeyPath, containing: str | None = None) -> int | None:
        """Give the line of a key, or of the nearest table above it that has one.

        Args:
            path: Key path.
            containing: A string value in it: gives the line on which that string stands.
        """
        for length in range(len(path), 0, -1):
            span = self._spans.get(path[:length])
            if span is None:
                continue
            if containing is not None:
                quoted = (f'"{containing}"', f"'{containing}'")
                for number in range(span.first, span.last + 1):
                    if any(q in self._lines[number - 1] for q in quoted):
                        return number
            return span.first
        return None

    def _index(self) -> None:
        table: KeyPath = ()
        number = 0
        while number < len(self._lines):
            first = number + 1
            text = self._lines[number]
            depth, quote = _advance(text, 0, "")
            while (depth > 0 or quote) and number + 1 < len(self._lines):
                number += 1
                depth, quote = _advance(self._lines[number], depth, quote)
            number += 1
            span = Span(first, number)
            header, key = _HEADER.match(text), _KEY.match(text)
            if header:
                table = self._open(_parts(header[2]), is_array=header[1] == "[[")
                self._spans.setdefault(table, span)
            elif key:
                self._spans.setdefault((*table, *_parts(key[1])), span)

    def _open(self, parts: KeyPath, *, is_array: bool) -> KeyPath:
        path: KeyPath = ()
        for depth, part in enumerate(parts):
            path = (*path, part)
            is_last = depth == len(parts) - 1
            if is_last and is_array:
                self._counts[path] = self._counts.get(path, -1) + 1
            if path in self._counts:
                path = (*path, self._counts[path])
        return path


def _parts(dotted: str) -> KeyPath:
    return tuple(part.strip("\"'") for part in _PART.findall(dotted))


def _advance(line: str, depth: int, quote: str) -> tuple[int, str]:
    """Give bracket depth and open multi-line quote after a line."""
    i = 0
    while i < len(line):
        if quote:
            end = _closing(line, i, quote)
            if end is None:
                return depth, quote
            i, quote = end, ""
            continue
        char = line[i]
        if char == "#":
            break
        if char in "\"'":
            triple = char * 3
            if line.startswith(triple, i):
                i, quote = i + 3, triple
                continue
            end = _closing(line, i + 1, char)
            if end is None:
                break
            i = end
            continue
        depth += (char in "[{") - (char in "]}")
        i += 1
    return depth, quote


def _closing(line: str, start: int, quote: str) -> int | None:
    """Give the index behind the closing quote, None when it is not on this line."""
    i = start
    while i < len(line):
        if line[i] == "\\" and quote[0] == '"':
            i += 2
            continue
        if line.startswith(quote, i):
            return i + len(quote)
        i += 1
    return None
