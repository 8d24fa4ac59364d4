"""Which plugins are installed: the entry points of one group, read without importing anything."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Final

from quantmux.registry.guard import guarded

GROUP: Final = "quantmux.backends"
CORE_DISTRIBUTION: Final = "quantmux"


@dataclass(frozen=True, slots=True)
class Found:
    """A plugin that may be imported.

    Attributes:
        name: Entry-point name.
        distribution: Package that declares it, None for one that a program passed.
        version: Version of the package.
        source: What will be imported, for people.
        load: Imports it and gives the plugin object.
    """

    name: str
    distribution: str | None
    version: str | None
    source: str
    load: Callable[[], Any]

    @property
    def provider(self) -> str:
        """Name the package and what it offers, for conflict reports."""
        if self.distribution is None:
            return f"registered by the program ({self.source})"
        return f"{self.distribution} {self.version or ''}".rstrip() + f" ({self.source})"


def installed_plugins() -> tuple[Found, ...]:
    """Give every plugin that an installed package declares.

    quantmux's own come first, then by package and name, so that of two packages that claim a name
    always the same one wins.
    """
    found = {
        (item.name, item.source, item.distribution): item
        for entry in _entry_points()
        for item in [_from_entry(entry)]
    }
    return tuple(sorted(found.values(), key=_precedence))


def given_plugins(plugins: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> tuple[Found, ...]:
    """Wrap plugin objects that a program passes: name → module or object."""
    items = plugins.items() if isinstance(plugins, Mapping) else plugins
    return tuple(_from_object(name, plugin) for name, plugin in items)


def imports_torch(load: Callable[[], Any]) -> tuple[Any, bool]:
    """Load a plugin and tell whether that imported torch, which plugin modules must not."""
    had_torch = "torch" in sys.modules
    plugin = load()
    return plugin, not had_torch and "torch" in sys.modules


def _precedence(item: Found) -> tuple[bool, str, str, str]:
    distribution = (item.distribution or "").lower()
    return (distribution != CORE_DISTRIBUTION, distribution, item.name, item.source)


def _from_entry(entry: metadata.EntryPoint) -> Found:
    dist = entry.dist
    # a package whose METADATA file is broken still has an entry point worth reporting
    name = None if dist is None else guarded(lambda: str(dist.name)).value
    version = None if dist is None else guarded(lambda: str(dist.version)).value
    return Found(entry.name, name or "unknown", version, entry.value, entry.load)


def _from_object(name: str, plugin: Any) -> Found:
    source = getattr(plugin, "__name__", None) or type(plugin).__name__
    return Found(name, None, None, str(source), lambda: plugin)


def _entry_points() -> list[metadata.EntryPoint]:
    at_once = guarded(lambda: list(metadata.entry_points(group=GROUP)))
    if at_once.value is not None:
        return at_once.value
    # one package with an unreadable entry_points.txt spoils the call above for all the others
    entries: list[metadata.EntryPoint] = []
    for dist in metadata.distributions():
        own = guarded(lambda dist=dist: list(dist.entry_points.select(group=GROUP)))  # type: ignore[misc]
        entries.extend(own.value or ())
    return entries
