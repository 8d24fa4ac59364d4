"""run: every quantized linear of a checkpoint, run by the kernels chosen for it, and judged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantmux.capability.detect import device_here
from quantmux.cli._checkpoints import open_quantized
from quantmux.cli._options import AsJson, CheckpointPath, DeviceName, PluginsFile
from quantmux.cli._progress import counted_bar
from quantmux.cli._render import print_error, print_json
from quantmux.cli._run_view import show_run
from quantmux.cli._session import find_device, open_context
from quantmux.config._base import closest
from quantmux.config.patterns import check_pattern, matches
from quantmux.errors import ConfigError, LaunchError, QuantmuxError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from quantmux.capability.device import DeviceProfile
    from quantmux.checkpoint import LayerEntry
    from quantmux.cli._measure import Measured, Runner
    from quantmux.runtime.context import Context


@dataclass(slots=True)
class Outcome:
    """What a run found: measured rows, and the layers that could not be run."""

    device: DeviceProfile
    rows: list[Measured] = field(default_factory=list)
    failed: list[tuple[str, QuantmuxError]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Tell whether every layer ran and all is within tolerance."""
        return not self.failed and all(row.ok for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Give the outcome as JSON-ready data."""
        return {
            "device": self.device.name,
            "layers": [row.to_dict() for row in self.rows],
            "failed": [{"name": name, "error": e.to_dict()} for name, e in self.failed],
            "ok": self.ok,
        }


def run(
    checkpoint: CheckpointPath,
    *,
    tokens: Annotated[
        str, typer.Option("--tokens", "-t", metavar="M,M…", help="Numbers of rows to run.")
    ] = "1,64",
    device: DeviceName = None,
    layers: Annotated[
        str | None,
        typer.Option("--layers", metavar="PATTERN", help='Only these: a glob, or "re:…".'),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the random activations.")] = 0,
    force: Annotated[
        str | None,
        typer.Option("--force-kernel", metavar="ID", help="A kernel or backend to be taken."),
    ] = None,
    show_all: Annotated[
        bool, typer.Option("--all", help="One line per layer, however many there are.")
    ] = False,
    plugins: PluginsFile = None,
    as_json: AsJson = False,
) -> None:
    """Run every quantized linear on random activations and compare it with the reference.

    The error is judged against the reference of the pipeline taken; "scheme distance" says how
    far that reference is from the scheme of the checkpoint (0 unless a weight-only kernel stands
    in). Activations are normal, with deviation 1, or as large as a static scale expects. Exit
    code 0 only if every layer ran and is within tolerance.
    """
    ms = _token_counts(tokens)
    context = open_context(plugins)
    profile = _here(find_device(device), checkpoint)
    if force is not None:
        _check_force(force, context)
    opened = open_quantized(checkpoint)
    entries = _chosen(opened.layers(), layers)
    from quantmux.cli._measure import Runner  # imports torch

    runner = Runner(context, opened, profile, tokens=ms, seed=seed, force=force)
    outcome = _run_all(runner, entries, profile)
    if as_json:
        print_json(outcome.to_dict())
    else:
        show_run(str(checkpoint), profile, outcome.rows, show_all=show_all)
    _tell(outcome, len(entries))
    if not outcome.ok:
        raise typer.Exit(1)


def _here(profile: DeviceProfile, checkpoint: Path) -> DeviceProfile:
    """Give the device itself for a name such as ``h200`` that one here goes by."""
    try:
        return device_here(profile)
    except ConfigError as error:
        raise ConfigError(
            f'run needs a device that is here, found "{profile.name}"',
            facts=error.facts,
            hint=f"ask what it would take: quantmux plan {checkpoint} --device {profile.name}",
            code="device",
        ) from None


def _check_force(name: str, context: Context) -> None:
    registry = context.registry
    known = [*(p.name for p in registry.plugins), *(k.id for k in registry.kernels)]
    if name not in known:
        near = closest(name, known)
        raise ConfigError(
            f'--force-kernel names "{name}", which is neither a kernel nor a backend',
            facts=["backends: " + " ".join(p.name for p in registry.plugins)],
            hint=f'did you mean "{near}"?' if near else "quantmux plugins show NAME lists kernels",
            code="usage",
        )


def _token_counts(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() for part in parts):
        raise ConfigError(
            "--tokens is a list of numbers of rows",
            facts={"need": "M,M…  as 1,16,256", "found": text},
            code="usage",
        )
    return tuple(dict.fromkeys(int(part) for part in parts))


def _chosen(entries: list[LayerEntry], pattern: str | None) -> list[LayerEntry]:
    if pattern is None:
        return entries
    check_pattern(pattern)
    found = [entry for entry in entries if matches(pattern, entry.name)]
    if not found:
        near = closest(pattern, [entry.name for entry in entries])
        raise ConfigError(
            f'no quantized linear fits --layers "{pattern}"',
            facts=[f"{len(entries)} quantized linears, {entries[0].name} first"],
            hint=f'did you mean "{near}"?' if near else 'a glob fits the whole name: "*.down_proj"',
            code="usage",
        )
    return found


def _run_all(runner: Runner, entries: Sequence[LayerEntry], device: DeviceProfile) -> Outcome:
    outcome = Outcome(device)
    progress = counted_bar("run")
    with progress:
        task = progress.add_task("", total=len(entries))
        for entry in entries:
            progress.update(task, description=entry.name)
            try:
                outcome.rows += runner.run(entry)
            except QuantmuxError as error:
                if isinstance(error, LaunchError) and error.context_poisoned:
                    raise  # every later call of this process fails too
                outcome.failed.append((entry.name, error))
            progress.advance(task)
    return outcome


def _tell(outcome: Outcome, layers: int) -> None:
    """Say on stderr which layers failed; those that failed alike once."""
    alike: dict[str, list[str]] = {}
    for name, error in outcome.failed:
        alike.setdefault(f"quantmux.{type(error).__name__}: {error}", []).append(name)
    for text, names in alike.items():
        more = f" and {len(names) - 1} more layers" if len(names) > 1 else ""
        print_error(f"{names[0]}{more} cannot be run\n{text}")
    wrong = [row for row in outcome.rows if not row.ok]
    if wrong:
        row = max(wrong, key=lambda found: found.worst)
        print_error(
            f"{len({r.name for r in wrong})} of {layers} layers are out of tolerance\n"
            f"  {row.name} at M = {row.m}: relative error {row.rel_error:.3g}, at most "
            f"{row.tolerance:.3g}; one element {row.worst:.3g} times what is allowed\n"
            f'  next: keep it away with deny = ["{row.pipeline[-1]}"] in a policy file (--plugins)'
        )
