"""Names of layers that differ in numbers only: one spelling for all."""

from __future__ import annotations

import re
from typing import Final

_NUMBER: Final = re.compile(r"(?<=\.)\d+(?=\.|$)")


def name_pattern(name: str) -> str:
    """Give a layer's name with its numbers as ``*``: ``model.layers.*.mlp.down_proj``."""
    return _NUMBER.sub("*", name)
