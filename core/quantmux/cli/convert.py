"""convert: an unquantized model in, a quantized checkpoint out."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from quantmux.cli._options import AsJson
from quantmux.cli._progress import counted_bar
from quantmux.cli._render import heading, out, print_json, table
from quantmux.config import scheme as named_scheme
from quantmux.errors import ConfigError

if TYPE_CHECKING:
    from quantmux.checkpoint import ConvertReport
    from quantmux.config import Scheme

_SHOWN = 6


def convert(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="Folder of an unquantized model: safetensors files and config.json.",
            show_default=False,
        ),
    ],
    out_dir: Annotated[
        Path, typer.Argument(metavar="OUT", help="Folder to make.", show_default=False)
    ],
    *,
    scheme: Annotated[
        str,
        typer.Option("--scheme", "-s", help="fp8_block128, nvfp4, …", show_default=False),
    ],
    calibrate: Annotated[
        Path | None,
        typer.Option(
            "--calibrate",
            metavar="TEXT",
            help="Text, one sample a line, for schemes with static activation scales.",
        ),
    ] = None,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="deepseek_fp8, autofp8, compressed_tensors or modelopt; "
            "default: the usual one of the scheme.",
        ),
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option("--include", metavar="PATTERN", help="Only these layers; repeatable."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude",
            metavar="PATTERN",
            help="Leave these alone, instead of the usual (embeddings, norms, heads); repeatable.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a checkpoint that is at OUT.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Quantize the linears of a model into a new checkpoint; it appears whole or not at all."""
    wanted = named_scheme(scheme)
    _check_calibration(wanted, calibrate)
    from quantmux.checkpoint import convert as convert_model  # imports torch

    scales = None
    if calibrate is not None:
        from quantmux.checkpoint.replace_dir import check_target
        from quantmux.cli._calibration import calibrated

        check_target(out_dir.expanduser(), force=force, source=model)  # before the long part
        scales = calibrated(model, wanted, calibrate)
    with counted_bar("convert") as progress:
        task = progress.add_task("")

        def on_layer(done: int, total: int, name: str) -> None:
            progress.update(task, completed=done, total=total, description=name)

        report = convert_model(
            model,
            out_dir,
            wanted,
            include=include,
            exclude=exclude,
            calibration=scales,
            format=format_,
            force=force,
            progress=on_layer,
        )
    if as_json:
        print_json(_to_dict(report))
    else:
        _show(report)


def _check_calibration(wanted: Scheme, text: Path | None) -> None:
    if wanted.needs_static_activation_scale and text is None:
        raise ConfigError(
            f"scheme {wanted.name} needs activation scales found by calibration",
            facts=["found: no --calibrate TEXT"],
            hint="give a text file with one sample a line: --calibrate samples.txt,\n"
            "or take a scheme with dynamic or no activation scales, such as "
            + ("nvfp4_w4a16" if wanted.weight.is_nvfp4 else "fp8_channel_token"),
            code="needs_calibration",
        )
    if text is not None and not wanted.needs_static_activation_scale:
        raise ConfigError(
            f"scheme {wanted.name} has no static activation scale to calibrate",
            hint="leave --calibrate out",
            code="usage",
        )


def _to_dict(report: ConvertReport) -> dict[str, Any]:
    skipped = [{"name": name, "reason": reason} for name, reason in report.skipped]
    return {**asdict(report), "path": str(report.path), "skipped": skipped}


def _show(report: ConvertReport) -> None:
    console = out()
    ratio = report.bytes_before / report.bytes_after if report.bytes_after else 0.0
    facts = table("", ("", "fold"))
    facts.show_header = False
    facts.add_row("wrote", str(report.path))
    facts.add_row("format", f"{report.format}, scheme {report.scheme}")
    facts.add_row("converted", f"{len(report.converted)} linears")
    facts.add_row(
        "size", f"{_mib(report.bytes_after)}, was {_mib(report.bytes_before)} ({ratio:.2f}x)"
    )
    console.print(facts)
    if report.skipped:
        console.print(heading(f"left as they were: {len(report.skipped)}"))
        for name, reason in report.skipped[:_SHOWN]:
            console.print(f"  {name}: {reason}")
        if len(report.skipped) > _SHOWN:
            console.print(f"  … and {len(report.skipped) - _SHOWN} more; --json names all")
    if report.notes:
        console.print(heading("notes"))
        for text, names in _alike(report.notes).items():
            who = names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
            console.print(Text(f"  {text}\n    {who}", style="yellow"))
    console.print(f"\nnext: quantmux run {report.path}")


def _alike(notes: tuple[str, ...]) -> dict[str, list[str]]:
    """Put notes ``name: text`` of one text together."""
    groups: dict[str, list[str]] = {}
    for note in notes:
        name, _, text = note.partition(": ")
        groups.setdefault(text or name, []).append(name)
    return groups


def _mib(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"
