"""A function of FlashInfer, ready to be called: imported, checked, its modules compiled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quantmux.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantmux.capability.device import DeviceProfile
    from quantmux_flashinfer.entries import Entry


def function(entry: Entry, device: DeviceProfile) -> Callable[..., Any]:
    """Give the function that an entry names, for a device that is here.

    The first call of the process imports FlashInfer. Modules that are not compiled yet are asked
    for; nothing is compiled in the calling thread unless option ``build`` says ``wait``.

    Raises:
        BuildError: The installed release does not have it or does not serve the device (code
            ``unsupported``), or a tool, header or library to compile it is missing (code
            ``unavailable``), or its compilation failed.
        NotBuiltError: A module is being compiled in the background.
    """
    raise BuildError(f"{entry.function} for {device.name}: not written yet")
