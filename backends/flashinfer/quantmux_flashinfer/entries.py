"""Entry: what one kernel calls of FlashInfer, as data. No import of the library.

An entry is our own statement. It is held against the installed release before a kernel is selected
(`surface`), and against the imported library before it is called (`library.functions`); the absence
of an error is never taken for support.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantmux.capability.arch import ArchSet

if TYPE_CHECKING:
    from quantmux.capability.arch import Arch
    from quantmux.registry.kernel_spec import KernelSpec


@dataclass(frozen=True, slots=True)
class ModuleUse:
    """A module that FlashInfer compiles with nvcc, and the GPUs on which an entry loads it.

    Attributes:
        name: A key of `jit.modules.MODULES`.
        archs: Architecture sets, as in `quantmux.ArchSet`; () on every one that the entry serves.
    """

    name: str
    archs: tuple[str, ...] = ()

    def is_used_on(self, arch: Arch) -> bool:
        """Tell whether the entry loads it on an architecture."""
        return not self.archs or any(arch in ArchSet(spec=spec) for spec in self.archs)


@dataclass(frozen=True, slots=True)
class Entry:
    """One function of FlashInfer, called in one way.

    Attributes:
        function: ``module:name``, importable once FlashInfer is.
        parameters: Names of the parameters that our call passes; a release without one of them does
            not serve.
        backend: Value of its parameter ``backend``; None where it has none, or takes no notice.
        is_gated: The library's own decorator says on which architectures it runs; where it is not,
            only our table does (its quantizers return untouched memory on sm90 without an error).
        modules: What it loads that nvcc compiles.
        packages: Distributions beyond flashinfer-python, as ``name`` → module that must exist.
        cubins: It downloads machine code at first use, which this backend never allows: the files
            must be there.
    """

    function: str
    parameters: tuple[str, ...]
    backend: str | None = None
    is_gated: bool = False
    modules: tuple[ModuleUse, ...] = ()
    packages: tuple[tuple[str, str], ...] = ()
    cubins: bool = False

    @property
    def name(self) -> str:
        """The function's own name."""
        return self.function.partition(":")[2]

    def modules_on(self, arch: Arch) -> tuple[str, ...]:
        """Give the names of the modules that it loads on an architecture."""
        return tuple(use.name for use in self.modules if use.is_used_on(arch))


@dataclass(frozen=True, slots=True)
class Offer:
    """One kernel and what it calls.

    Attributes:
        spec: As its room says it; `catalog` adds needs, veto and the files that all share.
        entry: What it calls.
    """

    spec: KernelSpec
    entry: Entry
