"""What releases offered when they were looked at: read from their files, and asked of them.

``recorded/<version>.json`` holds both. `record` makes them, from the release itself.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quantmux_flashinfer.surface.declared import Surface

if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDER: Final = Path(__file__).with_name("recorded")
ASKED: Final = tuple(range(75, 130))
"""Compute capabilities that the libraries' own functions were asked about."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What a function of the imported library says of itself.

    Attributes:
        parameters: As `inspect.signature` gives them, written as in `Function.to_dict`.
        backends: Each backend that it says it has → those of `ASKED` that it says it supports.
        archs: Those of `ASKED` that a function without a choice of backends says it supports; None
            where it says nothing.
        experimental: The backends that it calls experimental; releases before 0.7 have none.
    """

    parameters: tuple[str, ...]
    backends: Mapping[str, tuple[int, ...]]
    archs: tuple[int, ...] | None
    experimental: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Recorded:
    """One release.

    Attributes:
        surface: Read from its files.
        answers: Given by its functions; a function that it does not have is left out.
    """

    surface: Surface
    answers: Mapping[str, Answers]


def versions() -> tuple[str, ...]:
    """Give the releases that were looked at."""
    return tuple(sorted(file.stem for file in FOLDER.glob("*.json")))


@cache
def recorded(version: str) -> Recorded:
    """Give what was recorded of a release.

    Raises:
        FileNotFoundError: It was not looked at.
    """
    text = (FOLDER / f"{version}.json").read_text(encoding="utf-8")
    data: dict[str, Any] = json.loads(text)
    return Recorded(
        Surface.from_dict(data["surface"]),
        {name: _answers(given) for name, given in data["answers"].items()},
    )


def _answers(data: Mapping[str, Any]) -> Answers:
    archs = data["archs"]
    return Answers(
        tuple(data["parameters"]),
        {name: tuple(listed) for name, listed in data["backends"].items()},
        None if archs is None else tuple(archs),
        tuple(data["experimental"]),
    )
