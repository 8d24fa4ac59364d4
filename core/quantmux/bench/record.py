"""Recording a run: measured times where selection reads them, and evidence that they were taken."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from quantmux.capability.evidence import EvidenceLevel
from quantmux.capability.ledger import EvidenceRow
from quantmux.dispatch.tuning import TuningRow, tuning_key
from quantmux.dispatch.tuning_files import record_tuning
from quantmux.errors import ConfigError
from quantmux.registry.digest import kernel_digest
from quantmux.registry.ledger import record_evidence, versions_here
from quantmux.registry.user_folder import user_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantmux.bench.rows import BenchCase, Report, Row
    from quantmux.capability.device import DeviceProfile
    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux.registry.manager import Registry

PACKAGE = "package"
"""In place of a folder: every row into the package whose kernel gives its result."""


def record(
    report: Report,
    cases: Sequence[BenchCase],
    registry: Registry,
    device: DeviceProfile,
    target: Path | str | None = None,
) -> list[Path]:
    """Record the pipelines of a run; gives the files of measured times.

    Only whole pipelines that agreed with the reference are there to be recorded. Each kernel that
    was timed is also told to the evidence ledger, which raises it to ``measured`` where it is
    verified.

    Args:
        report: What was found.
        cases: What was measured.
        registry: The plugins.
        device: Where.
        target: A folder that holds ``tuning`` and ``evidence``; `PACKAGE`; None is the user's.

    Raises:
        ConfigError: A host's times are to go into a package, the run was only a quick one, or
            sources changed during it: nothing is written then.
        QuantmuxError: A folder cannot be written.
    """
    check_record(device, target, quick=bool(report.protocol.get("quick")))
    specs = {spec.id: spec for spec in registry.kernels}
    configs = {case.name: case for case in cases}
    timed: dict[Path, list[TuningRow]] = defaultdict(list)
    kernels: dict[Path, set[str]] = defaultdict(set)
    for row in report.rows:
        case = configs.get(row.case)
        is_whole = row.kind == "kernel" and row.part == "pipeline" and not row.env
        if case is None or not is_whole or row.us is None or row.status != "ok":
            continue
        timed[_folder(target, row.pipeline[-1], registry)].append(
            _tuning(row, case, registry, specs, report)
        )
        for kernel in row.pipeline:
            kernels[_folder(target, kernel, registry)].add(kernel)
    for name in sorted(set().union(*kernels.values())):
        _check_unchanged(specs[name], registry)
    for folder, names in kernels.items():
        rows = [_evidence(specs[name], registry, device, report.date) for name in sorted(names)]
        record_evidence(rows, device.name, folder / "evidence")
    return [record_tuning(rows, device.name, folder / "tuning") for folder, rows in timed.items()]


def check_record(device: DeviceProfile, target: Path | str | None, *, quick: bool) -> None:
    """Refuse what would not be recorded, before minutes are spent on it.

    Raises:
        ConfigError: A host's times are to go into a package, or the run is only a quick one.
    """
    if quick:
        raise ConfigError(
            "a quick run is not recorded: its rounds are too short to rank by",
            hint="leave --quick or --record out",
            code="usage",
        )
    if target == PACKAGE and not device.is_cuda:
        raise ConfigError(
            "times of a host are not recorded into a package",
            facts=['"cpu" is no model of a processor: they hold for this machine only'],
            hint="leave PACKAGE out: they go to your own folder",
            code="usage",
        )


def _folder(target: Path | str | None, kernel: str, registry: Registry) -> Path:
    if target is None:
        return user_folder()
    if target != PACKAGE:
        return Path(target)
    backend = kernel.partition("/")[0]
    folder = registry.folder(backend)
    if folder is None:
        raise ConfigError(
            f"the package of {backend} is not in files", hint="record into a folder", code="usage"
        )
    return folder


def _tuning(
    row: Row,
    case: BenchCase,
    registry: Registry,
    specs: dict[str, KernelSpec],
    report: Report,
) -> TuningRow:
    scheme, n, k = tuning_key(case.config)
    digests = [(name, _digest(specs[name], registry)) for name in dict.fromkeys(row.pipeline)]
    versions = {name: version for name in row.pipeline for name, version in _needs(specs[name])}
    versions |= {name: report.versions[name] for name in ("triton",) if name in report.versions}
    return TuningRow(
        pipeline=row.pipeline,
        scheme=scheme,
        n=n,
        k=k,
        m=row.m,
        us=round(row.us or 0.0, 4),
        noise=round(row.noise, 4),
        digests=tuple(sorted(digests)),
        versions=tuple(sorted(versions.items())),
        date=report.date,
    )


def _evidence(
    spec: KernelSpec, registry: Registry, device: DeviceProfile, date: str
) -> EvidenceRow:
    return EvidenceRow(
        kernel=spec.id,
        digest=_digest(spec, registry),
        level=EvidenceLevel.MEASURED,
        date=date,
        driver=device.driver,
        versions=versions_here(spec),
    )


def _check_unchanged(spec: KernelSpec, registry: Registry) -> None:
    folder = registry.folder(spec.backend)
    if kernel_digest.__wrapped__(spec, folder) != kernel_digest(spec, folder):
        raise ConfigError(
            f"the times of {spec.id} are not recorded",
            facts=["its sources changed during the run: nobody knows which of them was timed"],
            hint="measure again",
            code="changed",
        )


def _digest(spec: KernelSpec, registry: Registry) -> str:
    return kernel_digest(spec, registry.folder(spec.backend))


def _needs(spec: KernelSpec) -> list[tuple[str, str]]:
    return list(versions_here(spec).items())
