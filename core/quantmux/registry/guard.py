"""The one place where everything that foreign code may raise is caught."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """What a guarded call gave: a value, or the exception."""

    value: T | None = None
    error: BaseException | None = None


def guarded(function: Callable[[], T]) -> Outcome[T]:
    """Call a plugin's code and keep what it raises.

    A plugin is foreign code: it may raise anything, SystemExit included (scripts that call
    ``sys.exit`` on a missing library do). KeyboardInterrupt is the user's and passes.
    """
    try:
        return Outcome(value=function())
    except (Exception, SystemExit) as error:  # noqa: BLE001 - see above
        return Outcome(error=error)


def describe(error: BaseException) -> str:
    """Give an exception as one line: type and message."""
    first, *_ = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
