"""``quantmux build BACKEND``: which libraries are meant, their progress, the table."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Final, Self

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from quantmux.cli._render import err, out, print_json, show_table, table
from quantmux.config._base import closest
from quantmux.errors import ConfigError
from quantmux.registry.library_build import Interrupted, LibraryResult, make_libraries

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from rich.console import Console
    from rich.progress import TaskID

    from quantmux.registry.library_unit import LibraryUnit
    from quantmux.registry.manager import Registry

_STYLES: Final = {
    "built": "green",
    "prebuilt": "green",
    "there": "green",
    "building": "yellow",
    "missing": "yellow",
    "failed": "bold red",
    "impossible": "bold red",
    "interrupted": "yellow",
}
_NEWS: Final = ("compiling", "waiting")
"""Phases that a log hears of; the rest is for the bar."""


def libraries_of(
    registry: Registry, backends: list[str], archs: list[str], kernels: list[str]
) -> list[LibraryUnit]:
    """Give the libraries that are meant.

    Args:
        registry: The plugins.
        backends: Whose.
        archs: Targets, or parts of one; none is the GPUs here or, without any, all.
        kernels: Ids of the kernels that shall have theirs; none is all.

    Raises:
        ConfigError: A name is not one, or nothing is meant.
        PluginError: A plugin cannot say what it compiles.
    """
    known = {record.name for record in registry.plugins}
    for name in backends:
        if name not in known:
            near = closest(name, known)
            raise ConfigError(
                f'there is no backend "{name}"',
                facts=["backends: " + " ".join(sorted(known))],
                hint=f'did you mean "{near}"?' if near else None,
                code="backend",
            )
    asked = {registry.get(kernel).id for kernel in kernels}
    every = [unit for name in backends for unit in _of(registry, name)]
    found = [unit for unit in every if not asked or asked & set(unit.kernels)]
    if not found:
        raise ConfigError(
            f"{' '.join(asked or backends)}: no library to compile",
            facts=["a library is what quantmux_libraries() of a plugin names"],
            hint="quantmux build, without a backend, compiles every kernel as evidence",
            code="no_library",
        )
    return _on_archs(found, archs)


def _of(registry: Registry, name: str) -> tuple[LibraryUnit, ...]:
    record = registry.record(name)
    if record is not None and record.state in ("failed", "disabled"):
        raise ConfigError(
            f"backend {name} is {record.state}", facts=record.reasons, hint=record.hint
        )
    return registry.libraries(name)


def _on_archs(units: list[LibraryUnit], archs: list[str]) -> list[LibraryUnit]:
    targets = {part for unit in units for part in unit.targets}
    for arch in archs:
        if arch not in targets:
            raise ConfigError(
                f'no library is compiled for "{arch}"',
                facts=["targets: " + " ".join(sorted(targets))],
                hint="--arch takes them as they are spelled there, with commas between",
                code="arch",
            )
    if archs:
        return [unit for unit in units if set(archs) & set(unit.targets)]
    from quantmux.capability.detect import detect_devices

    here = [device for device in detect_devices() if device.is_cuda]
    if not here:
        return units
    found = [unit for unit in units if any(unit.runs_on(d.arch) for d in here)]
    if not found:
        names = ", ".join(dict.fromkeys(str(device) for device in here))
        raise ConfigError(
            f"no library is for a GPU of this machine: {names}",
            facts=["targets: " + " ".join(sorted(targets))],
            hint="--arch compiles for one that is not here",
            code="arch",
        )
    return found


def build_libraries(
    units: list[LibraryUnit], *, jobs: int | None, force: bool, into: Path | None, as_json: bool
) -> int:
    """Make them, print what came of it, and give the exit code."""
    began = time.monotonic()
    interrupted = False
    with _LibraryProgress(len(units)) as progress:
        try:
            results = make_libraries(units, jobs=jobs, force=force, into=into, progress=progress)
        except Interrupted as stopped:
            results, interrupted = stopped.results, True
    seconds = time.monotonic() - began
    if as_json:
        print_json(_to_dict(results, seconds, interrupted=interrupted))
    else:
        _show(out(), results, len(units), seconds, interrupted=interrupted)
    if interrupted:
        return 130
    return 0 if all(result.made is not None for result in results) else 1


def list_libraries(units: list[LibraryUnit], *, as_json: bool) -> None:
    """Print the libraries and in which state they are; compile nothing."""
    if as_json:
        print_json({"libraries": [_unit_dict(unit) for unit in units]})
        return
    console = out()
    rows = table("library", "for", "state", ("about", "right"), ("kernels", "fold"))
    for unit in units:
        state = Text(unit.state, style=_STYLES[unit.state])
        rows.add_row(
            unit.name, unit.target, state, f"{unit.seconds:.0f} s", "\n".join(unit.kernels)
        )
    show_table(console, rows)
    _reasons(console, [(unit.name, unit.target, unit.reason, unit.hint) for unit in units])


class _LibraryProgress:
    """A line for every compiler that runs, on a terminal; else a line for what begins and ends."""

    def __init__(self, total: int) -> None:
        self._console = err()
        self._total, self._ended = total, 0
        self._lock = threading.Lock()
        self._tasks: dict[tuple[str, str], TaskID] = {}
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[phase]}"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )

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

    def step(self, unit: LibraryUnit, phase: str) -> None:
        """Show what happens to a library."""
        with self._lock:
            if not self._console.is_terminal:
                if phase in _NEWS:
                    self._say(f"{phase} {unit.name} for {unit.target}, about {unit.seconds:.0f} s")
                return
            key = unit.name, unit.target
            if phase == "compiling" and key not in self._tasks:
                text = f"{unit.name} {unit.target}"
                self._tasks[key] = self._bar.add_task(text, total=None, phase=phase)
            elif key in self._tasks:
                self._bar.update(self._tasks[key], phase=phase)

    def done(self, result: LibraryResult) -> None:
        """Take a library off, and say how it came out."""
        with self._lock:
            self._ended += 1
            unit = result.unit
            task = self._tasks.pop((unit.name, unit.target), None)
            if task is not None:
                self._bar.remove_task(task)
            if result.state != "interrupted":
                took = "" if result.made is None else f", {result.made.seconds:.0f} s"
                count = f"{self._ended} of {self._total}"
                self._say(f"{count}: {unit.name} for {unit.target} {result.state}{took}")

    def _say(self, text: str) -> None:
        self._console.print(f"build: {text}", soft_wrap=True)


def _show(
    console: Console,
    results: tuple[LibraryResult, ...],
    asked: int,
    seconds: float,
    *,
    interrupted: bool,
) -> None:
    right = (("seconds", "right"), ("peak MiB", "right"), ("KiB", "right"))
    rows = table("library", "for", "state", *right)
    for result in results:
        made = result.made
        numbers = ("-", "-", "-")
        if made is not None:
            memory = f"{made.memory_mib}" if made.memory_mib else "-"
            numbers = (f"{made.seconds:.1f}", memory, f"{made.bytes / 1024:.0f}")
        state = Text(result.state, style=_STYLES[result.state])
        rows.add_row(result.unit.name, result.unit.target, state, *numbers)
    if results:
        show_table(console, rows)
    errors = [_why_not(result) for result in results if result.error is not None]
    _reasons(console, errors)
    made_ones = [r.made for r in results if r.made is not None]
    folders = dict.fromkeys(str(made.path.parent.parent) for made in made_ones)
    for folder in folders:
        console.print(f"in {folder}", soft_wrap=True)
    new = sum(not made.was_there for made in made_ones)
    text = f"{new} compiled, {len(made_ones) - new} there before, {len(errors)} not made"
    if interrupted:
        text = f"interrupted: {text}, {asked - len(results)} not begun or ended"
    console.print(Text(f"{text}, in {seconds:.0f} s", style="bold"))


def _why_not(result: LibraryResult) -> tuple[str, str, str, str]:
    error = result.error
    if error is None:
        return result.unit.name, result.unit.target, "", ""
    # what this machine lacks is one fact of many libraries; a compiler's log belongs to its own
    lines = error.facts if result.state == "impossible" else (error.headline, *error.facts)
    return result.unit.name, result.unit.target, "\n".join(lines), error.hint or ""


_NAMED: Final = 12
"""Libraries that are named above one reason; what lacks the whole package lacks it fifty times."""


def _reasons(console: Console, lines: list[tuple[str, str, str, str]]) -> None:
    """Print each reason once, with the libraries that it holds for, and what to do."""
    alike: dict[tuple[str, str], list[str]] = {}
    for name, target, reason, hint in lines:
        if reason:
            alike.setdefault((reason, hint), []).append(f"{name} {target}")
    for (reason, hint), names in alike.items():
        shown = names if len(names) <= _NAMED else [*names[: _NAMED - 1], f"{len(names)} in all"]
        console.print(Text(f"\n{', '.join(shown)}", style="bold"), soft_wrap=True)
        for line in reason.splitlines():
            console.print(f"  {line}", soft_wrap=True)
        if hint:
            console.print(f"  next: {hint}", soft_wrap=True)


def _to_dict(
    results: tuple[LibraryResult, ...], seconds: float, *, interrupted: bool
) -> dict[str, Any]:
    return {
        "libraries": [_result_dict(result) for result in results],
        "seconds": round(seconds, 3),
        "interrupted": interrupted,
        "ok": not interrupted and all(result.made is not None for result in results),
    }


def _result_dict(result: LibraryResult) -> dict[str, Any]:
    made, error = result.made, result.error
    return {
        "name": result.unit.name,
        "target": result.unit.target,
        "kernels": list(result.unit.kernels),
        "state": result.state,
        "path": None if made is None else str(made.path),
        "seconds": None if made is None else made.seconds,
        "cpu_seconds": None if made is None else made.cpu_seconds,
        "memory_mib": None if made is None else made.memory_mib,
        "bytes": None if made is None else made.bytes,
        "error": None if error is None else error.to_dict(),
    }


def _unit_dict(unit: LibraryUnit) -> dict[str, Any]:
    return {
        "name": unit.name,
        "target": unit.target,
        "kernels": list(unit.kernels),
        "state": unit.state,
        "reason": unit.reason,
        "hint": unit.hint,
        "about_seconds": unit.seconds,
        "about_memory_gib": unit.memory_gib,
    }
