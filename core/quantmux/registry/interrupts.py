"""Ctrl-C that is not lost: for work that goes on in threads or processes while somebody waits."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


@contextmanager
def remembered_ctrl_c() -> Iterator[list[int]]:
    """Give a list that is no longer empty once Ctrl-C was pressed.

    An interrupt that Python raises inside a destructor or a callback is printed and forgotten; the
    list remembers it.
    """
    pressed: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or before is not signal.default_int_handler:
        yield pressed
        return

    def remember(number: int, frame: FrameType | None) -> None:
        pressed.append(number)
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, remember)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)
