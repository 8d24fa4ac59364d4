"""Holds an entry against what a release says of itself. The absence of a no is never a yes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from quantmux.capability.arch import ArchSet
from quantmux.capability.rejection import Rejection, RejectionCode
from quantmux_flashinfer.surface.faults import FAULTS

if TYPE_CHECKING:
    from quantmux.capability.arch import Arch
    from quantmux_flashinfer.entries import Entry
    from quantmux_flashinfer.surface.declared import Function, Surface

TESTED: Final = "0.7.2.post1"
"""The release that this backend is written against, and proved with."""

UPGRADE: Final = f"pip install -U 'flashinfer-python=={TESTED}'"


def why_not(surface: Surface, entry: Entry, arch: Arch) -> Rejection | None:
    """Tell why a release does not serve an entry on an architecture, None when it does.

    Args:
        surface: What was read of the release.
        entry: What a kernel calls.
        arch: The device's.
    """
    function = surface.functions.get(entry.function)
    if function is None:
        return _no(surface, entry, entry.name, "no such function")
    return (
        _parameters(surface, entry, function)
        or _backend(surface, entry, function)
        or _architecture(surface, entry, function, arch)
        or _fault(surface, entry, arch)
    )


def _parameters(surface: Surface, entry: Entry, function: Function) -> Rejection | None:
    for name in entry.parameters:
        if not function.takes(name):
            return _no(surface, entry, f"{entry.name}({name}=…)", f"no parameter {name}")
    given = {*entry.parameters, *(("backend",) if entry.backend is not None else ())}
    unknown = [name for name in function.required if name not in given]
    if unknown:
        found = f"{', '.join(unknown)} must be given, and this backend does not know what it means"
        return _no(surface, entry, entry.name, found)
    by_position = function.positions(entry.parameters)
    passed = tuple(name for name in entry.parameters if name in by_position)
    if passed != by_position:
        found = f"they come in the order {', '.join(by_position)}"
        return _no(surface, entry, f"{entry.name}({', '.join(passed)})", found)
    return None


def _backend(surface: Surface, entry: Entry, function: Function) -> Rejection | None:
    """Look whether the backend is one that the release knows."""
    if entry.backend is None:
        return None
    known = tuple(function.backends) if function.is_gated else function.choices
    if known is not None and entry.backend not in known:
        found = f"backends {', '.join(known)}" if known else "no choice of backends"
        return _no(surface, entry, called(entry), found)
    if not function.takes("backend"):
        return _no(surface, entry, called(entry), "no choice of backends")
    if function.is_gated and function.backends[entry.backend].is_experimental:
        return _no(surface, entry, called(entry), "it calls this backend experimental")
    return None


def _architecture(
    surface: Surface, entry: Entry, function: Function, arch: Arch
) -> Rejection | None:
    """Look whether the library's own list holds the architecture, where it has a list."""
    if not function.is_gated:
        if not entry.is_gated:
            return None
        return _no(surface, entry, f"{called(entry)}, with its list of GPUs", "no list of GPUs")
    if function.backends:
        choice = function.backends.get(entry.backend or "")
        listed = choice.archs if choice is not None else None
    else:
        listed = function.archs
    if listed is None:
        return _no(surface, entry, f"{called(entry)}, with its list of GPUs", "no list to be read")
    if arch.sm in listed:
        return None
    return Rejection(
        RejectionCode.UNAVAILABLE,
        called(entry),
        "one of " + ", ".join(f"sm{sm}" for sm in listed),
        f"{arch} with flashinfer-python {surface.version}",
    )


def _fault(surface: Surface, entry: Entry, arch: Arch) -> Rejection | None:
    try:
        version = Version(surface.version)
    except InvalidVersion:
        return None
    for fault in FAULTS:
        if fault.function != entry.name or fault.backend != entry.backend:
            continue
        is_here = any(arch in ArchSet(spec=spec) for spec in fault.archs)
        if is_here and SpecifierSet(fault.versions).contains(version, prereleases=True):
            return _no(surface, entry, called(entry), fault.what)
    return None


def called(entry: Entry) -> str:
    """Give the call as words: ``mm_fp4 backend cutlass``."""
    return entry.name if entry.backend is None else f"{entry.name} backend {entry.backend}"


def _no(surface: Surface, entry: Entry, need: str, found: str) -> Rejection:
    return Rejection(
        RejectionCode.UNAVAILABLE,
        entry.name,
        f"flashinfer-python with {need}",
        f"{surface.version or 'a release that names no version'}: {found}",
        UPGRADE,
    )
