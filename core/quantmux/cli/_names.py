"""Names of layers: one spelling for those that differ in numbers only, and where to break them."""

from __future__ import annotations

import re
from typing import Final

_NUMBER: Final = re.compile(r"(?<=\.)\d+(?=\.|$)")
_LONG: Final = 22


def name_pattern(name: str) -> str:
    """Give a layer's name with its numbers as ``*``: ``model.layers.*.mlp.down_proj``."""
    return _NUMBER.sub("*", name)


def two_lines(name: str) -> str:
    """Break a long name before the dot that makes the longer half shortest."""
    dots = [i for i, char in enumerate(name) if char == "."]
    if len(name) <= _LONG or not dots:
        return name
    at = min(dots, key=lambda i: max(i, len(name) - i + 2))
    return f"{name[:at]}\n  {name[at:]}"
