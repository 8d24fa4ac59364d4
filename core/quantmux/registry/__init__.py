"""Who is here: the plugin contract, guarded discovery, the status of each plugin.

Imports config and capability only.
"""

from quantmux.registry.default import (
    default_registry,
    register_plugin,
    set_default_registry,
    unregister_plugin,
)
from quantmux.registry.hookspecs import hookimpl
from quantmux.registry.kernel_spec import HOOK_API, BackendInfo, BackendStatus, KernelSpec
from quantmux.registry.manager import Registry, load_registry
from quantmux.registry.status import PluginRecord

__all__ = [
    "HOOK_API",
    "BackendInfo",
    "BackendStatus",
    "KernelSpec",
    "PluginRecord",
    "Registry",
    "default_registry",
    "hookimpl",
    "load_registry",
    "register_plugin",
    "set_default_registry",
    "unregister_plugin",
]
