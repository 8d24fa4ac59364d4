"""The environment variables quantmux reads. None of them picks a kernel."""

from __future__ import annotations

import logging
import os
from typing import Final

from quantmux.config._base import closest

PREFIX: Final = "QUANTMUX_"

KNOWN: Final[dict[str, str]] = {
    "QUANTMUX_PLUGINS": "path of the policy file that lies over the shipped plugins.toml",
    "QUANTMUX_CACHE_DIR": "folder of the tuning rows, evidence and quarantine of this user",
    "QUANTMUX_LOG": "log categories to show, e.g. select,build",
}

_log = logging.getLogger("quantmux.config")
_warned: set[str] = set()


def variable(name: str) -> str | None:
    """Give the value of a known variable, None when it is unset or empty.

    Misspelt ``QUANTMUX_`` variables are logged on the way, once each.
    """
    warn_unknown()
    return os.environ.get(name) or None


def unknown_variables() -> dict[str, str | None]:
    """Give every ``QUANTMUX_`` variable that nobody reads, with the known one nearest to it."""
    names = sorted(n for n in os.environ if n.startswith(PREFIX) and n not in KNOWN)
    return {name: closest(name, KNOWN) for name in names}


def warn_unknown() -> None:
    """Log one warning per process for each ``QUANTMUX_`` variable that nobody reads."""
    for name, near in unknown_variables().items():
        if name in _warned:
            continue
        _warned.add(name)
        hint = f"; did you mean {near}?" if near else ""
        _log.warning(
            "environment variable %s is not read by quantmux%s (read: %s)",
            name,
            hint,
            ", ".join(KNOWN),
        )
