"""bench: how fast the kernels of a layer are here, and which one selection should take."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantmux.capability.detect import device_here
from quantmux.cli._bench_cases import cases_of
from quantmux.cli._options import AsJson, DeviceName, PluginsFile
from quantmux.cli._progress import counted_bar
from quantmux.cli._render import err, out, print_error, print_json
from quantmux.cli._session import find_device, open_context
from quantmux.errors import ConfigError

if TYPE_CHECKING:
    from quantmux.bench.rows import Report
    from quantmux.bench.run import Plan
    from quantmux.capability.device import DeviceProfile
    from quantmux.runtime.context import Context

_WHAT = "What is measured"
_HOW = "How"
_RESULT = "Where it goes"


def _option(flag: str, text: str, panel: str, metavar: str | None = None) -> Any:
    return typer.Option(flag, help=text, rich_help_panel=panel, metavar=metavar)


def bench(
    ctx: typer.Context,
    what: Annotated[
        str,
        typer.Argument(
            metavar="OP|CHECKPOINT",
            help="linear, quantize, silu_mul_quantize, inverse_rope_quantize, rmsnorm_quantize, "
            "rope_quantize, relayout; or a checkpoint, whose distinct linears are measured on "
            "random weights.",
            show_default=False,
        ),
    ],
    *,
    scheme: Annotated[
        str | None,
        _option("--scheme", "Schemes of a linear.", _WHAT, "NAME,…"),
    ] = None,
    operand: Annotated[
        str | None, _option("--operand", "Operands that a producer makes.", _WHAT, "NAME,…")
    ] = None,
    layout: Annotated[
        str | None,
        _option("--layout", "Scale layouts; SOURCE:TARGET for relayout.", _WHAT, "NAME,…"),
    ] = None,
    shapes: Annotated[
        str | None,
        _option("--shapes", "Shapes: N×K of a linear; N of a producer.", _WHAT, "NxK,…"),
    ] = None,
    model: Annotated[
        str | None,
        _option("--model", "The linears of a model: dsv3, llama3-8b, …", _WHAT, "NAME"),
    ] = None,
    m: Annotated[str | None, _option("--m", "Numbers of rows.", _WHAT, "M,…")] = None,
    in_dtype: Annotated[str, _option("--in-dtype", "bf16, fp16 or fp32.", _WHAT)] = "bf16",
    out_dtype: Annotated[str, _option("--out-dtype", "bf16, fp16 or fp32.", _WHAT)] = "bf16",
    bias: Annotated[bool, _option("--bias", "The linears have a bias.", _WHAT)] = False,
    kernels: Annotated[
        list[str] | None,
        _option("--kernels", "Only pipelines with a kernel that fits; any tier.", _WHAT, "PATTERN"),
    ] = None,
    peers: Annotated[
        str | None,
        _option("--peers", "bf16, scaled_mm, deepgemm, vllm, or all.", _WHAT, "NAME,…"),
    ] = None,
    peer_env: Annotated[
        list[str] | None,
        _option("--peer-env", "A peer in a process of its own.", _WHAT, "PEER=FOLDER|PYTHON"),
    ] = None,
    gemm: Annotated[
        bool, _option("--gemm", "Also time consumers alone, on quantized inputs.", _HOW)
    ] = False,
    warm: Annotated[bool, _option("--warm", "Also time with warm caches.", _HOW)] = False,
    quick: Annotated[
        bool, _option("--quick", "A quick look: short rounds, nothing is recorded.", _HOW)
    ] = False,
    seed: Annotated[int, _option("--seed", "Of weights and inputs.", _HOW)] = 0,
    record: Annotated[
        bool, _option("--record", "Record the times, for selection to rank by.", _RESULT)
    ] = False,
    record_to: Annotated[
        str | None,
        _option(
            "--record-to",
            "Record them there instead of in your own folder.",
            _RESULT,
            "FOLDER|package",
        ),
    ] = None,
    out_file: Annotated[
        Path | None,
        _option("--out", "Write the result there.", _RESULT, "FILE.json|FOLDER"),
    ] = None,
    plot: Annotated[
        Path | None, _option("--plot", "Draw the roofline.", _RESULT, "FILE.svg|.png")
    ] = None,
    device: DeviceName = None,
    plugins: PluginsFile = None,
    as_json: AsJson = False,
) -> None:
    """Time every pipeline that selection would compare, under one protocol, next to ceilings.

    Each is compared with the reference on the very case first. One that disagrees is not timed;
    then the exit code is 1. `quantmux bench seeds` is a verb of its own, and so is every other of
    two words that `quantmux --help` lists (a checkpoint of such a name is `./seeds`).
    """
    if ctx.parent is not None and f"bench {what}" in getattr(ctx.parent.command, "commands", {}):
        raise ConfigError(
            f"bench {what} is a verb of its own, and its words stand together",
            hint=f"quantmux bench {what} --help",
            code="usage",
        )
    context = open_context(plugins)
    profile = here(find_device(device))
    cases = cases_of(
        what,
        {"scheme": scheme, "operand": operand, "layout": layout, "shapes": shapes, "model": model},
        m=m,
        in_dtype=in_dtype,
        out_dtype=out_dtype,
        bias=bias,
        quick=quick,
    )
    from quantmux.bench.effort import effort_for
    from quantmux.bench.peers.environment import PeerEnv
    from quantmux.bench.peers.known import PEERS, peers_of
    from quantmux.bench.run import Plan

    asked = tuple(name.strip() for name in (peers or "").split(",") if name.strip())
    peers_of(asked)  # a name that is not known is told before minutes are spent
    plan = Plan(
        cases=cases,
        device=profile,
        effort=effort_for(
            profile, quick=quick, warm=warm, gemm=gemm or bool(asked or peer_env), seed=seed
        ),
        peers=asked,
        environments=tuple(PeerEnv.parse(text, tuple(PEERS)) for text in peer_env or ()),
        only=tuple(kernels or ()),
        quick=quick,
        command="quantmux " + " ".join(without_folders(part) for part in sys.argv[1:]),
    )
    if record or record_to:
        from quantmux.bench.record import check_record

        check_record(profile, record_to, quick=quick)
    if out_file is not None:
        from quantmux.bench.result_file import check_target

        check_target(out_file)
    if plot is not None:
        from quantmux.bench.roofline import check_plot

        check_plot(plot)
    report = _run(plan, context)
    _answer(report, as_json=as_json)
    _keep(report, plan, what, out_file, plot)
    if record or record_to:
        from quantmux.bench.record import record as record_report

        for file in record_report(report, cases, context.registry, profile, record_to):
            err().print(f"recorded: {file}", soft_wrap=True)
    _tell(report)


def without_folders(part: str) -> str:
    """Give an argument with an absolute path cut to its last name: results are shown to others."""
    name, equals, value = part.rpartition("=")
    path = PurePath(value)
    return name + equals + (path.name if path.is_absolute() else value)


def here(profile: DeviceProfile, verb: str = "bench") -> DeviceProfile:
    """Give the profile of a device that is here; a verb that measures needs one.

    Raises:
        ConfigError: It is not here.
    """
    try:
        return device_here(profile)
    except ConfigError as error:
        raise ConfigError(
            f'{verb} needs a device that is here, found "{profile.name}"',
            facts=error.facts,
            hint="measured times of other devices come with backends: quantmux explain --device",
            code="device",
        ) from None


def _run(plan: Plan, context: Context) -> Report:
    from quantmux.bench.run import run_bench

    progress = counted_bar("bench")
    steps = len(plan.cases) + len(plan.environments) + 1
    with progress:
        task = progress.add_task("", total=steps)
        begun = itertools.count()  # told when a step begins: none is done at the first

        def tell(text: str) -> None:
            progress.update(task, description=text, completed=next(begun))

        return run_bench(plan, context, tell)


def _answer(report: Report, *, as_json: bool) -> None:
    if as_json:
        print_json(report.to_dict())
        return
    from quantmux.cli._bench_view import show_report

    show_report(report, out())


def _keep(
    report: Report,
    plan: Plan,
    what: str,
    out_file: Path | None,
    plot: Path | None,
) -> None:
    if out_file is not None:
        from quantmux.bench.result_file import write_report

        schemes = "-".join(dict.fromkeys(case.scheme for case in plan.cases))
        file = write_report(report, out_file, f"{Path(what).name}-{schemes}")
        err().print(f"written: {file}", soft_wrap=True)
    if plot is not None:
        from quantmux.bench.roofline import write_plot

        write_plot(report, plot)
        err().print(f"drawn: {plot}", soft_wrap=True)


def _tell(report: Report) -> None:
    """Say what is wrong on stderr, and end with exit code 1 if a kernel is."""
    kernels = [row for row in report.failed if row.kind != "peer"]
    timed = any(row.kind in ("kernel", "peer") and row.us for row in report.rows)
    for row in report.failed:
        print_error(f"{row.kernel} was not timed on {row.case}\n  {row.reason}")
    if not timed:
        print_error("nothing was timed: no pipeline serves these cases\n  next: quantmux explain")
    if kernels or not timed:
        raise typer.Exit(1)
