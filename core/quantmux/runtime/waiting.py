"""Who has time waits for a library that is being compiled; a call takes another kernel instead.

A sweep that judged the kernel next in line, or a benchmark that timed it, would say something of
another kernel than was asked; `quantmux.warmup` is there to take such time before calls come.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from quantmux.errors import NotBuiltError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_MOST: Final = 64
"""Libraries that one kernel is waited for, one after another; a plugin whose libraries are never
there must not be waited for without end."""


def patiently(action: Callable[[], T], *, cause: bool = False) -> T:
    """Do something, again and again as long as libraries that it needs are being compiled.

    Args:
        action: What is done; it may raise `NotBuiltError`.
        cause: Look at an exception's ``__cause__`` too.

    Raises:
        NotBuiltError: Nobody compiles the library.
        Exception: Whatever else the action raises.
    """
    for _ in range(_MOST):
        try:
            return action()
        except Exception as error:
            inner = error.__cause__ if cause else None
            late = error if isinstance(error, NotBuiltError) else inner
            if not isinstance(late, NotBuiltError) or not late.wait():
                raise
    return action()


__all__ = ["patiently"]
