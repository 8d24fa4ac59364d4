"""Options that several verbs take, spelled once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

AsJson = Annotated[
    bool, typer.Option("--json", help="Print JSON on stdout, and nothing else there.")
]
PluginsFile = Annotated[
    Path | None,
    typer.Option(
        "--plugins",
        metavar="FILE",
        help="Policy file (plugins.toml) to lay over the shipped one; "
        "default: the file that QUANTMUX_PLUGINS names.",
    ),
]
BackendNames = Annotated[
    list[str] | None,
    typer.Option("--backend", "-b", metavar="NAME", help="Only this backend; may be repeated."),
]
KernelNames = Annotated[
    list[str] | None, typer.Option("--kernel", "-k", metavar="ID", help="Only this kernel.")
]
DeviceName = Annotated[
    str | None,
    typer.Option(
        "--device",
        "-d",
        metavar="NAME",
        help="A device here (cuda, cuda:1, cpu), a named one (h200, b200, …) or an architecture "
        "(sm90); default: the first GPU here, else the CPU.",
    ),
]
InstalledOnly = Annotated[
    bool,
    typer.Option(
        "--installed-only",
        help="For a device that is not here: ask this machine for packages and tools "
        "instead of taking them as present.",
    ),
]
CheckpointPath = Annotated[
    Path,
    typer.Argument(
        metavar="CHECKPOINT",
        help="Folder with safetensors files and config.json, or one .safetensors file.",
        show_default=False,
    ),
]
