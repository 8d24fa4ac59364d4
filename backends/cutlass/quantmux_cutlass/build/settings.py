"""Where libraries are kept and found: the ``cache`` and ``prebuilt`` options of the plugin."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Final

from quantmux.errors import ConfigError
from quantmux.registry.user_folder import user_folder

_asking: Final = threading.local()


def cache_folder() -> Path:
    """Give the folder that libraries are built into; it need not exist.

    ``options = { cache = "…" }`` of ``[plugins.cutlass]`` names it, else it is ``cutlass`` in the
    user's cache folder of quantmux (``QUANTMUX_CACHE_DIR``, or the platform's).
    """
    return _folder("cache") or user_folder() / "cutlass"


def prebuilt_folder() -> Path | None:
    """Give the folder of libraries that somebody else built, None when no option names one."""
    return _folder("prebuilt")


def options() -> dict[str, Any]:
    """Give the plugin's options in the policy of this process.

    While the registry that knows them is being read, which may ask this plugin, there are none.
    """
    if getattr(_asking, "now", False):
        return {}
    # imported here: the registry imports plugins, and this is one
    from quantmux.registry.default import plugin_options

    _asking.now = True
    try:
        return plugin_options("cutlass")
    finally:
        _asking.now = False


def _folder(name: str) -> Path | None:
    value = options().get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise ConfigError(
            f"option {name} of the plugin cutlass is not a folder",
            facts={"needs": "a text", "found": repr(value)},
            hint=f'[plugins.cutlass] options = {{ {name} = "/a/folder" }}',
        )
    return Path(value).expanduser().absolute()
