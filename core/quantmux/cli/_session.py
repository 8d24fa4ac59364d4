"""What a verb works with: the plugins under a policy file, and the device that was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from quantmux.capability.detect import resolve_device
from quantmux.config.policy_file import load_policy
from quantmux.registry.default import default_registry, set_default_registry
from quantmux.registry.manager import load_registry
from quantmux.runtime.context import Context, default_context

if TYPE_CHECKING:
    from pathlib import Path

    from quantmux.capability.device import DeviceProfile
    from quantmux.registry.manager import Registry

_given: list[Registry] = []


def open_registry(plugins: Path | None) -> Registry:
    """Give the plugins under a policy file; without one, those of the process.

    A command is its process: the file holds for everything that happens in it.

    Raises:
        ConfigError: The file is wrong; names file and line.
        PluginError: A plugin failed and the policy says that this is an error.
    """
    if plugins is not None:
        _given.append(load_registry(load_policy(plugins)))
        set_default_registry(_given[-1])
    return default_registry()


def open_context(plugins: Path | None, *, installed_only: bool = False) -> Context:
    """Give the context of the command; see `open_registry` for the errors."""
    registry = open_registry(plugins)
    return Context(registry, installed_only=True) if installed_only else default_context()


def find_device(name: str | None) -> DeviceProfile:
    """Give the device that ``--device`` means; plugins' profiles count.

    Raises:
        ConfigError: There is no such device.
    """
    return resolve_device(name, profiles=default_registry().profiles())


@contextmanager
def own_plugins() -> Iterator[None]:
    """Forget a policy file when the command ends: `main` may be called from a program."""
    try:
        yield
    finally:
        if _given:
            _given.clear()
            set_default_registry(None)
