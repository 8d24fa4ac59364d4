"""plan: the kernels every layer of a checkpoint would take on a device, from headers alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from quantmux.api import plan as plan_checkpoint
from quantmux.cli._checkpoints import open_quantized
from quantmux.cli._names import name_pattern, two_lines
from quantmux.cli._options import AsJson, CheckpointPath, DeviceName, InstalledOnly, PluginsFile
from quantmux.cli._render import device_line, heading, m_text, out, table, tier_text
from quantmux.cli._session import find_device, open_registry
from quantmux.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from quantmux.dispatch.plan import Plan, PlannedLayer


def plan(
    checkpoint: CheckpointPath,
    *,
    device: DeviceName = None,
    out_file: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write the JSON into a file, too."),
    ] = None,
    installed_only: InstalledOnly = False,
    plugins: PluginsFile = None,
    as_json: AsJson = False,
) -> None:
    """Select for every quantized linear of a checkpoint; reads headers only, in seconds.

    Exit code 1 when some layer has no kernel.
    """
    open_registry(plugins)
    profile = find_device(device)
    made = plan_checkpoint(checkpoint, profile, installed_only=installed_only)
    if not made.layers:
        open_quantized(checkpoint)  # raises, and says what is there
    if out_file is not None:
        _write(out_file, made.to_json(indent=2))
    if as_json:
        print(made.to_json(indent=2))
    else:
        _show(made, checkpoint)
    if any(not selection.is_served for selection in made.selections.values()):
        raise typer.Exit(1)


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot write {file}", facts=[error.strerror or str(error)], code="unwritable"
        ) from None


def _show(made: Plan, checkpoint: Path) -> None:
    console = out()
    schemes = list(dict.fromkeys(_scheme(layer) for layer in made.layers))
    only = f" of {schemes[0]}" if len(schemes) == 1 else ""
    console.print(Text(f"{checkpoint}: {len(made.layers)} linears{only}", style="bold"))
    console.print(device_line(made.device))
    console.print(heading("layers"))
    console.print(_layers(made, with_scheme=len(schemes) > 1))
    if made.warnings:
        console.print(heading("warnings"))
        for line in made.warnings:
            console.print(Text(f"  {line}", style="yellow"))


def _layers(made: Plan, *, with_scheme: bool) -> Table:
    groups: dict[tuple[str, str, str, str], list[PlannedLayer]] = {}
    for layer in made.layers:
        key = (name_pattern(layer.name), _shape(layer), _scheme(layer), layer.selection)
        groups.setdefault(key, []).append(layer)
    columns: list[str | tuple[str, str]] = [("count", "right"), ("layer", "fold"), "N×K"]
    if with_scheme:
        columns.append(("scheme", "fold"))
    rows = table(*columns, "kernels", "tier")
    for (pattern, shape, scheme, digest), same in groups.items():
        choices = made.selections[digest].ranges
        name = same[0].name if len(same) == 1 else pattern
        pipelines = []
        for choice in choices:
            span = m_text(choice.m_min, choice.m_max)
            ids = "\n-> ".join(choice.pipeline.ids)
            pipelines.append((f"{span}: " if span else "") + ids)
        tiers = list(dict.fromkeys(str(choice.tier) for choice in choices))
        rows.add_row(
            str(len(same)),
            two_lines(name),
            shape,
            *([scheme] if with_scheme else []),
            "\n".join(pipelines) or Text("no kernel", style="bold red"),
            Text("\n").join(tier_text(tier) for tier in tiers),
        )
    return rows


def _scheme(layer: PlannedLayer) -> str:
    scheme = getattr(layer.config, "scheme", None)
    return scheme.name if scheme is not None else str(layer.config)


def _shape(layer: PlannedLayer) -> str:
    config = layer.config
    return f"{config.n}×{config.k}" if config.op == "linear" else "-"
