"""The speed table of the Triton backend, with its peers, in one process and by one protocol.

    python benchmarks/triton_table.py --compile                # ahead, in parallel, no timing
    python benchmarks/triton_table.py --out FOLDER [--only block,row] [--budget 240]

Needs a GPU and an installed quantmux. Peers are timed where they are: a folder ``vllm`` with vLLM's
extensions, and ``deep_gemm``, on the path. What is not there is named in the result. The result is
``<date>-<device>-triton-table.json`` in the schema of `quantmux.bench`; the table is printed last.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from triton_markdown import table
from triton_race import Race
from triton_sections import Section, sections
from triton_twins import Pdl

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
from quantmux.registry.guard import describe
from quantmux.runtime.context import default_context

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile

NAME = "triton-table"
MAX_COPIES = 900
"""So many copies of the smallest case, 16 rows of 7168, are five times the L2 cache."""

_start = time.monotonic()


def say(line: str) -> None:
    print(f"[{time.monotonic() - _start:6.1f}] {line}", file=sys.stderr, flush=True)


def wanted(only: str) -> list[Section]:
    """Give the asked sections, in the table's order."""
    keys = [key for key in only.split(",") if key]
    known = sections()
    unknown = set(keys) - {section.key for section in known}
    if unknown:
        sys.exit(
            f"no section {', '.join(sorted(unknown))}; there are: "
            + " ".join(section.key for section in known)
        )
    return [section for section in known if not keys or section.key in keys]


def compile_one(key: str, index: int, device_name: str) -> str:
    """Run every contender of a case once, in a process of its own; gives what failed."""
    device = resolve_device(device_name)
    section = next(s for s in sections() if s.key == key)
    case = section.cases[index]
    binder = Binder(default_context(), Materials(case.config, device))
    inputs = binder.materials.inputs(case.m, 1)
    problems = []
    for entry in Race(section, Pdl())(case, binder, inputs):
        try:
            made = entry.make()
            if isinstance(made, str):
                problems.append(f"{entry.name}: {made}")
            else:
                made.calls[0]()
        except Exception as error:  # noqa: BLE001 - it is told; the table's run shows it as a row
            problems.append(f"{entry.name}: {describe(error)}")
    for peer in (make() for make in section.peers):
        try:
            if not peer.unavailable(device) and not peer.refuses(case):
                peer.bind(case, binder.materials, inputs).calls[0]()
        except Exception as error:  # noqa: BLE001 - likewise
            problems.append(f"{peer.name}: {describe(error)}")
    return "; ".join(problems)


def compile_all(chosen: Iterable[Section], device: DeviceProfile, workers: int) -> None:
    """Compile everything the table launches, so that no compiler runs beside a clock."""
    jobs = [(s.key, i) for s in chosen for i in range(len(s.cases))]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn) as pool:
        running = {pool.submit(compile_one, *job, device.torch_name): job for job in jobs}
        for done in as_completed(running):
            error = done.exception()
            problem = describe(error) if error else done.result()
            if problem:
                say(f"{running[done]}: {problem[:300]}")
    say(f"compiled {len(jobs)} cases")


def measure(
    chosen: Sequence[Section], device: DeviceProfile, effort: Effort, budget: float, command: str
) -> Report:
    """Time the sections until the budget is spent; what was left out is named in the report."""
    context = default_context()
    pdl = Pdl()
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
    for section in chosen:
        present, missing = here([make() for make in section.peers], device)
        report.missing |= missing
        bench = Bench(
            context=context,
            device=device,
            effort=replace(effort, gemm=section.cases[0].config.op == "linear"),
            ceilings=ceilings,
            peers=present,
            choose=Race(section, pdl),
        )
        for _, same in groupby(section.cases, key=lambda case: case.config):
            cases: list[BenchCase] = list(same)
            if time.monotonic() - _start > budget:
                left_out += [f"{section.key}: {case.name}" for case in cases]
                continue
            found = list(bench.run(cases))
            report.rows += found
            for row in found:
                if row.status != "ok":
                    say(f"FAILED {row.case} {row.kernel}: {row.reason[:200]}")
        say(f"{section.key}: {len(report.rows)} rows so far")
    report.protocol["left_out"] = left_out
    report.rows = with_peers(report.rows)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--compile", action="store_true", help="compile only")
    parser.add_argument("--only", default="", help="sections, by commas")
    parser.add_argument("--budget", type=float, default=240.0, help="seconds of this process")
    parser.add_argument("--rounds", type=int, default=0, help="turns of every contender")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args()
    chosen = wanted(given.only)
    device = resolve_device(given.device)
    if given.compile:
        compile_all(chosen, device, given.workers)
        return
    check_target(given.out)
    effort = replace(effort_for(device), max_copies=MAX_COPIES)
    if given.rounds:
        effort = replace(effort, rounds=given.rounds)
    command = " ".join(["python", "benchmarks/triton_table.py", *sys.argv[1:]])
    report = measure(chosen, device, effort, given.budget, command)
    say(f"written {write_report(report, given.out, NAME)}")
    print(table(report.to_dict()))


if __name__ == "__main__":
    main()
