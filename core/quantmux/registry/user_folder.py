"""Where this user's measured rows, evidence, quarantine and self-checks are kept."""

from __future__ import annotations

from pathlib import Path

from quantmux.config.environment import variable


def user_folder() -> Path:
    """Give the folder; it need not exist, and nothing is made.

    ``QUANTMUX_CACHE_DIR`` names it, else it is the platform's cache folder of this user. In it:
    ``evidence/<device>.json``, ``tuning/<device>.json``, ``quarantine.json`` and
    ``self_check.json``.
    """
    given = variable("QUANTMUX_CACHE_DIR")
    if given is not None:
        return Path(given).expanduser()
    # imported here: a quarter of a millisecond that no program pays which sets the variable
    import platformdirs

    return platformdirs.user_cache_path("quantmux")
