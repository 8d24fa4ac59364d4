"""What ``quantmux doctor`` says of this backend: compiler, headers, folders, libraries."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from quantmux.errors import QuantmuxError
from quantmux.registry.kernel_spec import BackendStatus
from quantmux_cutlass.availability import THERE
from quantmux_cutlass.build.library import build_mode
from quantmux_cutlass.build.settings import cache_folder, prebuilt_folder
from quantmux_cutlass.build.state import State, state_of
from quantmux_cutlass.build.toolchain import Missing, can_build, find_toolchain, target_for
from quantmux_cutlass.catalog import all_units

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux_cutlass.build.toolchain import Toolchain


def status_on(device: DeviceProfile) -> BackendStatus:
    """Give the status: ``unavailable`` where no library is here and none can be compiled."""
    toolchain = find_toolchain()
    details = _tools(toolchain)
    try:
        details["libraries in"] = str(cache_folder())
        prebuilt = prebuilt_folder()
        if prebuilt is not None:
            details["prebuilt in"] = str(prebuilt)
        details["build"] = build_mode()
    except QuantmuxError as error:
        return BackendStatus("unavailable", (error.headline, *error.facts), error.hint, details)
    if not device.is_cuda:
        reason = f"CUDA kernels run on NVIDIA GPUs, the device is {device.name}"
        return BackendStatus("unavailable", (reason,), None, details)
    return _of_libraries(device, toolchain, details)


def _of_libraries(
    device: DeviceProfile, toolchain: Toolchain | Missing, details: dict[str, str]
) -> BackendStatus:
    wanted = [(u, t) for u in all_units() if (t := target_for(u, device.arch)) is not None]
    if not wanted:
        reason = f"no kernel for {device.arch}"
        return BackendStatus("unavailable", (reason,), None, details)
    counts = Counter(str(state_of(unit, target)[0]) for unit, target in wanted)
    details["libraries"] = f"{len(wanted)} for {device.arch}: " + ", ".join(
        f"{count} {state}" for state, count in counts.items()
    )
    if any(counts[str(state)] for state in THERE):
        return BackendStatus(hint=_what_is_left(counts), details=details)
    refusals = [can_build(unit, target, toolchain) for unit, target in wanted]
    given = [refusal for refusal in refusals if refusal is not None]
    if len(given) < len(refusals):
        return BackendStatus(hint=_what_is_left(counts), details=details)
    reasons = tuple(dict.fromkeys(f"{r.field} {r.text}" for r in given))
    hints = dict.fromkeys(r.hint for r in given if r.hint)
    return BackendStatus("unavailable", reasons, "; ".join(hints) or None, details)


def _what_is_left(counts: Counter[str]) -> str | None:
    """Give what a user may do beforehand, or should look at; None when all is there."""
    if counts[State.FAILED]:
        return "quantmux build cutlass --list says why libraries do not compile"
    missing = counts[State.MISSING]
    if not missing:
        return None
    words = "library is" if missing == 1 else "libraries are"
    return f"quantmux build cutlass; else {missing} {words} compiled when first needed"


def _tools(toolchain: Toolchain | Missing) -> dict[str, str]:
    if isinstance(toolchain, Missing):
        return {"nvcc": "; ".join(toolchain.reasons)}
    found = {
        "nvcc": f"{toolchain.nvcc_version} at {toolchain.nvcc}",
        "host compiler": toolchain.host,
    }
    if toolchain.headers is not None:
        found["cutlass"] = (
            f"{toolchain.headers_version or 'version not named'} at {toolchain.headers}"
        )
    return found
