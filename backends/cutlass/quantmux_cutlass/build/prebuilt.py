"""Folders of libraries for hosts that have no compiler."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from quantmux.errors import BuildError
from quantmux_cutlass.build.entries import Entry, publish
from quantmux_cutlass.build.known import know
from quantmux_cutlass.build.refusals import disk_refused
from quantmux_cutlass.build.work import work_folder

if TYPE_CHECKING:
    from pathlib import Path

    from quantmux_cutlass.units import Unit


def export(unit: Unit, target: str, folder: Path) -> Entry:
    """Copy a library that is built into a folder that option ``prebuilt`` may name; gives the copy.

    The folder serves every host with the same sources of quantmux, whatever compiler made the
    library there and whatever compiler is here.

    Args:
        unit: What it is compiled from.
        target: One of its targets.
        folder: Where to; made when it is not there.

    Raises:
        BuildError: It is not built (code ``not_built``), not whole (``truncated``, ``abi``), or the
            folder cannot be written (``disk``, ``cache``).
    """
    known = know(unit, target)
    entry = known.cached() or known.prebuilt()
    if entry is None:
        raise BuildError(
            f"{unit.name} is not built for {target}",
            hint="quantmux build cutlass",
            code="not_built",
        )
    problem = entry.problem()
    if problem is not None:
        code, reason = problem
        raise BuildError(f"{entry.folder} is not whole", facts=[reason], code=code)
    place = folder / entry.folder.name
    if place.resolve() == entry.folder.resolve():
        return entry
    try:
        with work_folder(folder) as work:
            copy = work / "copy"
            shutil.copytree(entry.folder, copy)
            publish(copy, place, replace=True)
        _remove_if_empty(folder / "work")
    except OSError as error:
        raise disk_refused(unit, target, folder, error) from error
    return Entry(place, entry.record)


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:  # somebody else works there
        return
