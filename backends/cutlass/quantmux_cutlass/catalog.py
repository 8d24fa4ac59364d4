"""What this backend offers: every kernel with the units that it is compiled from. No torch.

A kernel needs those units of its module whose source stands among its `KernelSpec.sources`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from quantmux_cutlass.build.keys import PACKAGE, sources_of

if TYPE_CHECKING:
    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux_cutlass.units import Unit

MODULES: Final = (
    ("linear.specs_fp8_small_m", "linear.units_small_m"),
    ("linear.specs_fp8", "linear.units_fp8"),
    ("linear.specs_fp8_block", "linear.units_fp8_block"),
    ("linear.specs_nvfp4", "linear.units_nvfp4"),
    ("quantize.specs", "quantize.units"),
)
"""``specs() -> tuple[KernelSpec, ...]`` and ``units() -> tuple[Unit, ...]``, side by side."""


@dataclass(frozen=True, slots=True)
class Offer:
    """One kernel.

    Attributes:
        spec: As its module says it.
        units: What it is compiled from.
    """

    spec: KernelSpec
    units: tuple[Unit, ...]


@cache
def offers() -> tuple[Offer, ...]:
    """Give every kernel, in the order of `MODULES`."""
    found: list[Offer] = []
    for spec_module, unit_module in MODULES:
        made: tuple[Unit, ...] = _module(unit_module).units()
        for spec in _module(spec_module).specs():
            mine = tuple(unit for unit in made if unit.source in spec.sources)
            found.append(Offer(spec, mine))
    return tuple(found)


@cache
def all_units() -> dict[Unit, tuple[str, ...]]:
    """Give every unit with the ids of the kernels that use it."""
    found: dict[Unit, tuple[str, ...]] = {}
    for offer in offers():
        for unit in offer.units:
            found[unit] = (*found.get(unit, ()), offer.spec.id)
    return found


@cache
def shared_sources() -> tuple[str, ...]:
    """Give the files that every kernel here runs through: what finds, builds and opens libraries.

    They decide which machine code is run, so they belong to the digest of each.
    """
    alone = ["abi.py", "availability.py", "compile_ahead.py", "demand.py", "headers.py"]
    alone += ["interfaces.py", "native.py", "units.py", "linear/choice.py"]
    names = [*alone, *(f"build/{file.name}" for file in (PACKAGE / "build").glob("*.py"))]
    return tuple(sorted(n for n in names if n != "build/__init__.py" and (PACKAGE / n).is_file()))


def unit_sources(units: tuple[Unit, ...]) -> tuple[str, ...]:
    """Give the CUDA files of units, headers of ours included, and the modules of their self-tests.

    Relative to the package.
    """
    files = {file for unit in units for file in sources_of(unit)}
    names = {file.relative_to(PACKAGE).as_posix() for file in files}
    tests = {unit.self_test.partition(":")[0] for unit in units if unit.self_test}
    inside = f"{__package__}."
    names |= {
        test.removeprefix(inside).replace(".", "/") + ".py"
        for test in tests
        if test.startswith(inside)
    }
    return tuple(sorted(names))


def _module(name: str) -> Any:
    return importlib.import_module(f"{__package__}.{name}")
