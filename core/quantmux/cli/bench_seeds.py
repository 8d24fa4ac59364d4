"""bench seeds: five results that quantmux grew from: before, as the seed has it, and ours."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantmux.bench.seeds.known import EXPERIMENTS
from quantmux.cli._options import AsJson, DeviceName, PluginsFile
from quantmux.cli._progress import counted_bar
from quantmux.cli._render import err, out, print_error, print_json
from quantmux.cli._session import find_device, open_context
from quantmux.cli.bench import here, without_folders

if TYPE_CHECKING:
    from quantmux.bench.seeds.report import SeedReport
    from quantmux.bench.seeds.run import SeedPlan
    from quantmux.runtime.context import Context

_HOW = "How"
_RESULT = "Where it goes"


def _option(flag: str, text: str, panel: str, metavar: str | None = None) -> Any:
    return typer.Option(flag, help=text, rich_help_panel=panel, metavar=metavar)


def bench_seeds(
    *,
    only: Annotated[
        list[str] | None,
        _option(
            "--only",
            f"Experiments: {', '.join(EXPERIMENTS)}.",
            _HOW,
            "NAME,…",
        ),
    ] = None,
    quick: Annotated[
        bool, _option("--quick", "A few cases of each, short rounds: a minute on an H200.", _HOW)
    ] = False,
    seed: Annotated[int, _option("--seed", "Of weights and inputs.", _HOW)] = 0,
    out_file: Annotated[
        Path | None,
        _option("--out", "Write the result there.", _RESULT, "FILE.json|FOLDER"),
    ] = None,
    plot: Annotated[
        Path | None, _option("--plot", "Draw the ratios.", _RESULT, "FILE.svg|.png")
    ] = None,
    device: DeviceName = None,
    plugins: PluginsFile = None,
    as_json: AsJson = False,
) -> None:
    """Time the five seeds: before, as the pull request has it, and ours, beside its claim.

    Every variant is compared with the reference on the very case first, and after its rounds on
    other numbers. One that disagrees is not timed; then the exit code is 1. Without a GPU a small
    form runs on the host, which tries the plumbing: its figures mean nothing.
    """
    from quantmux.bench.seeds.run import SeedPlan

    names = tuple(n for part in only or () for n in (n.strip() for n in part.split(",")) if n)
    context = open_context(plugins)
    plan = SeedPlan(
        device=here(find_device(device), "bench seeds"),
        only=names,
        quick=quick,
        seed=seed,
        command="quantmux " + " ".join(without_folders(part) for part in sys.argv[1:]),
    )
    if out_file is not None:
        from quantmux.bench.result_file import check_target

        check_target(out_file)
    if plot is not None:
        from quantmux.bench.seeds.plot import check_plot

        check_plot(plot)
    report = _run(plan, context)
    if as_json:
        print_json(report.to_dict())
    else:
        from quantmux.cli.bench_seeds_view import show_seeds

        show_seeds(report, out())
    _keep(report, out_file, plot)
    _tell(report)


def _run(plan: SeedPlan, context: Context) -> SeedReport:
    from quantmux.bench.seeds.run import run_seeds

    progress = counted_bar("bench seeds")
    with progress:
        task = progress.add_task("")
        begun = itertools.count()  # told when a step begins: none is done at the first

        def tell(text: str) -> None:
            progress.update(task, description=text, completed=next(begun))

        return run_seeds(plan, context, lambda steps: progress.update(task, total=steps), tell)


def _keep(report: SeedReport, out_file: Path | None, plot: Path | None) -> None:
    if out_file is not None:
        from quantmux.bench.result_file import write_report

        file = write_report(report, out_file, "seeds")
        err().print(f"written: {file}", soft_wrap=True)
    if plot is not None:
        from quantmux.bench.seeds.plot import write_plot

        write_plot(report, plot)
        err().print(f"drawn: {plot}", soft_wrap=True)


def _tell(report: SeedReport) -> None:
    """Say what is wrong on stderr, and end with exit code 1 if something is."""
    for row in report.failed:
        print_error(f"{row.experiment}: {row.kernel} was not timed on {row.case}\n  {row.reason}")
    timed = {row.experiment for row in report.rows if row.us is not None}
    untimed = [name for name in report.told if name not in timed]
    for name in untimed:
        print_error(f"{name}: nothing was timed")
    for name, reason in report.not_run.items():
        print_error(f"{name}: it could not be run\n  {reason}")
    if report.failed or untimed or report.not_run:
        raise typer.Exit(1)
