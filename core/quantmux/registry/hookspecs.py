"""The whole plugin contract, on one screen.

A plugin is a module named by an entry point of the group ``quantmux.backends``. It must be cheap to
import: neither torch nor the library it wraps. All results of a hook are collected; none is first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from quantmux.capability.device import DeviceProfile
    from quantmux.registry.kernel_spec import BackendInfo, BackendStatus, KernelSpec
    from quantmux.registry.library_unit import LibraryUnit

PROJECT = "quantmux"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def quantmux_backend() -> BackendInfo:  # type: ignore[empty-body]
    """Give name, version and the range of the plugin API. Required."""


@hookspec
def quantmux_kernels() -> Iterable[KernelSpec]:  # type: ignore[empty-body]
    """Give every kernel, whatever the device: capabilities decide later. Required."""


@hookspec
def quantmux_probe(device: DeviceProfile) -> BackendStatus:  # type: ignore[empty-body]
    """Say whether the backend can work here, from metadata and files: no import, no network."""


@hookspec
def quantmux_libraries() -> Iterable[LibraryUnit]:  # type: ignore[empty-body]
    """Give every library that kernels need compiled, with its state and what compiles it."""


@hookspec
def quantmux_profiles() -> Iterable[DeviceProfile]:  # type: ignore[empty-body]
    """Give device profiles that core does not know."""


@hookspec
def quantmux_event(event: Any) -> None:
    """Hear of a fallback (`quantmux.FallbackEvent`). Raising here is logged and ignored."""


@hookspec
def quantmux_release(device: int, stream: int) -> None:
    """Let go of memory that is kept for calls on a stream of a CUDA device (API 1.2).

    Asked behind calls whose memory must not outlive them; the stream's next call allocates anew.
    """
