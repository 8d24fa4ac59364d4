"""Result files: ``<date>-<device>-<name>.json``, written whole or not at all."""

from __future__ import annotations

import json
import re
import tempfile
from typing import TYPE_CHECKING, Any, Protocol

from quantmux.errors import ConfigError
from quantmux.registry.row_files import write_whole

if TYPE_CHECKING:
    from pathlib import Path


class Result(Protocol):
    """A run's result that can be written: `rows.Report`, or another's of the same keys."""

    @property
    def device(self) -> str:
        """Short name of the device."""
        ...

    @property
    def date(self) -> str:
        """Day, ISO 8601."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON-ready data, its rows under ``rows``."""
        ...


def write_report(report: Result, target: Path, name: str) -> Path:
    """Write a report; gives the file.

    Args:
        report: What was found.
        target: A file ending in ``.json``, or a folder for ``<date>-<device>-<name>.json``.
        name: What was measured, for the name of a file.

    Raises:
        ConfigError: It cannot be written.
    """
    file = target
    if target.suffix != ".json":
        stem = re.sub(r"[^a-z0-9_.+]+", "-", name.lower()).strip("-")
        file = target / f"{report.date}-{report.device}-{stem}.json"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, _text(report.to_dict()))
    except OSError as error:
        raise ConfigError(
            f"cannot write {file}", facts=[error.strerror or str(error)], code="unwritable"
        ) from None
    return file


def check_target(target: Path) -> None:
    """Refuse what `write_report` could not write, before minutes are spent on it.

    Raises:
        ConfigError: No file can be made there.
    """
    folder = target.parent if target.suffix == ".json" else target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"cannot write into {folder}", facts=[error.strerror or str(error)], code="unwritable"
        ) from None


def _text(data: dict[str, Any]) -> str:
    """Give the JSON with one row a line, so that results can be compared line by line."""
    rows = [json.dumps(row, separators=(",", ":"), allow_nan=False) for row in data.pop("rows")]
    head = json.dumps(data, indent=1, allow_nan=False).removesuffix("\n}")
    return head + ',\n "rows": [\n' + ",\n".join(rows) + "\n ]\n}\n"
