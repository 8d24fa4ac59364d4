"""Before a sweep on a GPU: the libraries of its kernels are compiled, once and for all workers.

A worker would compile them too, or wait for the one that does; but a cell has seconds where a
compiler takes minutes, and a sweep that began so would time the compiler.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux.errors import PluginError
from quantmux.registry.library_build import make_libraries

if TYPE_CHECKING:
    from collections.abc import Collection

    from quantmux.capability.device import DeviceProfile
    from quantmux.registry.library_build import OnBuild
    from quantmux.registry.library_unit import LibraryUnit
    from quantmux.registry.manager import Registry

_WANTED: Final = ("missing", "building")


def compile_libraries(
    registry: Registry,
    kernels: Collection[str],
    device: DeviceProfile,
    progress: OnBuild | None = None,
) -> list[str]:
    """Compile what kernels lack on a GPU of this machine; gives notes for the result.

    A library that does not compile costs its own kernels' cells only: they fail by themselves.

    Args:
        registry: The plugins.
        kernels: Ids of the kernels that will be asked.
        device: Where.
        progress: Told how far it is.

    Raises:
        KeyboardInterrupt: Ctrl-C; the compilers have been ended.
    """
    if not device.is_cuda or not device.is_present:
        return []
    results = make_libraries(missing_libraries(registry, kernels, device), progress=progress)
    made = [result.made for result in results if result.made is not None]
    notes = []
    if made:
        seconds = max(one.seconds for one in made)
        notes.append(f"{len(made)} libraries were compiled first, the longest in {seconds:.0f} s")
    notes += [
        f"library {result.unit.name} for {result.unit.target}: {result.error.headline}"
        for result in results
        if result.error is not None
    ]
    return notes


def missing_libraries(
    registry: Registry, kernels: Collection[str], device: DeviceProfile
) -> list[LibraryUnit]:
    """Give the libraries that kernels need on a device, that can be compiled and are not there."""
    found: list[LibraryUnit] = []
    for backend in dict.fromkeys(kernel.partition("/")[0] for kernel in sorted(kernels)):
        try:
            units = registry.libraries(backend)
        except PluginError:
            continue  # its kernels say so in their cells
        found += [
            unit
            for unit in units
            if unit.state in _WANTED
            and unit.runs_on(device.arch)
            and not set(unit.kernels).isdisjoint(kernels)
        ]
    return found
