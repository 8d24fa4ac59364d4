"""build: the libraries of a backend; without one, device code for absent GPUs as evidence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from quantmux.cli._options import AsJson, BackendNames, KernelNames, PluginsFile
from quantmux.cli._render import heading, out, print_json, show_table, table
from quantmux.cli._session import find_device, open_registry
from quantmux.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from quantmux.capability.device import DeviceProfile
    from quantmux.registry.manager import Registry
    from quantmux.testing.cell import Outcome
    from quantmux.testing.sweep_record import Recorded
    from quantmux.testing.sweep_result import SweepResult

_STYLES = {"agrees": "green", "fails": "bold red", "not_here": "dim"}
_WORDS = {"agrees": "compiled", "fails": "FAILS", "not_here": "not here"}


def build(
    libraries_of: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="BACKEND",
            help="Compile the libraries of these backends, for the GPU here.",
            show_default=False,
        ),
    ] = None,
    *,
    arch: Annotated[
        list[str] | None,
        typer.Option(
            "--arch",
            metavar="90a,100f",
            help="Libraries: for these targets. Default: those of the GPUs here; without one, all.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Libraries: compile anew, also what has failed before.")
    ] = False,
    into: Annotated[
        Path | None,
        typer.Option(
            "--into",
            metavar="FOLDER",
            help="Libraries: a copy into this folder, for hosts without a compiler.",
        ),
    ] = None,
    list_only: Annotated[
        bool, typer.Option("--list", help="Libraries: show which there are, compile nothing.")
    ] = False,
    backend: BackendNames = None,
    kernel: KernelNames = None,
    device: Annotated[
        list[str] | None,
        typer.Option(
            "--device",
            "-d",
            metavar="NAME",
            help="Evidence: for this named GPU (h200, b200, …); may be repeated. Default: all.",
        ),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", metavar="N", help="Compilers at once.")
    ] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Evidence: record it into your own folder.")
    ] = False,
    record_to: Annotated[
        str | None,
        typer.Option(
            "--record-to",
            metavar="FOLDER",
            help="Evidence: record it into this folder; package: the plugins'.",
        ),
    ] = None,
    plugins: PluginsFile = None,
    as_json: AsJson = False,
) -> None:
    """Compile: the libraries of a backend, or every kernel for every GPU it claims.

    `quantmux build cutlass` makes the libraries that its kernels need, once, for the GPU here.
    What is there is kept. Exit code 1 when one could not be made.

    Without a backend it makes evidence, and needs no GPU: every kernel that offers it
    (`compile_for`) is compiled for every named GPU it claims. With `--record` each GPU's evidence
    says `compiled`. Exit code 1 when a kernel does not compile for what it claims, or nothing did.
    """
    if libraries_of:
        evidence = {"--backend": backend, "--device": device, "--record": record}
        _not_both({**evidence, "--record-to": record_to}, "with a BACKEND it makes libraries")
        _libraries(
            libraries_of, arch, kernel, plugins, jobs, force, into, list_only, as_json=as_json
        )
        return
    library = {"--arch": arch, "--force": force, "--into": into, "--list": list_only}
    _not_both(library, "without a BACKEND it makes evidence: name one, e.g. quantmux build cutlass")
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


def _libraries(
    backends: list[str],
    arch: list[str] | None,
    kernel: list[str] | None,
    plugins: Path | None,
    jobs: int | None,
    force: bool,
    into: Path | None,
    list_only: bool,
    *,
    as_json: bool,
) -> None:
    from quantmux.cli._libraries import build_libraries, libraries_of, list_libraries

    if jobs is not None and jobs < 1:
        raise ConfigError(f"jobs is a number of compilers, at least 1, found {jobs}", code="usage")
    registry = open_registry(plugins)
    archs = [part for given in arch or () for part in given.replace(",", " ").split()]
    names = list(dict.fromkeys(backends))
    units = libraries_of(registry, names, list(dict.fromkeys(archs)), list(kernel or ()))
    if list_only:
        list_libraries(units, as_json=as_json)
        return
    code = build_libraries(units, jobs=jobs, force=force, into=into, as_json=as_json)
    if code:
        raise typer.Exit(code)


def _not_both(given: Mapping[str, object], why: str) -> None:
    wrong = [name for name, value in given.items() if value]
    if wrong:
        raise ConfigError(f"{wrong[0]} does not go with this: {why}", code="usage")


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
