"""Whether the packages and tools that a kernel needs are on this machine.

Looks at installed metadata and at files. Imports nothing, asks no network.
"""

from __future__ import annotations

import os
import shutil
from functools import cache
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Final

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from quantmux.capability.rejection import Rejection, RejectionCode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from quantmux.capability.capability import Needs

# Folders whose bin/ holds CUDA's tools, in the order in which CUDA's own build scripts look.
_TOOL_ROOTS: Final = ("CUDA_HOME", "CUDA_PATH")


def needs_rejections(
    needs: Iterable[Needs], *, device_is_present: bool = True, installed_only: bool = False
) -> tuple[Rejection, ...]:
    """Give a rejection for every need that this machine does not meet.

    Args:
        needs: What the kernel needs.
        device_is_present: The device is in this machine. For a named profile packages and tools
            are assumed to be there; see `assumptions`.
        installed_only: Ask this machine even for a named profile.
    """
    if not device_is_present and not installed_only:
        return ()
    found = (_check(need) for need in needs)
    return tuple(rejection for rejection in found if rejection is not None)


def assumptions(
    needs: Iterable[Needs], *, device_is_present: bool = True, installed_only: bool = False
) -> tuple[str, ...]:
    """Give the needs that `needs_rejections` takes for met without looking, as text."""
    if device_is_present or installed_only:
        return ()
    return tuple(f"{need} is installed" for need in needs)


@cache
def package_version(name: str) -> str | None:
    """Give the installed version of a distribution, None when it has no metadata here."""
    try:
        return metadata.version(name)
    except (metadata.PackageNotFoundError, ValueError):
        return None


@cache
def module_exists(name: str) -> bool:
    """Tell whether a top-level module can be imported, without importing it.

    A bare folder of that name on the path is importable too, as a namespace package, but is not
    the library: the in-tree backends live in folders called torch and triton. Of a dotted name
    (``cuda.tile``) whose first part is shared by several packages, the rest is looked for.
    """
    top, _, rest = name.partition(".")
    try:
        spec = util.find_spec(top)
    except (ImportError, ValueError, AttributeError):
        return False
    if spec is None:
        return False
    if spec.origin is not None:
        return spec.loader is not None
    inside = rest.replace(".", "/")
    files = (f"{inside}/__init__.py", f"{inside}.py") if rest else ()
    places = spec.submodule_search_locations or ()
    return any(Path(place, file).is_file() for place in places for file in files)


@cache
def find_tool(name: str) -> str | None:
    """Give the path of a program on PATH, in CUDA_HOME, or in NVIDIA's wheels; None without it."""
    found = shutil.which(name)
    if found:
        return found
    roots = [Path(os.environ[v]) for v in _TOOL_ROOTS if os.environ.get(v)]
    candidates = [root / "bin" / name for root in (*roots, *_wheel_roots())]
    return next((str(c) for c in candidates if os.access(c, os.X_OK) and c.is_file()), None)


def forget() -> None:
    """Drop what was found, after something was installed."""
    for cached in (package_version, module_exists, find_tool):
        cached.cache_clear()


def _wheel_roots() -> tuple[Path, ...]:
    try:
        spec = util.find_spec("nvidia")
    except (ImportError, ValueError):
        return ()
    places = spec.submodule_search_locations if spec else None
    return tuple(sorted(child for place in places or () for child in Path(place).glob("*")))


def _check(need: Needs) -> Rejection | None:
    if need.kind == "library":  # the plugin's veto looks for it
        return None
    return _tool(need) if need.kind == "tool" else _package(need)


def _tool(need: Needs) -> Rejection | None:
    if find_tool(need.name):
        return None
    return Rejection(
        code=RejectionCode.NEEDS_TOOL,
        field=need.name,
        required=f"{need.name} on PATH or in CUDA_HOME",
        actual="not found",
        hint=need.install or f"install {need.name}",
    )


def _package(need: Needs) -> Rejection | None:
    module = need.import_name or need.name.replace("-", "_")
    version = package_version(need.name)
    install = need.install or f"pip install '{need}'"
    if not module_exists(module):
        actual = "not installed" if version is None else f"{version}, but no module {module}"
        return _missing(need, actual, install)
    if not need.version:
        return None
    if version is None:
        return _missing(need, f"a module {module} of unknown version", install)
    try:
        # nightly builds count as what they lead to: 2.9.0.dev1 is newer than 2.8
        fits = SpecifierSet(need.version).contains(Version(version), prereleases=True)
    except (InvalidSpecifier, InvalidVersion) as error:
        return _missing(need, f"{version} ({error})", install)
    return None if fits else _missing(need, version, install)


def _missing(need: Needs, actual: str, install: str) -> Rejection:
    return Rejection(
        code=RejectionCode.NEEDS_PACKAGE,
        field=need.name,
        required=need.version or "installed",
        actual=actual,
        hint=install,
    )
