"""What the speed tables of the backends share: sections timed in one process, by one protocol.

`triton_table.py` and `cutlass_table.py` are programs that call `main` with their own sections:

    python benchmarks/triton_table.py --compile                # ahead, in parallel, no timing
    python benchmarks/triton_table.py --out FOLDER [--only block,row] [--budget 240]

Needs a GPU and an installed quantmux. Peers are timed where they are: a folder ``vllm`` with vLLM's
extensions, and ``deep_gemm``, on the path. What is not there is named in the result. The result is
``<date>-<device>-<name>.json`` in the schema of `quantmux.bench`; the table is printed last.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speed_race import Race, Switch

from quantmux.bench.ceilings import empty_node, measure_ceilings
from quantmux.bench.contenders import Binder
from quantmux.bench.effort import Effort, effort_for
from quantmux.bench.harness import Bench
from quantmux.bench.materials import Materials
from quantmux.bench.peers.known import here
from quantmux.bench.result_file import check_target, write_report
from quantmux.bench.rows import BenchCase, Report, Row, with_peers
from quantmux.bench.run import versions
from quantmux.capability.detect import resolve_device
from quantmux.registry.guard import describe, guarded
from quantmux.runtime.context import default_context

if TYPE_CHECKING:
    from speed_sections import Section

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LayerConfig

MAX_COPIES = 1024
"""So many copies of the smallest case, 16 rows of 7168, are five times the L2 cache."""

_start = time.monotonic()


@dataclass(frozen=True)
class SpeedTable:
    """One table; what other processes are told of it is the name of its module.

    Attributes:
        name: Of its result file.
        module: Has ``TABLE``, this object.
        sections: Gives the lines, in the order of their importance.
        backends: Whose kernels are ours, the table's own first.
        switch: Makes the switch of programmatic dependence.
        brief: Result → the text that is printed.
        page: Result → the text with every case.
    """

    name: str
    module: str
    sections: Callable[[], tuple[Section, ...]]
    backends: tuple[str, ...]
    switch: Callable[[], Switch]
    brief: Callable[[Mapping[str, Any]], str]
    page: Callable[[Mapping[str, Any]], str]


def say(line: str) -> None:
    print(f"[{time.monotonic() - _start:6.1f}] {line}", file=sys.stderr, flush=True)


def wanted(table: SpeedTable, only: str) -> list[Section]:
    """Give the asked sections, in the table's order."""
    keys = [key for key in only.split(",") if key]
    known = table.sections()
    unknown = set(keys) - {section.key for section in known}
    if unknown:
        sys.exit(
            f"no section {', '.join(sorted(unknown))}; there are: "
            + " ".join(section.key for section in known)
        )
    return [section for section in known if not keys or section.key in keys]


def compile_some(module: str, key: str, numbers: Sequence[int], device_name: str) -> str:
    """Run every contender of some cases once, in a process of its own; gives what failed.

    Args:
        module: Of the table.
        key: Of the section.
        numbers: Of its cases, all of one config.
        device_name: A device that is here.
    """
    device = resolve_device(device_name)
    table: SpeedTable = import_module(module).TABLE
    section = next(s for s in table.sections() if s.key == key)
    cases = [section.cases[i] for i in numbers]
    binder = Binder(default_context(), Materials(cases[0].config, device))
    race = Race(section, table.switch(), table.backends, gate=False)
    peers = [peer for make in section.peers if not (peer := make()).unavailable(device)]
    problems = []
    for case in cases:
        inputs = binder.materials.inputs(case.m, 1)
        for entry in race(case, binder, inputs):
            problems += _problems(entry.name, entry.make)
        for peer in peers:
            if not peer.refuses(case):
                bind = partial(peer.bind, case, binder.materials, inputs)
                problems += _problems(peer.name, bind)
    return "; ".join(problems)


def _problems(name: str, make: Callable[[], Any]) -> list[str]:
    """Make somebody and call it once; gives what it raised."""
    made = guarded(make)
    call = getattr(made.value, "calls", (None,))[0]
    error = made.error or (guarded(call).error if call else None)
    return [] if error is None else [f"{name}: {describe(error)}"]


def compile_all(
    table: SpeedTable, chosen: Iterable[Section], device: DeviceProfile, workers: int
) -> None:
    """Compile everything the table launches, so that no compiler runs beside a clock."""
    jobs: dict[tuple[str, LayerConfig], list[int]] = {}
    for section in chosen:
        for number, case in enumerate(section.cases):
            jobs.setdefault((section.key, case.config), []).append(number)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn) as pool:
        running = {
            pool.submit(
                compile_some, table.module, key, numbers, device.torch_name
            ): f"{key} {config}"
            for (key, config), numbers in jobs.items()
        }
        for done in as_completed(running):
            error = done.exception()
            problem = describe(error) if error else done.result()
            if problem:
                say(f"{running[done]}: {problem[:300]}")
    say(f"compiled for {len(jobs)} configs")


def measure(
    table: SpeedTable,
    chosen: Sequence[Section],
    device: DeviceProfile,
    effort: Effort,
    budget: float,
    command: str,
) -> Report:
    """Time the sections until the budget is spent; what was left out is named in the report."""
    context = default_context()
    pdl = table.switch()
    ceilings = measure_ceilings(device)
    say(f"ceilings {ceilings}")
    report = Report(
        device=device.name,
        title=device.title,
        date=datetime.now(UTC).date().isoformat(),
        versions=versions(device),
        ceilings=ceilings,
        protocol={
            "rounds": effort.rounds,
            "rotate_mb": effort.rotate_bytes / 1e6,
            "max_copies": effort.max_copies,
            "seed": effort.seed,
            "quick": False,
        },
        command=command,
    )
    node = empty_node(device, effort.rounds)
    if node is not None:
        report.rows.append(
            Row(
                "empty",
                "empty graph node",
                "empty graph node",
                kind="node",
                us=node.us,
                us_min=node.us_min,
                us_max=node.us_max,
                noise=node.noise,
                method="graph",
            )
        )
    left_out: list[str] = []
    selected: dict[str, list[str]] = {}
    for section in chosen:
        present, missing = here([make() for make in section.peers], device)
        report.missing |= missing
        bench = Bench(
            context=context,
            device=device,
            effort=replace(effort, gemm=section.cases[0].config.op == "linear"),
            ceilings=ceilings,
            peers=present,
            choose=Race(section, pdl, table.backends),
        )
        for _, same in groupby(section.cases, key=lambda case: case.config):
            cases: list[BenchCase] = list(same)
            if time.monotonic() - _start > budget:
                left_out += [f"{section.key}: {case.name}" for case in cases]
                continue
            selection = context.select(cases[0].config, device)
            for case in cases:
                taken = selection.pipeline_for(case.m)
                selected[case.name] = list(taken.ids) if taken else []
            found = list(bench.run(cases))
            report.rows += found
            for row in found:
                if row.status != "ok":
                    say(f"FAILED {row.case} {row.kernel}: {row.reason[:200]}")
        say(f"{section.key}: {len(report.rows)} rows so far")
    report.protocol |= {"left_out": left_out, "selected": selected}
    report.rows = with_peers(report.rows)
    return report


def main(table: SpeedTable) -> None:
    """Read the command line, and compile or measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--compile", action="store_true", help="compile only")
    parser.add_argument("--only", default="", help="sections, by commas")
    parser.add_argument("--budget", type=float, default=240.0, help="seconds of this process")
    parser.add_argument("--rounds", type=int, default=0, help="turns of every contender")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args()
    chosen = wanted(table, given.only)
    device = resolve_device(given.device)
    if given.compile:
        compile_all(table, chosen, device, given.workers)
        return
    check_target(given.out)
    effort = replace(effort_for(device), max_copies=MAX_COPIES)
    if given.rounds:
        effort = replace(effort, rounds=given.rounds)
    command = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    report = measure(table, chosen, device, effort, given.budget, command)
    file = write_report(report, given.out, table.name)
    file.with_suffix(".md").write_text(table.page(report.to_dict()), encoding="utf-8")
    say(f"written {file}, and the table of every case beside it")
    print(table.brief(report.to_dict()))
