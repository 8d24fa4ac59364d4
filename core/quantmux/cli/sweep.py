"""sweep: every cell of every backend here, in processes that may die of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantmux.cli._options import AsJson, BackendNames, KernelNames, PluginsFile
from quantmux.cli._render import print_json
from quantmux.errors import ConfigError

if TYPE_CHECKING:
    from quantmux.testing.sweep_record import Recorded
    from quantmux.testing.sweep_result import SweepResult


def sweep(
    *,
    backend: BackendNames = None,
    device: Annotated[
        str,
        typer.Option(
            "--device",
            "-d",
            metavar="NAME",
            help="auto (the first GPU here, else the CPU), cpu, cuda (all GPUs alike), cuda:1.",
        ),
    ] = "auto",
    op: Annotated[
        list[str] | None, typer.Option("--op", metavar="OP", help="Only kernels of this op.")
    ] = None,
    kernel: KernelNames = None,
    check: Annotated[
        list[str] | None, typer.Option("--check", metavar="NAME", help="Only this check.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="TEXT", help="Only cells so labelled.")
    ] = None,
    small: Annotated[
        bool, typer.Option("--small", help="Leave out the shapes of real layers.")
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", metavar="N", help="Workers; default: one per GPU or core."),
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="S", help="Seconds one cell may take.")
    ] = 120.0,
    memory: Annotated[
        float | None,
        typer.Option("--memory", metavar="GIB", help="Memory one worker may hold."),
    ] = None,
    give_up: Annotated[
        int,
        typer.Option(
            "--give-up",
            metavar="N",
            min=0,
            help="After N cells of a kernel that crashed or hung, fail its others unrun; 0: never.",
        ),
    ] = 3,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="Where the journal lies.")
    ] = None,
    resume: Annotated[
        bool | None,
        typer.Option(
            "--resume/--fresh",
            help="Go on from the journal and from no other, or ask everything anew; default: take "
            "the answers that still hold.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the inputs.")] = 0,
    compiles: Annotated[
        bool,
        typer.Option(
            "--compile/--no-compile",
            help="Leave out what compiles for other GPUs: it needs none, and quantmux build asks "
            "it.",
        ),
    ] = True,
    record: Annotated[
        bool, typer.Option("--record", help="Record evidence into your own folder.")
    ] = False,
    record_to: Annotated[
        str | None,
        typer.Option("--record-to", metavar="FOLDER", help="Into this one; package: the plugins'."),
    ] = None,
    ignore_failed_plugins: Annotated[
        bool,
        typer.Option(
            "--ignore-failed-plugins", help="A plugin that cannot be asked is no failure."
        ),
    ] = False,
    plugins: PluginsFile = None,
    as_json: AsJson = False,
) -> None:
    """Run the conformance suite over all backends that are here, and go on whatever happens.

    Cells run in worker processes: one that crashes, hangs or loses the GPU fails, and the rest
    goes on. Every answer is kept in a journal; after Ctrl-C or a reboot the same command goes on
    from there. Exit code 1 when a cell failed, a plugin could not be asked, or nothing ran.
    """
    from quantmux.cli._sweep_view import SweepProgress, show_sweep
    from quantmux.testing.sweep import Plugins, Selection
    from quantmux.testing.sweep import sweep as run_sweep

    where = _where(record, record_to)
    selection = Selection(
        backends=_names(backend),
        ops=tuple(name.replace("-", "_") for name in _names(op)),
        kernels=_names(kernel),
        checks=_names(check) if compiles else _all_but_compiles(_names(check)),
        labels=_names(label),
        small_only=small,
    )
    if where is not None and not selection.has_whole_kernels:
        raise ConfigError(
            "a part of a kernel's cells is no evidence of it",
            facts=["--record was given together with --check or --label"],
            hint="leave one of them out; only the check compiles may be missing: --no-compile",
            code="usage",
        )
    with SweepProgress() as progress:
        result = run_sweep(
            selection,
            plugins=Plugins(plugins),
            device=device,
            jobs=jobs,
            timeout=timeout,
            memory_gib=memory,
            give_up=give_up,
            out=out,
            resume=resume,
            seed=seed,
            progress=progress,
        )
    recorded = _recorded(result, where)
    if as_json:
        print_json({**result.to_dict(), "recorded": _recorded_dict(recorded)})
    else:
        show_sweep(result, recorded)
    if result.interrupted:
        raise typer.Exit(130)
    failed_plugins = result.failed_plugins and not ignore_failed_plugins
    if result.failures or failed_plugins or not result.shows_something:
        raise typer.Exit(1)


def _names(given: list[str] | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(given or ()))


def _where(record: bool, record_to: str | None) -> str | None:
    from quantmux.testing.sweep_record import USER

    return record_to or (USER if record else None)


def _recorded(result: SweepResult, where: str | None) -> Recorded | None:
    from quantmux.testing.sweep_record import record_sweep

    return None if where is None else record_sweep(result, where)


def _recorded_dict(recorded: Recorded | None) -> dict[str, object] | None:
    if recorded is None:
        return None
    files = {str(file): list(kernels) for file, kernels in recorded.files.items()}
    return {"files": files, "left_out": recorded.left_out}


def _all_but_compiles(asked: tuple[str, ...]) -> tuple[str, ...]:
    from quantmux.testing.checks import CHECKS
    from quantmux.testing.compile_cells import CHECK

    return tuple(name for name in asked or CHECKS if name != CHECK)
