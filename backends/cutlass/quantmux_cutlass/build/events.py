"""What is told of a build while it goes on, and how it came out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from quantmux.errors import BuildError
    from quantmux_cutlass.build.entries import Entry
    from quantmux_cutlass.units import Unit


@dataclass(frozen=True, slots=True)
class Event:
    """What happens to one library.

    Attributes:
        unit: What is compiled.
        target: What for.
        phase: ``waiting`` (another process compiles it), ``queued`` (for cores and memory),
            ``compiling``, ``checking``; at last ``done``, ``present`` (it was there) or
            ``failed``.
        seconds: Seconds since it was asked for.
    """

    unit: Unit
    target: str
    phase: str
    seconds: float


Progress = Callable[[Event], None]
"""Told of every event, from the thread that compiles."""


@dataclass(frozen=True, slots=True)
class Result:
    """How one library of several came out.

    Attributes:
        unit: What was compiled.
        target: What for.
        entry: The library with its record; None when it could not be made.
        error: Why not.
        made: It was compiled now; else it was there already.
    """

    unit: Unit
    target: str
    entry: Entry | None = None
    error: BuildError | None = None
    made: bool = False

    @property
    def path(self) -> Path | None:
        """The library file."""
        return self.entry.library if self.entry is not None else None

    @property
    def seconds(self) -> float:
        """Wall seconds its compilation took, whenever that was."""
        return self.entry.record.seconds if self.entry is not None else 0.0

    @property
    def memory_mib(self) -> int:
        """Memory of the largest process of its compilation, MiB."""
        return self.entry.record.memory_mib if self.entry is not None else 0
