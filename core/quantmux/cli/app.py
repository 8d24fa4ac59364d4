"""The typer application: every verb under its name."""

from __future__ import annotations

from typing import Annotated

import typer

from quantmux._version import __version__
from quantmux.cli.bench import bench
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

app = typer.Typer(
    name="quantmux",
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
