"""A run of the grid as it is kept: read again to be judged anew, or to be recorded elsewhere.

Unlike other results it holds the digests and versions of what was run, so that its times can be
recorded on another machine than the one that took them.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from quantmux.bench.record import PACKAGE
from quantmux.bench.rows import Report, Row
from quantmux.config import LinearConfig
from quantmux.dispatch.tuning import TuningRow, tuning_key
from quantmux.dispatch.tuning_files import record_tuning
from quantmux.errors import ConfigError
from quantmux.registry.digest import kernel_digest
from quantmux.registry.ledger import versions_here
from quantmux.registry.row_files import write_whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux.registry.manager import Registry

_ALWAYS: Final = frozenset(
    (
        *("op", "case", "kernel", "kind", "part", "status"),
        *("us", "gb_s", "tflops", "pct_of_ceiling", "peer", "peer_us", "ratio", "aa_noise"),
    )
)
"""Keys that a row of every result has."""

_BLANK: Final = Row("", "", "").to_dict()


@dataclass(frozen=True, slots=True)
class KeptRun:
    """A run and what its times depend on.

    Attributes:
        report: Rows and their circumstances.
        digests: Kernel id → digest of what was run.
        needs: Kernel id → package → version that it ran with.
    """

    report: Report
    digests: Mapping[str, str]
    needs: Mapping[str, Mapping[str, str]]

    @classmethod
    def of(cls, report: Report, registry: Registry) -> KeptRun:
        """Give the run of this process, just measured.

        Raises:
            ConfigError: Sources changed during the run: nobody knows what was timed.
        """
        ran = {name for row in report.rows for name in row.pipeline}
        specs = [spec for spec in registry.kernels if spec.id in ran]
        for spec in specs:
            folder = registry.folder(spec.backend)
            if kernel_digest.__wrapped__(spec, folder) != kernel_digest(spec, folder):
                raise ConfigError(
                    f"the times of {spec.id} cannot be kept",
                    facts=["its sources changed during the run"],
                    hint="measure again",
                    code="changed",
                )
        return cls(
            report,
            {spec.id: _digest(spec, registry) for spec in specs},
            {spec.id: versions_here(spec) for spec in specs},
        )

    @property
    def kernels(self) -> frozenset[str]:
        """Ids of all kernels that took part."""
        return frozenset(name for row in self.report.rows for name in row.pipeline)

    def to_dict(self) -> dict[str, Any]:
        """Give the run as JSON-ready data; what says nothing is left out of its many rows."""
        needs = {name: dict(versions) for name, versions in self.needs.items()}
        data = self.report.to_dict()
        data["rows"] = [
            {key: value for key, value in row.items() if key in _ALWAYS or value != _BLANK[key]}
            for row in data["rows"]
        ]
        return {**data, "digests": dict(self.digests), "needs": needs}

    def tuning_rows(self) -> list[TuningRow]:
        """Give the times as selection reads them: of pipelines that it compares.

        Raises:
            ConfigError: The digest of a kernel is not in the run.
        """
        return [self._tuning(row) for row in self.report.rows if _counts(row)]

    def _tuning(self, row: Row) -> TuningRow:
        config = LinearConfig(out_features=row.n, in_features=row.k, scheme=row.scheme)
        scheme, n, k = tuning_key(config)
        missing = [name for name in row.pipeline if name not in self.digests]
        if missing:
            raise ConfigError(
                f"the digest of {missing[0]} is not in the run: what was timed is not known",
                code="tuning",
            )
        names = dict.fromkeys(row.pipeline)
        versions = {
            name: version for one in names for name, version in self.needs.get(one, {}).items()
        }
        if "triton" in self.report.versions:
            versions["triton"] = self.report.versions["triton"]
        return TuningRow(
            pipeline=row.pipeline,
            scheme=scheme,
            n=n,
            k=k,
            m=row.m,
            us=round(row.us or 0.0, 4),
            noise=round(row.noise, 4),
            digests=tuple(sorted((name, self.digests[name]) for name in names)),
            versions=tuple(sorted(versions.items())),
            date=self.report.date,
        )

    def record(
        self, registry: Registry, target: Path | str, rows: Sequence[TuningRow] | None = None
    ) -> list[Path]:
        """Record the times where selection reads them; gives the files.

        Args:
            registry: The plugins.
            target: A folder that holds ``tuning``, or `PACKAGE`: each row into the package whose
                kernel ends its pipeline.
            rows: These in place of the run's own, of the same kernels.

        Raises:
            ConfigError: A kernel is another than the one that was timed, or the run was only a
                quick one; nothing is written then.
            QuantmuxError: A folder cannot be written.
        """
        if self.report.protocol.get("quick"):
            raise ConfigError(
                "a quick run is not recorded: its rounds are too short to rank by",
                hint="leave --quick out",
                code="usage",
            )
        given = self.tuning_rows() if rows is None else rows
        _check_kernels(given, registry)
        timed: dict[Path, list[TuningRow]] = defaultdict(list)
        for row in given:
            timed[_folder(target, row.pipeline[-1], registry)].append(row)
        device = self.report.device
        return [record_tuning(rows, device, folder / "tuning") for folder, rows in timed.items()]


def read_run(file: Path) -> KeptRun:
    """Read a run that was written before.

    Raises:
        ConfigError: There is none, or it is no such file.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read {file.name}", facts=[error.strerror or str(error)], code="usage"
        ) from None
    except ValueError as error:
        raise ConfigError(f"{file.name} is no result", facts=[str(error)], code="usage") from None
    keys = ("device", "title", "date", "versions", "ceilings", "rows")
    missing = [key for key in keys if not isinstance(data, dict) or key not in data]
    if missing:
        raise ConfigError(
            f"{file.name} is no result of a bench", facts=[f"it lacks {missing[0]}"], code="usage"
        )
    report = Report(
        device=data["device"],
        title=data["title"],
        date=data["date"],
        versions=dict(data["versions"]),
        ceilings=dict(data["ceilings"]),
        rows=[Row.of(row) for row in data["rows"]],
        protocol=dict(data.get("protocol", {})),
        command=str(data.get("command", "")),
    )
    return KeptRun(report, dict(data.get("digests", {})), dict(data.get("needs", {})))


def write_run(file: Path, data: dict[str, Any]) -> None:
    """Write a run and what was found in it, one row a line.

    Raises:
        ConfigError: It cannot be written.
    """
    rows = [json.dumps(row, separators=(",", ":"), allow_nan=False) for row in data["rows"]]
    cells = [json.dumps(c, separators=(",", ":"), allow_nan=False) for c in data.get("cells", [])]
    head = {key: value for key, value in data.items() if key not in ("rows", "cells")}
    text = json.dumps(head, indent=1, allow_nan=False).removesuffix("\n}")
    text += ',\n "cells": [\n' + ",\n".join(cells) + '\n ],\n "rows": [\n' + ",\n".join(rows)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, text + "\n ]\n}\n")
    except OSError as error:
        raise ConfigError(
            f"cannot write {file.name}", facts=[error.strerror or str(error)], code="unwritable"
        ) from None


def without_shape(rows: Iterable[TuningRow], n: int, k: int) -> list[TuningRow]:
    """Give the rows of all other shapes: what is known of a shape that nobody measured."""
    return [row for row in rows if (row.n, row.k) != (n, k)]


def _counts(row: Row) -> bool:
    is_whole = row.kind == "kernel" and row.part == "pipeline" and not row.env
    return is_whole and row.op == "linear" and bool(row.us) and row.status == "ok"


def _check_kernels(rows: Iterable[TuningRow], registry: Registry) -> None:
    specs = {spec.id: spec for spec in registry.kernels}
    ran = {kernel for row in rows for kernel in row.digests}
    for name, digest in sorted(ran):
        spec = specs.get(name)
        here = "" if spec is None else _digest(spec, registry)
        if here != digest:
            raise ConfigError(
                f"the times of {name} are not recorded: it is another kernel here",
                facts={"digest of the run": digest, "here": here or "none"},
                hint="measure again",
                code="changed",
            )


def _folder(target: Path | str, kernel: str, registry: Registry) -> Path:
    from pathlib import Path

    if target != PACKAGE:
        return Path(target)
    backend = kernel.partition("/")[0]
    folder = registry.folder(backend)
    if folder is None:
        raise ConfigError(
            f"the package of {backend} is not in files", hint="record into a folder", code="usage"
        )
    return folder


def _digest(spec: KernelSpec, registry: Registry) -> str:
    return kernel_digest(spec, registry.folder(spec.backend))
