"""build: device code for GPUs that need not be here, compiled ahead, as evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from quantmux.cli._options import AsJson, BackendNames, KernelNames, PluginsFile
from quantmux.cli._render import heading, out, print_json, show_table, table
from quantmux.cli._session import find_device, open_registry
from quantmux.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from quantmux.capability.device import DeviceProfile
    from quantmux.registry.manager import Registry
    from quantmux.testing.cell import Outcome
    from quantmux.testing.sweep_record import Recorded
    from quantmux.testing.sweep_result import SweepResult

_STYLES = {"agrees": "green", "fails": "bold red", "not_here": "dim"}
_WORDS = {"agrees": "compiled", "fails": "FAILS", "not_here": "not here"}


def build(
    *,
    backend: BackendNames = None,
    kernel: KernelNames = None,
    device: Annotated[
        list[str] | None,
        typer.Option(
            "--device",
            "-d",
            metavar="NAME",
            help="A named GPU (h200, b200, …); several times for several. Default: all of them.",
        ),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", metavar="N", help="Compilers at once.")
    ] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Record evidence into your own folder.")
    ] = False,
    record_to: Annotated[
        str | None,
        typer.Option("--record-to", metavar="FOLDER", help="Into this one; package: the plugins'."),
    ] = None,
    plugins: PluginsFile = None,
    as_json: AsJson = False,
) -> None:
    """Compile every kernel for every named GPU it claims; needs no GPU.

    Of the kernels that offer it (`compile_for`). With `--record` each GPU's evidence says
    `compiled`. Exit code 1 when a kernel does not compile for what it claims, or nothing did.
    """
    from quantmux.cli._sweep_view import SweepProgress
    from quantmux.registry.user_folder import user_folder
    from quantmux.testing.compile_cells import CHECK
    from quantmux.testing.sweep import Plugins, Selection, sweep
    from quantmux.testing.sweep_record import USER, record_compiled

    registry = open_registry(plugins)
    names = _devices(device or (), registry)
    selection = Selection(
        backends=tuple(dict.fromkeys(backend or ())),
        kernels=tuple(dict.fromkeys(kernel or ())),
        checks=(CHECK,),
        labels=names,
    )
    with SweepProgress("build") as progress:
        result = sweep(
            selection,
            plugins=Plugins(plugins),
            device="cpu",
            jobs=jobs,
            out=user_folder() / "sweeps" / "build",
            resume=False,
            progress=progress,
        )
    where = record_to or (USER if record else None)
    recorded = None if where is None else record_compiled(result, where)
    if as_json:
        print_json(_to_dict(result, recorded))
    else:
        _show(out(), result, recorded)
    if result.interrupted:
        raise typer.Exit(130)
    if result.failures or result.failed_plugins or not result.shows_something:
        raise typer.Exit(1)


def _devices(given: list[str] | tuple[str, ...], registry: Registry) -> tuple[str, ...]:
    """Give the profiles' names.

    Raises:
        ConfigError: One is no named GPU.
    """
    profiles = registry.profiles()
    names = []
    for name in given:
        found = find_device(name)
        if found.name not in profiles or not _is_gpu(found):
            raise ConfigError(
                f'build compiles for named GPUs, found "{name}"',
                facts=["named: " + " ".join(n for n, p in profiles.items() if _is_gpu(p))],
                code="device",
            )
        names.append(found.name)
    return tuple(dict.fromkeys(names))


def _is_gpu(profile: DeviceProfile) -> bool:
    return profile.arch.vendor in ("nvidia", "amd")


def _to_dict(result: SweepResult, recorded: Recorded | None) -> dict[str, Any]:
    files = {} if recorded is None else recorded.files
    return {
        "kernels": [
            {
                "id": cell.kernel,
                "device": cell.label,
                "outcome": _word(outcome).lower().replace(" ", "_"),
                "code": outcome.code,
                "reason": outcome.reason,
                "seconds": round(outcome.seconds, 3),
            }
            for cell, outcome in result.results
        ],
        "failed_plugins": [record.to_dict() for record in result.failed_plugins],
        "interrupted": result.interrupted,
        "ok": result.ok,
        "recorded": {str(file): list(kernels) for file, kernels in files.items()},
    }


def _show(console: Console, result: SweepResult, recorded: Recorded | None) -> None:
    from quantmux.cli._sweep_view import count, show_recorded

    fold = "fold"
    rows = table(("kernel", fold), "outcome", ("for", fold), ("what was made, or why not", fold))
    for (kernel, verdict, reason), devices in _alike(result).items():
        word = Text(_WORDS[verdict], style=_STYLES[verdict])
        rows.add_row(kernel, word, " ".join(devices), reason)
    show_table(console, rows)
    if result.failed_plugins:
        console.print(heading("plugins that failed"))
        for record in result.failed_plugins:
            console.print(f"  {record.name}: {'; '.join(record.reasons)}", soft_wrap=True)
    if recorded is not None:
        show_recorded(console, recorded)
    compiled = {c.kernel for c, o in result.results if o.verdict == "agrees"}
    failed = len(result.failures)
    done = "" if result.shows_something else "nothing was compiled: "
    text = f"\n{done}{count(len(compiled), 'kernel')} compiled, {failed} failed"
    console.print(Text(f"{text} in {result.seconds:.0f} s", style="bold"))


def _alike(result: SweepResult) -> dict[tuple[str, str, str], list[str]]:
    """Put the devices with one answer of one kernel together."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for cell, outcome in result.results:
        key = (cell.kernel, str(outcome.verdict), outcome.reason)
        found.setdefault(key, []).append(cell.label)
    return found


def _word(outcome: Outcome) -> str:
    return _WORDS[str(outcome.verdict)]
