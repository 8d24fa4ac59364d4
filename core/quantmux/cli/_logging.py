"""Log records of the library on stderr: warnings always, more by category (QUANTMUX_LOG)."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from quantmux.config.environment import variable


class _StderrHandler(logging.Handler):
    """Writes to the stderr of the moment: a progress bar may have put itself in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"{record.levelname.lower()}: {self.format(record)}", file=sys.stderr)


@contextmanager
def shown_logs() -> Iterator[None]:
    """Show the library's log records on stderr while a command runs."""
    root = logging.getLogger("quantmux")
    handler = _StderrHandler(logging.DEBUG)
    root.addHandler(handler)
    propagates, root.propagate = root.propagate, False
    loggers = [logging.getLogger(f"quantmux.{name}") for name in _categories()]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        root.propagate = propagates
        root.removeHandler(handler)


def _categories() -> tuple[str, ...]:
    text = variable("QUANTMUX_LOG") or ""
    return tuple(name for name in (part.strip() for part in text.split(",")) if name)
