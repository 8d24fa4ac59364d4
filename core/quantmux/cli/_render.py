"""What all verbs print with: consoles, JSON, tables, and the spelling of common things."""

from __future__ import annotations

import json
import os
import re
import sys
from typing import TYPE_CHECKING, Any, Final

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.table import Column

    from quantmux.capability.device import DeviceProfile
    from quantmux.capability.rejection import Rejection

_WIDTH: Final = 100
"""Columns where nobody is looking: a pipe, a file."""

_LEAST: Final = 24
"""Columns below which a text that folds is no longer read, but spelled."""

_BLANKS: Final = re.compile(r" +\n")

_STATE_STYLES: Final = {
    "ok": "green",
    "unavailable": "yellow",
    "failed": "bold red",
    "disabled": "dim",
}
_TIER_STYLES: Final = {
    "native": "green",
    "emulated": "cyan",
    "weight_only": "yellow",
    "reference": "yellow",
}


def out() -> Console:
    """Give the console of answers, stdout. Text is printed as it is: no markup, no guessing."""
    return _console(sys.stdout)


def err() -> Console:
    """Give the console of progress and warnings, stderr."""
    return _console(sys.stderr)


def _console(file: Any) -> Console:
    width = None
    if not file.isatty() and "COLUMNS" not in os.environ:
        width = _WIDTH
    trimmed: Any = _Trimmed(file)
    return Console(file=trimmed, width=width, markup=False, highlight=False, emoji=False)


class _Trimmed:
    """A stream without the blanks with which a table fills its lines: pages are copied."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, text: str) -> int:
        written: int = self._file.write(_BLANKS.sub("\n", text))
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def print_json(data: Any) -> None:
    """Print data as JSON, keys in the order given."""
    print(json.dumps(data, indent=2, allow_nan=False))


def print_error(text: str) -> None:
    """Print an error's message on stderr, its first line in red on a terminal."""
    head, _, rest = text.partition("\n")
    console = err()
    # one fact a line: a terminal wraps long ones, a log file keeps them whole
    console.print(Text(head, style="bold red"), soft_wrap=True)
    if rest:
        console.print(Text(rest), soft_wrap=True)


def warn(text: str) -> None:
    """Print one warning line on stderr."""
    err().print(Text(f"warning: {text}", style="yellow"), soft_wrap=True)


def table(*columns: str | tuple[str, str]) -> Table:
    """Give an empty table without rules; a column is a title, or (title, justification).

    The justification ``fold`` wraps instead of widening, ``right`` is for numbers.
    """
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        title, how = (column, "left") if isinstance(column, str) else column
        if how == "right":
            made.add_column(title, justify="right", no_wrap=True)
        elif how == "fold":
            made.add_column(title, overflow="fold")
        else:
            made.add_column(title, no_wrap=True)
    return made


def show_table(console: Console, rows: Table) -> None:
    """Print a table with all that it says: nothing is cut, and no column folds to a few letters.

    Where the console is too narrow for that, lines run over its edge, and a terminal wraps them.
    """
    gaps = 2 * (len(rows.columns) - 1)
    least = sum(_least(column) for column in rows.columns) + gaps
    if least > console.width:
        rows.width = least
    console.print(rows, crop=False)


def _least(column: Column) -> int:
    cells = (column.header, *column.cells)
    widest = max(cell_len(line) for cell in cells for line in str(cell).split("\n"))
    return widest if column.no_wrap else min(widest, _LEAST)


def heading(text: str) -> Text:
    """Give a line that opens a part of the answer."""
    return Text(f"\n{text}", style="bold")


def state_text(state: str) -> Text:
    """Give a plugin's state in its colour."""
    return Text(state, style=_STATE_STYLES.get(state, ""))


def tier_text(tier: object) -> Text:
    """Give a tier in its colour."""
    return Text(str(tier), style=_TIER_STYLES.get(str(tier), ""))


def device_line(device: DeviceProfile) -> str:
    """Name a device and tell whether it is here."""
    where = "" if device.is_present else ", a named device that is not here"
    return f"{device.title} ({device.arch}){where}"


def m_text(first: int, last: int | None) -> str:
    """Give a range of M, "" for all."""
    if last is None:
        return "" if first <= 1 else f"M >= {first}"
    return f"M = {first}" if first == last else f"M {first}..{last}"


def reason_text(rejection: Rejection) -> str:
    """Give need against value, and the Ms for which it holds if not all."""
    span = m_text(rejection.m_min, rejection.m_max)
    text = rejection.text
    return f"{span}: {text}" if span else text


def value_text(value: object) -> str:
    """Give a setting's value for a table."""
    if isinstance(value, list | tuple):
        return ", ".join(str(v) for v in value) or "(none)"
    return "(none)" if value is None else str(value)
