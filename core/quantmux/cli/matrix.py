"""matrix: every kernel × scheme on a device, with tier, evidence, and the reason for every no."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantmux._version import __version__
from quantmux.capability.detect import HERE_CPU, detect_devices
from quantmux.capability.evidence import EvidenceLevel
from quantmux.capability.matrix import MatrixRow, matrix_dict, matrix_markdown, matrix_text
from quantmux.capability.matrix_fold import fold, is_of_interest
from quantmux.capability.matrix_page import DeviceMatrix, matrix_page
from quantmux.cli._matrix_rows import matrix_rows, questions
from quantmux.cli._options import AsJson, InstalledOnly, PluginsFile
from quantmux.cli._render import print_json
from quantmux.cli._session import find_device, open_context
from quantmux.errors import ConfigError
from quantmux.registry.default import default_registry

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile


class Format(StrEnum):
    """How the matrix is printed."""

    TEXT = "text"
    MD = "md"
    JSON = "json"


def matrix(
    *,
    device: Annotated[
        list[str] | None,
        typer.Option(
            "--device",
            "-d",
            metavar="NAME",
            help="A device; several times for several. Default: the one here.",
        ),
    ] = None,
    scheme: Annotated[
        list[str] | None,
        typer.Option(
            "--scheme", "-s", metavar="NAME", help="Only this scheme or operand; may be repeated."
        ),
    ] = None,
    op: Annotated[
        str | None, typer.Option("--op", metavar="OP", help="Only kernels of this op.")
    ] = None,
    show_all: Annotated[
        bool,
        typer.Option("--all", help="Print the rows of kernels never made for the scheme, too."),
    ] = False,
    format_: Annotated[Format, typer.Option("--format", help="JSON has every row.")] = Format.TEXT,
    level: Annotated[
        EvidenceLevel | None,
        typer.Option(
            "--level", help="Only kernels whose evidence reaches it; stale evidence does not."
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="FILE",
            help="Write one page that needs nothing else; without --device, of every known device.",
        ),
    ] = None,
    installed_only: InstalledOnly = False,
    plugins: PluginsFile = None,
    as_json: AsJson = False,
) -> None:
    """Show which kernel serves which scheme on a device, how far that is proved, and why not.

    Asked at N = K = 4096 in bf16, a multiple of everything: what another shape changes, `explain`
    tells.
    """
    if as_json and format_ is Format.MD:
        raise ConfigError("--json and --format md ask for different things", code="usage")
    if html is not None and (as_json or format_ is not Format.TEXT):
        raise ConfigError("--html and another format ask for different things", code="usage")
    context = open_context(plugins, installed_only=installed_only)
    asked = questions(scheme or (), op.replace("-", "_") if op else None)
    found = []
    for profile in _devices(device, everything=html is not None):
        rows = matrix_rows(context, profile, asked)
        problems = context.inventory(profile).evidence_problems
        found.append(DeviceMatrix(profile, tuple(rows), problems))
    if level is not None:
        found = _reaching(found, level)
    if html is not None:
        _write(html, found)
    elif as_json or format_ is Format.JSON:
        answers = [matrix_dict(each.device, each.rows, each.problems) for each in found]
        print_json(answers[0] if len(answers) == 1 else {"devices": answers})
    else:
        print("\n\n".join(_page(each, format_, show_all) for each in found))


def _devices(names: list[str] | None, *, everything: bool) -> list[DeviceProfile]:
    if names:
        return [find_device(name) for name in names]
    if not everything:
        return [find_device(None)]
    here = {device.name: device for device in (HERE_CPU, *reversed(detect_devices()))}
    return list({**default_registry().profiles(), **here}.values())


def _reaching(found: list[DeviceMatrix], level: EvidenceLevel) -> list[DeviceMatrix]:
    """Keep the rows that reach a level, on any of the devices: rows stand beside each other."""
    kept = [
        any(answer.evidence.holds(level) for answer in answers)
        for answers in zip(*(each.rows for each in found), strict=True)
    ]
    return [
        replace(each, rows=tuple(row for row, keep in zip(each.rows, kept, strict=True) if keep))
        for each in found
    ]


def _write(file: Path, found: list[DeviceMatrix]) -> None:
    page = matrix_page(found, version=__version__, date=datetime.now(UTC).date().isoformat())
    try:
        file.expanduser().write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be written",
            facts=[error.strerror or str(error)],
            hint="--html takes a file in a folder that exists",
            code="usage",
        ) from None
    kernels = len({row.id for each in found for row in each.rows})
    size = len(page.encode()) / 1000
    print(f"wrote {file}: {kernels} kernels on {len(found)} devices, {size:.0f} kB")


def _page(found: DeviceMatrix, format_: Format, show_all: bool) -> str:
    offered = [row for row in found.rows if show_all or is_of_interest(row)]
    shown = offered if show_all else _folded(offered)
    render = matrix_markdown if format_ is Format.MD else matrix_text
    text = render(found.device, shown, found.problems)
    hidden = len(found.rows) - len(offered)
    if hidden:
        text = (
            f"{text.rstrip()}\n\n{hidden} rows of kernels that do not offer the scheme at all "
            "are left out; --all prints them, and every layout on a row of its own"
        )
    return text


def _folded(rows: list[MatrixRow]) -> list[MatrixRow]:
    return [replace(row.answers[0], scheme=row.label) for row in fold([rows])]
