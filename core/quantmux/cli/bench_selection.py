"""bench selection: how good the choice is, against the best of the run and any one backend."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantmux.cli._options import AsJson, DeviceName, PluginsFile
from quantmux.cli._progress import counted_bar
from quantmux.cli._render import err, out, print_error, print_json, warn
from quantmux.cli._session import find_device, open_context
from quantmux.cli.bench import here, without_folders
from quantmux.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantmux.bench.rows import BenchCase, Report
    from quantmux.bench.selection.measure import GridPlan
    from quantmux.bench.selection.result import GridResult
    from quantmux.capability.device import DeviceProfile
    from quantmux.runtime.context import Context

_WHAT = "What is measured"
_HOW = "How"
_RESULT = "Where it goes"


def _option(flag: str, text: str, panel: str, metavar: str | None = None) -> Any:
    return typer.Option(flag, help=text, rich_help_panel=panel, metavar=metavar)


def bench_selection(
    *,
    scheme: Annotated[
        str | None,
        _option("--scheme", "Default: fp8_block128,fp8_channel_token.", _WHAT, "NAME,…"),
    ] = None,
    model: Annotated[
        str | None,
        _option("--model", "Default: qwen3-8b,dsv3,llama3-8b.", _WHAT, "NAME,…"),
    ] = None,
    shapes: Annotated[
        str | None, _option("--shapes", "N×K in place of a model's.", _WHAT, "NxK,…")
    ] = None,
    m: Annotated[
        str | None, _option("--m", "Numbers of rows. Default: 1 to 4096, doubling.", _WHAT, "M,…")
    ] = None,
    from_file: Annotated[
        Path | None,
        _option("--from", "Judge this run again, with today's times; no GPU.", _WHAT, "FILE.json"),
    ] = None,
    times: Annotated[
        Path | None,
        _option("--times", "Choose by the times of this run, too.", _HOW, "FILE.json"),
    ] = None,
    rounds: Annotated[int, _option("--rounds", "Turns of who stays near the best.", _HOW)] = 5,
    seconds: Annotated[
        float | None,
        _option("--seconds", "Cells that have not begun by then are left out.", _HOW),
    ] = None,
    alone: Annotated[
        bool,
        _option("--alone/--no-alone", "Time backends without others' quantizers.", _HOW),
    ] = True,
    quick: Annotated[
        bool, _option("--quick", "Small shapes, short rounds: figures mean nothing.", _HOW)
    ] = False,
    seed: Annotated[int, _option("--seed", "Of weights and inputs.", _HOW)] = 0,
    record_to: Annotated[
        str | None,
        _option("--record-to", "Record the times of the run there.", _RESULT, "FOLDER|package"),
    ] = None,
    with_runs: Annotated[
        list[Path] | None,
        _option("--with", "Record its mean with these earlier runs.", _RESULT, "FILE.json"),
    ] = None,
    out_file: Annotated[
        Path | None, _option("--out", "Write the result there.", _RESULT, "FILE.json|FOLDER")
    ] = None,
    plot: Annotated[
        Path | None, _option("--plot", "Draw the losses.", _RESULT, "FILE.svg|.png")
    ] = None,
    device: DeviceName = None,
    plugins: PluginsFile = None,
    as_json: AsJson = False,
) -> None:
    """Hold what selection takes against every pipeline it could take, over N×K×M, in one run.

    Selection knows the times that are shipped and recorded, not those of the run that judges it;
    to judge what a run would teach it, measure twice: `--from SECOND.json --times FIRST.json`.
    Exit code 1 when a pipeline disagrees with the reference, or nothing was timed.
    """
    from quantmux.bench.result_file import check_target
    from quantmux.bench.roofline import check_plot
    from quantmux.bench.selection.kept import KeptRun, read_run
    from quantmux.bench.selection.result import judged
    from quantmux.bench.selection.several import tuning_rows_of

    if rounds < 1:
        raise ConfigError(f"--rounds is at least 1, found {rounds}", code="usage")
    if record_to is not None and quick:
        raise ConfigError("a quick run is not recorded", hint="leave --quick out", code="usage")
    if out_file is not None:
        check_target(out_file)
    if plot is not None:
        check_plot(plot)
    context = open_context(plugins)
    taught = None if times is None else read_run(times)
    earlier = [read_run(file) for file in with_runs or ()]
    if from_file is not None:
        run = read_run(from_file)
        profile = find_device(device or run.report.device)
    else:
        profile = here(find_device(device), "bench selection")
        cases = _cases(scheme, model, shapes, m, profile, quick=quick)
        plan = _plan(
            cases, profile, rounds=rounds, seconds=seconds, alone=alone, quick=quick, seed=seed
        )
        run = KeptRun.of(_measure(plan, context), context.registry)
    result = judged(
        run,
        context,
        profile,
        over=() if taught is None else taught.tuning_rows(),
        source="shipped and recorded" + ("" if times is None else f", and {times.name} over them"),
    )
    if as_json:
        print_json(result.to_dict())
    else:
        from quantmux.cli.bench_selection_view import show_grid

        show_grid(result, out())
    _keep(result, out_file, plot)
    if record_to is not None:
        rows = tuning_rows_of([*earlier, run])
        for file in run.record(context.registry, record_to, rows):
            err().print(f"recorded: {file}", soft_wrap=True)
    _tell(run.report, result)


def _cases(
    scheme: str | None,
    model: str | None,
    shapes: str | None,
    m: str | None,
    device: DeviceProfile,
    *,
    quick: bool,
) -> tuple[BenchCase, ...]:
    from quantmux.bench.selection import grid
    from quantmux.bench.shapes import model_shapes, parse_counts, parse_shapes

    if model is not None and shapes is not None:
        raise ConfigError("--shapes and --model both say what to measure", code="usage")
    is_small = quick or not device.is_cuda
    schemes = _names(scheme) or grid.GRID_SCHEMES
    if shapes is not None:
        found = parse_shapes(shapes)
    elif model is not None:
        found = tuple(dict.fromkeys(s for name in _names(model) for s in model_shapes(name)))
    else:
        found = grid.QUICK_SHAPES if is_small else grid.grid_shapes()
    ms = grid.QUICK_GRID_MS if is_small else grid.GRID_MS
    return grid.grid_cases(schemes, found, parse_counts(m) if m is not None else ms)


def _names(text: str | None) -> tuple[str, ...]:
    parts = [part.strip() for part in (text or "").split(",")]
    return tuple(dict.fromkeys(part for part in parts if part))


def _plan(
    cases: Sequence[BenchCase],
    device: DeviceProfile,
    *,
    rounds: int,
    seconds: float | None,
    alone: bool,
    quick: bool,
    seed: int,
) -> GridPlan:
    from dataclasses import replace

    from quantmux.bench.effort import effort_for
    from quantmux.bench.selection.measure import GridPlan

    effort = effort_for(device, quick=quick or not device.is_cuda, seed=seed)
    if not quick:
        effort = replace(effort, rounds=rounds)
    return GridPlan(
        cases=tuple(cases),
        device=device,
        effort=effort,
        seconds=seconds,
        with_alone=alone,
        quick=quick or not device.is_cuda,
        command="quantmux " + " ".join(without_folders(part) for part in sys.argv[1:]),
    )


def _measure(plan: GridPlan, context: Context) -> Report:
    from quantmux.bench.selection.measure import measure_grid

    with counted_bar("bench selection") as bar:
        task = bar.add_task("", total=len(plan.cases) + 1)
        begun = itertools.count()  # told when a step begins: none is done at the first

        def tell(text: str) -> None:
            bar.update(task, description=text, completed=next(begun))

        return measure_grid(plan, context, tell)


def _keep(result: GridResult, out_file: Path | None, plot: Path | None) -> None:
    report = result.run.report
    if out_file is not None:
        from quantmux.bench.selection.kept import write_run

        file = out_file
        if file.suffix != ".json":
            file = out_file / f"{report.date}-{report.device}-selection.json"
        write_run(file, result.to_dict())
        err().print(f"written: {file}", soft_wrap=True)
    if plot is not None:
        from quantmux.bench.selection.picture import write_picture

        torch = report.versions.get("torch", "")
        line = f"{report.date}, torch {torch}; {result.rows} measured times known, {result.source}"
        title = f"what selection takes against the best, {report.title}"
        write_picture(result.qualities, title, line, plot)
        err().print(f"drawn: {plot}", soft_wrap=True)


def _tell(report: Report, result: GridResult) -> None:
    """Say what is wrong on stderr, and end with exit code 1 if something is."""
    for kernel, reason in report.missing.items():
        warn(f"{kernel} does not compile for a cell: {reason}")
    for row in report.failed:
        print_error(f"{row.kernel} was not timed on {row.case}\n  {row.reason}")
    if not result.cells:
        print_error("nothing was timed: no pipeline serves these cells\n  next: quantmux explain")
    if report.failed or not result.cells:
        raise typer.Exit(1)
