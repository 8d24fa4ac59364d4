"""How long a kernel that failed is kept away: longer than a bad day, shorter than for ever."""

from __future__ import annotations

import errno
import re
from typing import Final

DAY: Final = 86400.0
LASTING: Final = 14 * DAY
"""Seconds for which a failure keeps a kernel away."""
TRANSIENT: Final = 1 * DAY
"""The same for what is likely to pass by itself: a killed compiler, a full disk, no network."""

_ERRNOS: Final = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ETIMEDOUT, errno.EAGAIN)
)
_WORDS: Final = re.compile(
    r"no space left|disk quota|too many open files|\bkilled\b|sigkill|sigterm|signal 9\b"
    r"|returned -9\b|exit (code|status) (-9|137)\b|status 137\b|died with <signals"
    r"|connection (refused|reset|aborted|error|timed out)|timed? ?out|network is unreachable"
    r"|temporary failure in name resolution|name or service not known|urlopen error",
    re.IGNORECASE,
)


def expires_in(error: BaseException | None) -> float:
    """Give the seconds for which a kernel that raised this is kept away."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if _is_transient(error):
            return TRANSIENT
        error = error.__cause__ or error.__context__
    return LASTING


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if isinstance(error, OSError) and error.errno in _ERRNOS:
        return True
    return _WORDS.search(str(error)) is not None
