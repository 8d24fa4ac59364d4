"""What kernels of this backend need of a machine, as data for tables and for selection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux.capability.capability import Needs

if TYPE_CHECKING:
    from quantmux_flashinfer.entries import Entry

FLASHINFER: Final = Needs(
    kind="package",
    name="flashinfer-python",
    version=">=0.6.8,<0.8",
    import_name="flashinfer",
    install="pip install 'quantmux[flashinfer]'",
)
"""The releases whose functions, parameters and lists of GPUs are recorded under `surface`."""

MODULES: Final = Needs(kind="library", name="its modules, compiled or nvcc and ninja to do so")
CUBINS: Final = Needs(kind="library", name="its precompiled kernels (flashinfer-cubin)")


def needs_of(entry: Entry) -> tuple[Needs, ...]:
    """Give what a call needs: the library, packages beyond it, and what its veto looks for."""
    found = [FLASHINFER]
    found += [
        Needs(kind="package", name=name, import_name=module, install=f"pip install {name}")
        for name, module in entry.packages
    ]
    if entry.modules:
        found.append(MODULES)
    if entry.cubins:
        found.append(CUBINS)
    return tuple(found)
