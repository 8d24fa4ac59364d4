"""The variants of one device function: each launcher made once, compiled ones counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.capability.arch import Arch
from quantmux.capability.detect import resolve_device
from quantmux_triton.interpreter import interpreting
from quantmux_triton.launcher import Launcher, compiled_count

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quantmux.capability.device import DeviceProfile

_FIRST_WITH_PDL: Final = 90


class Variants:
    """Launchers of one ``@triton.jit`` function by everything that is fixed when it compiles.

    Args:
        fn: The decorated function.
    """

    def __init__(self, fn: Any) -> None:
        self._fn = fn
        self._made: dict[tuple[Any, ...], Launcher] = {}

    def compiled(self) -> int:
        """Count what is compiled in this process; in the interpreter, what would be."""
        return compiled_count(self._fn)

    def get(
        self,
        arch: Arch,
        in_dtype: str,
        constexprs: Mapping[str, Any],
        *,
        num_warps: int,
        pdl: bool = False,
    ) -> Launcher:
        """Give the launcher of a variant; configs that differ in nothing of it share one.

        Args:
            arch: Architecture that it is for.
            in_dtype: Format of the plain input.
            constexprs: Argument → compile-time value.
            num_warps: Warps of a program.
            pdl: Whether it is launched with programmatic dependence.
        """
        key = (arch, in_dtype, num_warps, pdl, *constexprs.items())
        found = self._made.get(key)
        if found is None:
            options: dict[str, Any] = {"num_warps": num_warps, "enable_fp_fusion": False}
            if pdl:
                options["launch_pdl"] = True
            found = self._made.setdefault(key, Launcher(self._fn, constexprs, options))
        return found


def has_pdl(arch: Arch) -> bool:
    """Tell whether launches can depend on their predecessor programmatically."""
    return not interpreting() and arch.sm is not None and arch.sm >= _FIRST_WITH_PDL


def arch_here() -> Arch | None:
    """Give the architecture that calls of this process run on, None where there is none."""
    if interpreting():
        return Arch(vendor="cpu", name="cpu")
    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    return Arch(vendor="nvidia", name=f"{major}{minor}")


def current_device() -> DeviceProfile | None:
    """Give the profile of the device that calls of this process run on, None where there is none.

    The interpreter's is the CPU.
    """
    if interpreting():
        return resolve_device("cpu")
    if not torch.cuda.is_available():
        return None
    return resolve_device(f"cuda:{torch.cuda.current_device()}")
