"""warmup: compile what the layers of a checkpoint need on a device, ahead of the first server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from quantmux.api import plan as plan_checkpoint
from quantmux.cli._checkpoints import open_quantized
from quantmux.cli._options import AsJson, CheckpointPath, DeviceName, PluginsFile
from quantmux.cli._progress import counted_bar
from quantmux.cli._render import device_line, out, print_json, show_table, table
from quantmux.cli._session import find_device, open_registry
from quantmux.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from quantmux.runtime.warmup import WarmupReport, WarmupUnit


def warmup(
    checkpoint: CheckpointPath,
    *,
    device: DeviceName = None,
    m: Annotated[
        list[int] | None,
        typer.Option("--m", metavar="M", help="Rows of a call; repeatable. Default: 1 to 4096."),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", metavar="N", help="Compilers at once.")
    ] = None,
    plugins: PluginsFile = None,
    as_json: AsJson = False,
) -> None:
    """Compile every kernel that the quantized linears of a checkpoint take; reads headers only.

    The code lies in the compilers' own caches afterwards, where the processes that serve the model
    find it. A named device need not be here: then it is compiled ahead, for an image or a shared
    cache. Exit code 1 when a kernel does not compile.
    """
    from quantmux.runtime.warmup import PROBE_MS
    from quantmux.runtime.warmup import warmup as compile_all

    open_registry(plugins)
    made = plan_checkpoint(checkpoint, find_device(device))
    if not made.layers:
        open_quantized(checkpoint)  # raises, and says what is there
    if not any(selection.is_served for selection in made.selections.values()):
        raise ConfigError(
            f"no kernel serves a layer of {checkpoint} on {made.device}",
            hint=f"run: quantmux plan {checkpoint} --device {made.device.name}",
        )
    with counted_bar("warmup") as bar:
        task = bar.add_task("")

        def progress(done: int, of: int, what: str) -> None:
            bar.update(task, completed=done, total=of, description=what)

        report = compile_all(made, ms=m or PROBE_MS, jobs=jobs, progress=progress)
    if as_json:
        print_json({"device": made.device.name, **report.to_dict()})
    else:
        console = out()
        console.print(Text(f"{checkpoint}: {len(made.layers)} linears", style="bold"))
        console.print(device_line(made.device))
        _show(console, report)
    if report.failed:
        raise typer.Exit(1)


def _show(console: Console, report: WarmupReport) -> None:
    rows = table(("kernel", "fold"), ("for", "fold"), "outcome", ("seconds", "right"))
    for unit in report.units:
        rows.add_row(unit.kernel, str(unit.config), _outcome(unit), f"{unit.seconds:.1f}")
    show_table(console, rows)
    for unit in report.failed:
        console.print(Text(f"{unit.kernel}: {unit.error}", style="red"), soft_wrap=True)
    done = sum(not (unit.error or unit.skipped) for unit in report.units)
    text = f"\n{done} of {len(report.units)} compiled in {report.seconds:.0f} s"
    console.print(Text(text, style="bold"))


def _outcome(unit: WarmupUnit) -> Text:
    if unit.error:
        return Text("FAILS", style="bold red")
    if unit.skipped:
        return Text("nothing to do", style="dim")
    return Text("compiled", style="green")
