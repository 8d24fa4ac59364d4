"""matrix: every kernel × scheme on a device, with tier, evidence, and the reason for every no."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from quantmux.capability.matrix import MatrixRow, matrix_dict, matrix_markdown, matrix_text
from quantmux.capability.rejection import RejectionCode
from quantmux.cli._matrix_rows import matrix_rows, questions
from quantmux.cli._options import AsJson, InstalledOnly, PluginsFile
from quantmux.cli._render import print_json
from quantmux.cli._session import find_device, open_context
from quantmux.errors import ConfigError

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile

_NOT_MADE_FOR: Final = (
    RejectionCode.SCHEME,
    RejectionCode.OPERAND,
    RejectionCode.LAYOUT,
    RejectionCode.SCALE_ROUNDING,
)


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
    installed_only: InstalledOnly = False,
    plugins: PluginsFile = None,
    as_json: AsJson = False,
) -> None:
    """Show which kernel serves which scheme on a device, and why the others do not.

    Asked at N = K = 4096 in bf16, a multiple of everything: what another shape changes, `explain`
    tells.
    """
    if as_json and format_ is Format.MD:
        raise ConfigError("--json and --format md ask for different things", code="usage")
    context = open_context(plugins, installed_only=installed_only)
    asked = questions(scheme or (), op.replace("-", "_") if op else None)
    names: list[str | None] = [*device] if device else [None]
    devices = [find_device(name) for name in names]
    found = [(profile, matrix_rows(context, profile, asked)) for profile in devices]
    if as_json or format_ is Format.JSON:
        answers = [matrix_dict(profile, rows) for profile, rows in found]
        print_json(answers[0] if len(answers) == 1 else {"devices": answers})
        return
    print("\n\n".join(_page(profile, rows, format_, show_all) for profile, rows in found))


def _page(device: DeviceProfile, rows: list[MatrixRow], format_: Format, show_all: bool) -> str:
    offered = rows if show_all else [row for row in rows if _is_of_interest(row)]
    shown = rows if show_all else _folded(offered)
    text = matrix_markdown(device, shown) if format_ is Format.MD else matrix_text(device, shown)
    hidden = len(rows) - len(offered)
    if hidden:
        text = (
            f"{text.rstrip()}\n\n{hidden} rows of kernels that do not offer the scheme at all "
            "are left out; --all prints them, and every layout on a row of its own"
        )
    return text


def _folded(rows: list[MatrixRow]) -> list[MatrixRow]:
    """Put the layouts of one operand that a kernel answers alike on one row."""
    groups: dict[tuple[Any, ...], list[MatrixRow]] = {}
    for row in rows:
        operand = row.scheme.partition(" ")[0]
        key = (row.id, operand, row.tier, row.eligible, row.rejections, row.evidence)
        groups.setdefault(key, []).append(row)
    return [
        same[0] if len(same) == 1 else replace(same[0], scheme=f"{key[1]} ({len(same)} layouts)")
        for key, same in groups.items()
    ]


def _is_of_interest(row: MatrixRow) -> bool:
    return row.eligible or not any(r.code in _NOT_MADE_FOR for r in row.rejections)
