"""Machine code for a GPU that need not be here, as evidence: the one way for all kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantmux.capability.arch import ArchSet
from quantmux.errors import BuildError
from quantmux.registry.protocol import CompiledCode
from quantmux_cutlass.build.making import make
from quantmux_cutlass.build.toolchain import target_for

if TYPE_CHECKING:
    from quantmux.capability.arch import Arch
    from quantmux_cutlass.units import Unit


def compiled(unit: Unit, arch: Arch) -> CompiledCode:
    """Give a unit's machine code for an architecture.

    It is that of the library, which is compiled now unless it is there: what is shown to compile
    is what will be loaded, and a unit that takes minutes is compiled once for all configs, all
    GPUs of a family and all processes.

    Args:
        unit: What is compiled.
        arch: The architecture.

    Raises:
        BuildError: The compiler refuses (code ``compile``), or what is needed to compile is not
            on this machine (code ``no_compiler``).
    """
    target = target_for(unit, arch)
    if target is None:
        raise BuildError(
            f"{unit.name} is for no target that runs on {arch}",
            facts={"needs": " or ".join(unit.targets), "found": str(arch)},
            code="compile",
        )
    try:
        entry = make(unit, target).entry
    except BuildError as error:
        if error.code != "headers":
            raise
        raise BuildError(
            error.headline, facts=error.facts, hint=error.hint, code="no_compiler"
        ) from error
    part = next(part for part in target.split("+") if arch in ArchSet(spec=part))
    file = entry.code(part)
    if file is None:
        raise BuildError(
            f"the library of {unit.name} has no machine code for {part} beside it",
            facts=[f"looked in {entry.folder}"],
            hint="quantmux build cutlass --force",
            code="compile",
        )
    return CompiledCode(unit.name, f"sm_{part}", file.read_bytes(), "nvcc", entry.record.nvcc)
