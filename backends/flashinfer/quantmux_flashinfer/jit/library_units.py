"""The modules of this backend, as ``quantmux build flashinfer`` sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quantmux.registry.library_unit import LibraryUnit


def library_units() -> tuple[LibraryUnit, ...]:
    """Give one for each module and target, with its state now."""
    return ()
