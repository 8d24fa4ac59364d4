"""The cutlass plugin, as data: its kernels, their libraries, and whether they can be had here."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from quantmux._version import __version__
from quantmux.capability.capability import Needs
from quantmux.registry.hookspecs import hookimpl
from quantmux.registry.kernel_spec import BackendInfo, BackendStatus
from quantmux_cutlass.availability import veto
from quantmux_cutlass.catalog import offers, shared_sources, unit_sources
from quantmux_cutlass.library_units import library_units
from quantmux_cutlass.status import status_on
from quantmux_cutlass.versions import compiled_by

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux.registry.library_unit import LibraryUnit
    from quantmux_cutlass.catalog import Offer

LIBRARIES: Final = Needs(kind="library", name="its libraries, compiled or nvcc to compile them")
"""What is assumed of a device that is not here. Of one that is, `availability.veto` asks."""


@hookimpl
def quantmux_backend() -> BackendInfo:
    """Give name, version and API range."""
    return BackendInfo(
        name="cutlass",
        version=__version__,
        api=">=1.1,<2",
        summary="CUDA kernels, on CUTLASS and by hand, compiled once for the GPU at hand",
    )


@hookimpl
def quantmux_kernels() -> tuple[KernelSpec, ...]:
    """Give the kernels."""
    return tuple(_complete(offer) for offer in offers())


@hookimpl
def quantmux_libraries() -> tuple[LibraryUnit, ...]:
    """Give every library of them with its state."""
    return library_units()


@hookimpl
def quantmux_probe(device: DeviceProfile) -> BackendStatus:
    """Tell whether libraries are here for the device, or can be compiled."""
    return status_on(device)


def _complete(offer: Offer) -> KernelSpec:
    """Give the spec with what all kernels here share: their build, its need and its veto."""
    spec, units = offer.spec, offer.units
    needs = (*spec.capability.needs, LIBRARIES)
    sources = {*spec.sources, *shared_sources(), *unit_sources(units)}
    return replace(
        spec,
        capability=spec.capability.replace(needs=needs),
        sources=tuple(sorted(sources)),
        veto=veto(spec, units),
        versions=lambda: compiled_by(units),
    )
