"""Name patterns: a glob, or ``re:`` and a regular expression."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Final

from quantmux.errors import ConfigError

REGEX_PREFIX: Final = "re:"


def check_pattern(pattern: str) -> str:
    """Give the pattern back if it can match something.

    Raises:
        ConfigError: It is empty, or its regular expression does not compile.
    """
    if not pattern.strip():
        raise ConfigError("a pattern is empty", hint='use "*" to match every name')
    if pattern.startswith(REGEX_PREFIX):
        _regex(pattern)
    return pattern


def matches(pattern: str, name: str) -> bool:
    """Tell whether a name fits.

    A glob (``*``, ``?``, ``[...]``; case matters, ``*`` crosses dots) must fit the whole name. A
    ``re:`` pattern must fit from the beginning of the name and may end early: the rule of the
    ignore lists in compressed-tensors checkpoints, so that one spelling serves both.

    Raises:
        ConfigError: The regular expression does not compile.
    """
    if pattern.startswith(REGEX_PREFIX):
        return _regex(pattern).match(name) is not None
    return fnmatchcase(name, pattern)


def is_plain(pattern: str) -> bool:
    """Tell whether the pattern is a name: neither a glob nor a regular expression."""
    return not pattern.startswith(REGEX_PREFIX) and not any(c in pattern for c in "*?[")


@lru_cache(maxsize=1024)
def _regex(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern.removeprefix(REGEX_PREFIX))
    except re.error as error:
        raise ConfigError(
            f'"{pattern}" is not a regular expression',
            facts=[str(error)],
            hint='a glob such as "*.down_proj" needs no "re:"',
        ) from None
