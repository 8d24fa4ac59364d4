"""What ``quantmux doctor`` says of this backend: release, modules, what can be called."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from quantmux.capability.needs import needs_rejections
from quantmux.capability.rejection import RejectionCode
from quantmux.errors import QuantmuxError
from quantmux.registry.kernel_spec import BackendStatus
from quantmux_flashinfer.availability import why_not
from quantmux_flashinfer.catalog import functions, offers
from quantmux_flashinfer.jit.library_units import library_units
from quantmux_flashinfer.jit.place import find_place
from quantmux_flashinfer.jit.settings import build_mode
from quantmux_flashinfer.jit.toolchain import find_toolchain
from quantmux_flashinfer.needs import FLASHINFER, needs_of
from quantmux_flashinfer.surface.installed import installed_folder, installed_surface

if TYPE_CHECKING:
    from quantmux.capability.arch import Arch
    from quantmux.capability.device import DeviceProfile
    from quantmux.capability.rejection import Rejection
    from quantmux_flashinfer.entries import Offer


def status_on(device: DeviceProfile) -> BackendStatus:
    """Give the status: ``unavailable`` where no kernel here could be called, with every reason.

    Reads files and metadata; imports nothing of the library and asks no network.
    """
    details = {**_release(), **_tools()}
    try:
        details["build"] = build_mode()
        place = find_place()
    except QuantmuxError as error:
        return BackendStatus("unavailable", (error.headline, *error.facts), error.hint, details)
    if place is not None:
        details["modules in"] = str(place.cache / place.version)
    reasons = [r.text for r in needs_rejections([FLASHINFER])]
    if not device.is_cuda:
        reasons.append(f"FlashInfer runs on NVIDIA GPUs, the device is {device.name}")
    elif not _for(device.arch):
        reasons.append(f"no kernel for {device.arch}")
    if reasons:
        hint = FLASHINFER.install if needs_rejections([FLASHINFER]) else None
        return BackendStatus("unavailable", tuple(reasons), hint, details)
    return _of_kernels(device.arch, details)


def _release() -> dict[str, str]:
    surface, folder = installed_surface(functions()), installed_folder()
    if surface is None or folder is None:
        return {"flashinfer-python": "not installed"}
    return {"flashinfer-python": f"{surface.version or 'version not named'} at {folder}"}


def _tools() -> dict[str, str]:
    found = find_toolchain()
    nvcc = f"{found.version or 'version not named'} at {found.nvcc}" if found.nvcc else "not found"
    return {
        "nvcc": nvcc,
        "ninja": found.ninja or "not found",
        "host compiler": found.host or "not found",
    }


def _for(arch: Arch) -> list[Offer]:
    return [o for o in offers() if any(arch in archs for archs in o.spec.capability.arch)]


def _of_kernels(arch: Arch, details: dict[str, str]) -> BackendStatus:
    serving = _for(arch)
    refusals = [r for o in serving if (r := _refusal(o, arch)) is not None]
    callable_ = len(serving) - len(refusals)
    details["kernels"] = f"{len(serving)} for {arch}: {callable_} can be called"
    modules = Counter(unit.state for unit in library_units() if unit.runs_on(arch))
    if modules:
        details["modules"] = f"{modules.total()} for {arch}: " + ", ".join(
            f"{count} {state}" for state, count in modules.items()
        )
    reasons = tuple(dict.fromkeys(r.text for r in refusals))
    hints = dict.fromkeys(r.hint for r in refusals if r.hint)
    # what is only not compiled does not take the backend away: each kernel says so by itself
    can_be_compiled = any(r.code == RejectionCode.NOT_BUILT for r in refusals)
    if not callable_ and not can_be_compiled:
        return BackendStatus("unavailable", reasons, "; ".join(hints) or None, details)
    if not reasons:
        return BackendStatus(hint=_what_is_left(modules), details=details)
    # some kernels work: what the others lack is still what a user wants to be told
    left = _what_is_left(modules)
    steps = [*([left] if left else []), *hints]
    found = (details["kernels"], *reasons)
    return BackendStatus("ok", found, "; ".join(dict.fromkeys(steps)) or None, details)


def _refusal(offer: Offer, arch: Arch) -> Rejection | None:
    """Give why a kernel cannot be called on this machine, whatever is asked of it."""
    missing = needs_rejections(needs_of(offer.entry))
    return missing[0] if missing else why_not(offer.entry, arch, functions())


def _what_is_left(modules: Counter[str]) -> str | None:
    """Give what a user may do beforehand, or should look at; None when all is there."""
    if modules["failed"]:
        return "quantmux build flashinfer --list says why modules do not compile"
    missing = modules["missing"]
    if not missing:
        return None
    if build_mode() == "never":
        return 'quantmux build flashinfer; nothing else compiles them under build = "never"'
    words = "module is" if missing == 1 else "modules are"
    return f"quantmux build flashinfer; else {missing} {words} compiled when first needed"
