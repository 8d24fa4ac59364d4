"""Options of the plugin that have to do with compiling, and where its own files lie."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Final

from quantmux.errors import ConfigError
from quantmux.registry.user_folder import user_folder

MODES: Final = ("background", "wait", "never")

_asking: Final = threading.local()


def build_mode() -> str:
    """Give option ``build``: ``background``, ``wait`` or ``never``.

    Raises:
        ConfigError: It is something else.
    """
    mode = options().get("build", "background")
    if mode not in MODES:
        raise ConfigError(
            "option build of the plugin flashinfer is not known",
            facts={"needs": " · ".join(MODES), "found": repr(mode)},
        )
    return str(mode)


def workspace() -> Path | None:
    """Give option ``workspace``, the folder below which FlashInfer keeps what it compiles.

    None where no option names one: FlashInfer's own default holds, and what other programs of this
    user compiled is found there.

    Raises:
        ConfigError: It is no text.
    """
    value = options().get("workspace")
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise ConfigError(
            "option workspace of the plugin flashinfer is not a folder",
            facts={"needs": "a text", "found": repr(value)},
            hint='[plugins.flashinfer] options = { workspace = "/a/folder" }',
        )
    return Path(value).expanduser().absolute()


def own_folder() -> Path:
    """Give the folder for what this backend itself writes; it need not exist."""
    return user_folder() / "flashinfer"


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
        return plugin_options("flashinfer")
    finally:
        _asking.now = False
