"""bench decoder: a decoder step of a known model, from end to end."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from quantmux.cli._options import AsJson, DeviceName, PluginsFile
from quantmux.cli._progress import counted_bar
from quantmux.cli._render import err, out, print_error, print_json
from quantmux.cli._session import find_device, open_context
from quantmux.cli.bench import here, without_folders

if TYPE_CHECKING:
    from quantmux.bench.decoder.rows import DecoderReport
    from quantmux.bench.decoder.run import DecoderPlan
    from quantmux.runtime.context import Context

_WHAT = "What is measured"
_HOW = "How"
_RESULT = "Where it goes"

_PREFILL: Final = 512
"""From so many rows on they are the tokens of one prompt; fewer are one token each of sequences."""

_TINY_PREFILL: Final = 64

_MS: Final = (1, 8, 16, 64, 128, 512, 2048, 8192)
_QUICK_MS: Final = (1, 64, 512)
_TINY_MS: Final = (1, 4, 64)
_TINY_KV: Final = 64
_INTERRUPTED: Final = 130


def _option(flag: str, text: str, panel: str, metavar: str | None = None) -> Any:
    return typer.Option(flag, help=text, rich_help_panel=panel, metavar=metavar)


def bench_decoder(
    *,
    model: Annotated[str, _option("--model", "qwen3-8b or dsv3.", _WHAT, "NAME")] = "qwen3-8b",
    scheme: Annotated[
        str | None,
        _option("--scheme", "Of all linears; default: as the model is published.", _WHAT, "NAME"),
    ] = None,
    m: Annotated[
        str | None,
        _option("--m", "Rows: sequences at decode, from 512 on tokens of a prompt.", _WHAT, "M,…"),
    ] = None,
    layers: Annotated[
        int | None, _option("--layers", "Layers of the step; default 4.", _WHAT, "COUNT")
    ] = None,
    kv: Annotated[
        int, _option("--kv", "Tokens in the cache of each sequence at decode.", _WHAT, "COUNT")
    ] = 2048,
    separate: Annotated[
        bool, _option("--separate", "q, k and v are linears of their own.", _WHAT)
    ] = False,
    no_attention: Annotated[
        bool, _option("--no-attention", "Leave attention out: a token reads itself.", _WHAT)
    ] = False,
    variants: Annotated[
        str | None,
        _option("--variants", "bf16, backends; selection is always there.", _WHAT, "NAME,…"),
    ] = None,
    compile_for: Annotated[
        str,
        _option(
            "--compile", "Variants that are compiled too; best: the best backend.", _HOW, "NAME,…"
        ),
    ] = "bf16,best,selection",
    no_compile: Annotated[
        bool, _option("--no-compile", "Leave torch.compile out, which takes most time.", _HOW)
    ] = False,
    no_oracle: Annotated[
        bool, _option("--no-oracle", "Do not time every linear's pipelines.", _HOW)
    ] = False,
    quick: Annotated[
        bool, _option("--quick", "Three numbers of rows, short rounds.", _HOW)
    ] = False,
    seed: Annotated[int, _option("--seed", "Of weights and inputs.", _HOW)] = 0,
    out_file: Annotated[
        Path | None, _option("--out", "Write the result there.", _RESULT, "FILE.json|FOLDER")
    ] = None,
    device: DeviceName = None,
    plugins: PluginsFile = None,
    as_json: AsJson = False,
) -> None:
    """Time a decoder step in bf16, by each backend alone, and as quantmux selects.

    Eagerly, as a CUDA graph, under torch.compile and with quantmux's fusion pass; and every linear
    of it against the fastest pipeline of the same run. A step that disagrees with the reference is
    not timed; then the exit code is 1. Without a GPU a tiny form tries the plumbing: its figures
    mean nothing.
    """
    context = open_context(plugins)
    profile = here(find_device(device), "bench decoder")
    from quantmux.bench.decoder.model import Form
    from quantmux.bench.decoder.run import DecoderPlan
    from quantmux.bench.decoder.shapes import decoder_shape
    from quantmux.bench.decoder.state import StepCase
    from quantmux.bench.effort import effort_for
    from quantmux.bench.shapes import parse_counts

    tiny = not profile.is_cuda
    shape = decoder_shape(model, tiny=tiny)
    if layers is not None:
        shape = shape.with_layers(parse_counts(str(layers), "--layers")[0])
    usual = _TINY_MS if tiny else _QUICK_MS if quick else _MS
    counts = usual if m is None else parse_counts(m)
    prompt = _TINY_PREFILL if tiny else _PREFILL
    plan = DecoderPlan(
        shape=shape,
        scheme=scheme or shape.schemes[0],
        form=Form(merged=not separate, attends=not no_attention),
        cases=tuple(StepCase("decode" if c < prompt else "prefill", c) for c in counts),
        device=profile,
        effort=effort_for(profile, quick=quick or tiny, seed=seed),
        kv_length=_TINY_KV if tiny else parse_counts(str(kv), "--kv")[0],
        variants=_names(variants),
        compile_for=_names(compile_for),
        with_oracle=not no_oracle,
        command="quantmux " + " ".join(without_folders(part) for part in sys.argv[1:]),
    )
    if no_compile:
        plan = plan.without_compile()
    if out_file is not None:
        from quantmux.bench.result_file import check_target

        check_target(out_file)
    report = _run(plan, context)
    if as_json:
        print_json(report.to_dict())
    else:
        from quantmux.cli.bench_decoder_view import show_decoder

        show_decoder(report, out())
    if out_file is not None:
        from quantmux.bench.result_file import write_report

        form = "" if plan.form.merged else "-separate"
        file = write_report(report, out_file, f"decoder-{report.model}-{report.scheme}{form}")
        err().print(f"written: {file}", soft_wrap=True)
    _tell(report)


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def _run(plan: DecoderPlan, context: Context) -> DecoderReport:
    from quantmux.bench.decoder.run import run_decoder

    progress = counted_bar("bench decoder")
    with progress:
        task = progress.add_task("", total=None)
        begun = itertools.count()  # told when a step begins: none is done at the first

        def tell(text: str) -> None:
            progress.update(task, description=text, completed=next(begun))

        return run_decoder(plan, context, tell)


def _tell(report: DecoderReport) -> None:
    """Say what is wrong on stderr, and end with exit code 1 if something is."""
    for row in report.failed:
        print_error(f"{row.kernel}, {row.mode}, was not timed on {row.case}\n  {row.reason}")
    if report.interrupted:
        print_error("interrupted: steps that were not timed are not in the result")
        raise typer.Exit(_INTERRUPTED)
    if report.failed:
        raise typer.Exit(1)
