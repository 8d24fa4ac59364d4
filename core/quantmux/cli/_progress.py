"""The progress bar of verbs that count what they do, on stderr and on a terminal only."""

from __future__ import annotations

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from quantmux.cli._render import err


def counted_bar(verb: str) -> Progress:
    """Give a bar "verb ━━━━ 3/7 what"; its tasks are the caller's."""
    console = err()
    return Progress(
        TextColumn(verb),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
