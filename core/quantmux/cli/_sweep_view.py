"""A sweep on the screen: how far it is, and what it found."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from quantmux.cli._render import device_line, err, heading, out, show_table, state_text, table
from quantmux.testing.cell import Verdict
from quantmux.testing.sweep_result import repeat_command

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import Console

    from quantmux.testing.cell import Cell, Outcome
    from quantmux.testing.sweep_record import Recorded
    from quantmux.testing.sweep_result import SweepResult

_SHOWN: Final = 3
_EVERY: Final = 15.0


class SweepProgress:
    """A bar on a terminal, else a line now and then; on stderr. A context.

    Args:
        verb: What the lines begin with.
    """

    def __init__(self, verb: str = "sweep") -> None:
        self._verb = verb
        self._console = err()
        self._total = self._done = self._failed = 0
        self._told = time.monotonic()
        self._bar = Progress(
            TextColumn(verb),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def begin(self, total: int, kept: int) -> None:
        """Take the number of cells, and of those answered before."""
        self._total, self._done = total, kept
        self._bar.update(self._task, total=total, completed=kept)
        if not self._console.is_terminal:
            before = f", {kept} of them answered before" if kept else ""
            self._console.print(f"{self._verb}: {total} cells{before}")

    def answer(self, cell: Cell, outcome: Outcome) -> None:
        """Take one answer."""
        self._done += 1
        self._failed += outcome.verdict is Verdict.FAILS
        failed = f"{self._failed} failed  " if self._failed else ""
        self._bar.update(self._task, completed=self._done, description=failed + cell.kernel)
        now = time.monotonic()
        if not self._console.is_terminal and now - self._told > _EVERY:
            self._told = now
            self._console.print(
                f"{self._verb}: {self._done} of {self._total}, {failed}at {cell.kernel}",
                soft_wrap=True,
            )


def show_sweep(result: SweepResult, recorded: Recorded | None) -> None:
    """Print what a sweep found."""
    console = out()
    console.print(Text(device_line(result.device), style="bold"))
    console.print()
    _kernels(console, result)
    _failures(console, result)
    _not_asked(console, result)
    if recorded is not None:
        show_recorded(console, recorded)
    for note in result.notes:
        console.print(f"\nnote: {note}", soft_wrap=True)
    console.print(Text(f"\n{_last_line(result)}", style="bold"), soft_wrap=True)


def _kernels(console: Console, result: SweepResult) -> None:
    # in two lines, so that 80 columns are enough
    right = ("agrees", "refuses", "not\nhere", "fails", "worst\nerror", "seconds")
    rows = table(("kernel", "fold"), *((title, "right") for title in right))
    for found in result.kernels():
        counts = [found.counts.get(v, 0) for v in Verdict]
        failed = counts[-1]
        cells = [str(n) if n else "-" for n in counts]
        error = found.worst_error
        style = "bold red" if failed else "" if counts[0] or counts[1] else "dim"
        rows.add_row(
            Text(found.kernel, style=style),
            *cells[:-1],
            Text(cells[-1], style="bold red" if failed else ""),
            "-" if error is None else f"{error:.1e}" if error else "0",
            f"{found.seconds:.1f}",
        )
    show_table(console, rows)


def _failures(console: Console, result: SweepResult) -> None:
    failures = result.failures
    if not failures:
        return
    console.print(heading(f"failed: {count(len(failures), 'cell')}"))
    kernels: dict[str, dict[tuple[str, str], list[Cell]]] = {}
    for cell, outcome in failures:
        alike = kernels.setdefault(cell.kernel, {})
        alike.setdefault((outcome.code, outcome.reason), []).append(cell)
    # a few of every kernel: the many of one must not hide the one of another
    for kernel, alike in kernels.items():
        for (_, reason), cells in list(alike.items())[:_SHOWN]:
            more = f" and {len(cells) - 1} more" if len(cells) > 1 else ""
            console.print(Text(f"  {cells[0].id}{more}", style="red"), soft_wrap=True)
            console.print(f"    {reason}", soft_wrap=True)
            console.print(f"    again: {repeat_command(cells[0], result.device)}", soft_wrap=True)
        hidden = sum(len(cells) for cells in list(alike.values())[_SHOWN:])
        if hidden:
            console.print(f"  {count(hidden, 'more cell')} of {kernel}; --json has all of them")


def _not_asked(console: Console, result: SweepResult) -> None:
    if not result.not_asked:
        return
    rows = table("  backend", "state", ("why", "fold"))
    for record in result.not_asked:
        why = "\n".join(record.reasons) or "it registers no kernel"
        rows.add_row(f"  {record.name}", state_text(record.state), why)
    console.print(heading("not asked"))
    show_table(console, rows)


def show_recorded(console: Console, recorded: Recorded) -> None:
    """Print which files were written, and of which kernels nothing was."""
    if recorded.files or recorded.left_out:
        console.print(heading("recorded"))
    for file, kernels in recorded.files.items():
        console.print(f"  {file}: {count(len(kernels), 'kernel')}", soft_wrap=True)
    alike: dict[str, list[str]] = {}
    for kernel, why in recorded.left_out.items():
        alike.setdefault(why, []).append(kernel)
    for why, names in alike.items():
        console.print(f"  left out, {why}: {' '.join(names)}", soft_wrap=True)


def count(number: int, word: str) -> str:
    """Give a number of things."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _last_line(result: SweepResult) -> str:
    counts = result.counts
    named = {Verdict.AGREES: "agree", Verdict.REFUSES: "refused", Verdict.NOT_HERE: "not here"}
    parts = [f"{counts.get(v, 0)} {word}" for v, word in named.items()]
    parts.append(f"{len(result.failures)} failed")
    before = f", {result.kept} answered before" if result.kept else ""
    text = f"{len(result.cells)} cells: {', '.join(parts)} in {result.seconds:.0f} s{before}"
    if result.interrupted:
        left = len(result.cells) - len(result.outcomes)
        return f"stopped with {left} cells left. The same command goes on from there.\n{text}"
    if not result.shows_something:
        return f"nothing was shown: no cell could run here\n{text}"
    return text
