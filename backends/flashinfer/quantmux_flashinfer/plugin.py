"""The flashinfer plugin, as data: its kernels, its modules, and whether they can be had here."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from quantmux._version import __version__
from quantmux.registry.hookspecs import hookimpl
from quantmux.registry.kernel_spec import BackendInfo, BackendStatus
from quantmux_flashinfer.availability import veto
from quantmux_flashinfer.catalog import functions, offers, shared_sources
from quantmux_flashinfer.jit.library_units import library_units
from quantmux_flashinfer.needs import needs_of
from quantmux_flashinfer.status import status_on
from quantmux_flashinfer.versions import compiled_by

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux.registry.library_unit import LibraryUnit
    from quantmux_flashinfer.entries import Offer


@hookimpl
def quantmux_backend() -> BackendInfo:
    """Give name, version and API range."""
    return BackendInfo(
        name="flashinfer",
        version=__version__,
        api=">=1.1,<2",
        summary="kernels of the FlashInfer library, where it is right",
    )


@hookimpl
def quantmux_kernels() -> tuple[KernelSpec, ...]:
    """Give the kernels."""
    return tuple(_complete(offer) for offer in offers())


@hookimpl
def quantmux_libraries() -> tuple[LibraryUnit, ...]:
    """Give every module that FlashInfer compiles for them, with its state."""
    return library_units()


@hookimpl
def quantmux_probe(device: DeviceProfile) -> BackendStatus:
    """Tell whether the library is here and something of it can be called on the device."""
    return status_on(device)


@hookimpl
def quantmux_release(device: int, stream: int) -> None:
    """Let go of the scratch buffers of a stream; there are none before a kernel ran."""
    guards = sys.modules.get(f"{__package__}.library.guards")
    room = None if guards is None else guards._rooms.get(device)  # noqa: SLF001 - this package's own
    if room is None:
        return
    with room.lock:
        if room.stream == stream:
            room.turn_to(None)  # to what the program itself had in the library's table
        room._kept.pop(stream, None)  # noqa: SLF001


def _complete(offer: Offer) -> KernelSpec:
    """Give the spec with what all kernels here share: needs, files and the veto."""
    spec, entry = offer.spec, offer.entry
    needs = (*spec.capability.needs, *needs_of(entry))
    return replace(
        spec,
        capability=spec.capability.replace(needs=needs),
        sources=tuple(sorted({*spec.sources, *shared_sources()})),
        veto=veto(offer, functions()),
        versions=(lambda: compiled_by(entry)) if entry.modules else spec.versions,
    )
