"""In what state a module is, without importing or compiling anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quantmux.capability.arch import Arch
    from quantmux.capability.rejection import Rejection


def why_not(name: str, arch: Arch) -> Rejection | None:
    """Tell why no kernel can have a module on GPUs of an architecture here, None when one can."""
    del name, arch
    return None
