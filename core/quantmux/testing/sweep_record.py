"""A sweep's answers as evidence: of every kernel that was asked all there is to ask."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from quantmux.errors import ConfigError
from quantmux.registry.ledger import record_evidence
from quantmux.registry.user_folder import user_folder
from quantmux.testing.compile_evidence import compiled_rows
from quantmux.testing.record import evidence_rows, unrecorded
from quantmux.testing.sweep_journal import read_journal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from quantmux.capability.ledger import EvidenceRow
    from quantmux.registry.manager import Registry
    from quantmux.testing.sweep_result import SweepResult

USER: Final = "user"
PACKAGE: Final = "package"


@dataclass(frozen=True, slots=True)
class Recorded:
    """What was written.

    Attributes:
        files: Evidence files, each with the kernels of which it now has rows of this run.
        left_out: Kernel id → why the run is no evidence of it.
    """

    files: dict[Path, tuple[str, ...]]
    left_out: dict[str, str]


def record_sweep(result: SweepResult, where: str = USER) -> Recorded:
    """Record what a sweep has shown: on its device, and compiled for devices that are not here.

    Args:
        result: The sweep.
        where: ``user`` is the user's folder, ``package`` the folder of each plugin's package,
            else the path of a folder.

    Raises:
        ConfigError: A plugin's package has no folder that could hold evidence.
        QuantmuxError: A file cannot be written.
    """
    # compiled first: what was run says more of the same kernel on the same device
    files = dict(record_compiled(result, where).files)
    results = result.results
    days = _days(result)
    rows = [
        row.replace(date=min(row.date, days.get(row.kernel, row.date)))
        for row in evidence_rows(results, result.registry, result.device)
    ]
    _write(rows, result.device.name, where, result.registry, files)
    left_out = unrecorded(results, result.registry, result.device)
    recorded = {kernel for kernels in files.values() for kernel in kernels}
    return Recorded(files, {k: why for k, why in left_out.items() if k not in recorded})


def record_compiled(result: SweepResult, where: str = USER) -> Recorded:
    """Record what was compiled for which named GPU; see `record_sweep`."""
    files: dict[Path, tuple[str, ...]] = {}
    for device, compiled in compiled_rows(result.results, result.registry).items():
        _write(compiled, device, where, result.registry, files)
    return Recorded(files, {})


def _days(result: SweepResult) -> dict[str, str]:
    """Give the day of each kernel's oldest answer: those of an earlier run were not given today."""
    at = read_journal(result.journal).days
    days: dict[str, str] = {}
    for cell in result.cells:
        day = at.get(cell.id)
        if day:
            days[cell.kernel] = min(day, days.get(cell.kernel, day))
    return days


def _write(
    rows: Iterable[EvidenceRow],
    device: str,
    where: str,
    registry: Registry,
    files: dict[Path, tuple[str, ...]],
) -> None:
    by_folder: dict[Path, list[EvidenceRow]] = {}
    for row in rows:
        by_folder.setdefault(_folder(row.kernel, where, registry), []).append(row)
    for folder, own in by_folder.items():
        file = record_evidence(own, device, folder)
        files[file] = tuple(sorted({*files.get(file, ()), *(row.kernel for row in own)}))


def _folder(kernel: str, where: str, registry: Registry) -> Path:
    if where == USER:
        return user_folder() / "evidence"
    if where != PACKAGE:
        return Path(where)
    backend = kernel.partition("/")[0]
    folder = registry.folder(backend)
    if folder is None:
        raise ConfigError(
            f"the plugin {backend} is not in a package that could hold evidence",
            hint="record it into your own folder: --record",
            code="record",
        )
    return folder / "evidence"
