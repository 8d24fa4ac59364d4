"""What compiled a kernel's libraries: evidence names it, and holds for that release only."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from quantmux.errors import QuantmuxError
from quantmux_cutlass.build.known import know
from quantmux_cutlass.build.toolchain import Toolchain, find_toolchain

if TYPE_CHECKING:
    from quantmux_cutlass.build.entries import Record
    from quantmux_cutlass.units import Unit

_KEPT_S: Final = 2.0
"""A selection asks once for every measured row; looking at files each time would take seconds."""

_kept: Final[dict[tuple[Unit, ...], tuple[float, dict[str, str]]]] = {}


def compiled_by(units: tuple[Unit, ...]) -> dict[str, str]:
    """Give the versions of nvcc and, where a unit needs them, of the CUTLASS headers.

    Of the libraries that would be loaded; of what would compile them where there are none; {}
    where neither is here.
    """
    now = time.monotonic()
    then, known = _kept.get(units, (-_KEPT_S, {}))
    if now - then >= _KEPT_S:
        known = _look(units)
        _kept[units] = now, known
    return dict(known)


def forget() -> None:
    """Look again at the next question."""
    _kept.clear()


def _look(units: tuple[Unit, ...]) -> dict[str, str]:
    record = next((r for unit in units for t in unit.targets if (r := _record(unit, t))), None)
    toolchain = find_toolchain()
    if record is not None:
        nvcc, cutlass = record.nvcc, record.cutlass
    elif isinstance(toolchain, Toolchain):
        nvcc, cutlass = toolchain.nvcc_version, toolchain.headers_version or ""
    else:
        return {}
    needs_headers = any(unit.cutlass for unit in units)
    found = {"nvcc": nvcc, "cutlass": cutlass if needs_headers else ""}
    return {name: version for name, version in found.items() if version}


def _record(unit: Unit, target: str) -> Record | None:
    try:
        known = know(unit, target)
        entry = known.cached() or known.prebuilt()
    except QuantmuxError:  # an option names no folder: the probe says so
        return None
    return None if entry is None else entry.record
