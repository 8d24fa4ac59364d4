"""The registry that everything uses when none is passed."""

from __future__ import annotations

from threading import RLock
from typing import TYPE_CHECKING, Any

from quantmux.errors import PluginError
from quantmux.registry.manager import Registry, load_registry

if TYPE_CHECKING:
    from quantmux.registry.status import PluginRecord

_lock = RLock()
_extra: dict[str, Any] = {}
_current: Registry | None = None


def default_registry() -> Registry:
    """Give the process-wide registry; built at the first call, from plugins.toml."""
    global _current  # noqa: PLW0603 - the one piece of process-wide state, behind a lock
    with _lock:
        if _current is None:
            _current = load_registry(extra=_extra)
        return _current


def set_default_registry(registry: Registry | None) -> None:
    """Put another registry in its place; None builds it anew at the next use."""
    global _current  # noqa: PLW0603
    with _lock:
        _current = registry


def plugin_options(name: str) -> dict[str, Any]:
    """Give ``options`` of ``[plugins.NAME]`` in the policy of this process; {} without any.

    Args:
        name: Backend name.
    """
    return dict(default_registry().policy.policy.plugin(name).options)


def register_plugin(plugin: Any, name: str) -> PluginRecord:
    """Add a plugin that no package declares, and rebuild the process-wide registry.

    Layers that are bound already keep the kernels they have.

    Args:
        plugin: Module or object with the hook implementations.
        name: Backend name.

    Raises:
        PluginError: The name is taken, or the plugin breaks the contract; it is not added.
    """
    with _lock:
        if name in _extra and _extra[name] is not plugin:
            raise PluginError(
                f"plugin {name} is registered already",
                plugin=name,
                hint=f'call unregister_plugin("{name}") first',
                code="conflict",
            )
        registry = load_registry(extra={**_extra, name: plugin})
        # the last record of that name is the new one: installed plugins come first
        record = [r for r in registry.plugins if r.name == name][-1]
        if isinstance(record.error, PluginError):
            raise record.error
        _extra[name] = plugin
        set_default_registry(registry)
        return record


def unregister_plugin(name: str) -> None:
    """Take back `register_plugin`; does nothing for a name that was not registered."""
    with _lock:
        if _extra.pop(name, None) is not None:
            set_default_registry(None)
