"""When evidence is stale: what a kernel's numbers depend on, then and now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from packaging.version import InvalidVersion, Version

from quantmux.capability.needs import package_version
from quantmux.registry.guard import guarded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quantmux.registry.kernel_spec import KernelSpec

_ALWAYS = ("torch", "triton")


def versions_here(spec: KernelSpec) -> dict[str, str]:
    """Give the installed versions of what a kernel's numbers depend on: torch and its needs.

    Packages that are not installed are left out. What compiled a kernel's libraries, and is no
    package, the kernel itself names (`KernelSpec.versions`).
    """
    needed = [need.name for need in spec.capability.needs if need.kind == "package"]
    found = {name: package_version(name) for name in dict.fromkeys(("torch", *needed))}
    installed = {name: version for name, version in found.items() if version is not None}
    return {**installed, **compiled_by(spec)}


def compiled_by(spec: KernelSpec) -> dict[str, str]:
    """Give what the kernel says of its compilers; a plugin that raises has said nothing."""
    ask = spec.versions
    if ask is None:
        return {}
    outcome = guarded(lambda: {str(name): str(version) for name, version in ask().items()})
    return outcome.value or {}


def digest_change(run: str, here: str) -> str:
    """Say that the sources have changed since the run, "" when they have not."""
    if run == here:
        return ""
    return f"sources changed since: digest {run[:8]} was run, {here[:8]} is here"


def version_change(spec: KernelSpec, run: Mapping[str, str]) -> str:
    """Say which package is of another release than in the run, "" when none is.

    A release is major.minor: 2.11.0+cu130 and 2.11.1 are one. Asked are torch, triton, the
    packages that the kernel needs, and what it says that compiled it, each only where the run has
    named it.
    """
    needed = {need.name for need in spec.capability.needs if need.kind == "package"}
    makers = compiled_by(spec)
    for name, version in sorted(run.items()):
        if name not in needed and name not in _ALWAYS and name not in makers:
            continue
        here = makers.get(name) or package_version(name)
        if here is None:
            return f"{name} {version} was run, none is here"
        if not same_release(version, here):
            return f"{name} {version} was run, {here} is here"
    return ""


def same_release(one: str, other: str) -> bool:
    """Tell whether two versions agree in major.minor, or in spelling where they are no versions."""
    try:
        return Version(one).release[:2] == Version(other).release[:2]
    except InvalidVersion:
        return one == other
