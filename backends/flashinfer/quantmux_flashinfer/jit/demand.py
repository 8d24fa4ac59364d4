"""Modules on demand: all that a kernel needs are asked for at once, and spoken of as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from quantmux.capability.device import DeviceProfile


def ensure(names: Iterable[str], device: DeviceProfile) -> None:
    """See that modules are compiled for a device that is here; returns when all are.

    Raises:
        BuildError: A module cannot be compiled here (code ``unavailable``) or did not compile.
        NotBuiltError: Some are being compiled; its ``wait()`` waits for all of them.
    """
    del names, device
