"""The typer application: every verb under its name."""

from __future__ import annotations

from typing import Annotated, Any

import typer
import typer.core

from quantmux._version import __version__
from quantmux.cli.bench import bench
from quantmux.cli.bench_decoder import bench_decoder
from quantmux.cli.bench_seeds import bench_seeds
from quantmux.cli.bench_selection import bench_selection
from quantmux.cli.build import build
from quantmux.cli.convert import convert
from quantmux.cli.doctor import doctor
from quantmux.cli.explain import explain
from quantmux.cli.matrix import matrix
from quantmux.cli.plan import plan
from quantmux.cli.plugins import plugins
from quantmux.cli.quarantine import quarantine
from quantmux.cli.run import run
from quantmux.cli.sweep import sweep
from quantmux.cli.warmup import warmup


class Verbs(typer.core.TyperGroup):
    """Verbs of one word or two: `bench seeds` is a verb beside `bench linear`, not an op of it."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Give the verb that two words name, else the one that the first one names."""
        two = " ".join(args[:2])
        verb = self.get_command(ctx, two) if len(args) > 1 else None
        return (two, verb, args[2:]) if verb is not None else super().resolve_command(ctx, args)


app = typer.Typer(
    name="quantmux",
    cls=Verbs,
    help="One description of a quantized layer in, the best kernel for the GPU at hand out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"quantmux {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error, for any verb.")
    ] = False,
) -> None:
    # both are done before this is called: --version by its callback, --debug by main
    del version, debug


for _verb in (
    doctor,
    plugins,
    matrix,
    explain,
    plan,
    warmup,
    convert,
    run,
    sweep,
    build,
    bench,
    quarantine,
):
    app.command()(_verb)
app.command("bench seeds")(bench_seeds)
app.command("bench decoder")(bench_decoder)
app.command("bench selection")(bench_selection)
