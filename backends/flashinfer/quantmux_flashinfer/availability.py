"""Whether what a kernel calls is here and works: the veto that all kernels of this backend share.

Asked of the device in this machine only: for a named profile the library is assumed, and listed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version

from quantmux.capability.needs import module_exists, package_version
from quantmux.capability.rejection import Rejection, RejectionCode
from quantmux_flashinfer.cubins import cubins_rejection
from quantmux_flashinfer.jit import states
from quantmux_flashinfer.surface import compare
from quantmux_flashinfer.surface.installed import DISTRIBUTION, installed_surface

if TYPE_CHECKING:
    from quantmux.capability.arch import Arch
    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LayerConfig
    from quantmux_flashinfer.entries import Entry, Offer
    from quantmux_flashinfer.surface.declared import Surface

    Veto = Callable[[LayerConfig, DeviceProfile], Rejection | None]

IMPORTS: Final = (
    ("apache-tvm-ffi", "tvm_ffi"),
    ("numpy", "numpy"),
    ("nvidia-ml-py", "pynvml"),
    ("packaging", "packaging"),
    ("requests", "requests"),
    ("tqdm", "tqdm"),
)
"""What every release named in the plugin's needs imports when it is imported itself, beside torch:
distribution and module. An installation with ``--no-deps`` may lack some."""

_answers: Final[dict[tuple[Entry, int | None], tuple[Surface, Rejection | None]]] = {}


def veto(offer: Offer, functions: frozenset[str]) -> Veto:
    """Give the kernel's own veto, and after it the question for the library.

    Args:
        offer: The kernel and what it calls.
        functions: Every function of this backend, so that the library's files are read once.
    """
    own, entry = offer.spec.veto, offer.entry

    def answer(config: LayerConfig, device: DeviceProfile) -> Rejection | None:
        found = own(config, device) if own is not None else None
        if found is not None or not device.is_present or not device.is_cuda:
            return found
        return why_not(entry, device.arch, functions)

    return answer


def why_not(entry: Entry, arch: Arch, functions: frozenset[str]) -> Rejection | None:
    """Tell why an entry cannot be called on this machine, None when it can.

    In this order: the installed release, what it imports, packages beyond it, precompiled files,
    modules that are to be compiled.
    """
    surface = installed_surface(functions)
    if surface is None:
        return Rejection(
            RejectionCode.NEEDS_PACKAGE,
            DISTRIBUTION,
            "installed",
            "no package flashinfer whose files can be read",
            "pip install 'quantmux[flashinfer]'",
        )
    refused = _compared(surface, entry, arch) or _not_imported() or _packages(entry)
    if refused is None and entry.cubins:
        refused = cubins_rejection(surface)
    if refused is not None:
        return refused
    reasons = (states.why_not(name, arch) for name in entry.modules_on(arch))
    return next((reason for reason in reasons if reason is not None), None)


def _compared(surface: Surface, entry: Entry, arch: Arch) -> Rejection | None:
    """Give `compare.why_not`, remembered: selection asks it again for every layer."""
    key = entry, arch.sm
    known = _answers.get(key)
    if known is None or known[0] is not surface:
        known = _answers[key] = surface, compare.why_not(surface, entry, arch)
    return known[1]


def _not_imported() -> Rejection | None:
    missing = [name for name, module in IMPORTS if not module_exists(module)]
    if not missing:
        return None
    return Rejection(
        RejectionCode.NEEDS_PACKAGE,
        missing[0],
        f"{', '.join(missing)} for import flashinfer",
        "not installed",
        "pip install " + " ".join(missing),
    )


def _packages(entry: Entry) -> Rejection | None:
    """Hold the packages of an entry against the versions that the installed release asks for."""
    asked = _asked_for()
    for name, _module in entry.packages:
        requirement, version = asked.get(name.lower()), package_version(name)
        if requirement is None or version is None:
            continue
        try:
            fits = requirement.specifier.contains(Version(version), prereleases=True)
        except InvalidVersion:
            fits = False
        if not fits:
            return Rejection(
                RejectionCode.NEEDS_PACKAGE,
                name,
                f"{requirement.specifier} for this flashinfer-python",
                version,
                f"pip install '{requirement.name}{requirement.specifier}'",
            )
    return None


@cache
def _asked_for() -> dict[str, Requirement]:
    """Give what the metadata of the installed release asks for, its extras left out."""
    try:
        lines = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return {}
    found: dict[str, Requirement] = {}
    for line in lines:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        if requirement.marker is None:
            found[requirement.name.lower()] = requirement
    return found


def forget() -> None:
    """Look again at the next question, after something was installed."""
    _asked_for.cache_clear()
    _answers.clear()
