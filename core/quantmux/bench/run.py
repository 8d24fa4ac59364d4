"""One run: ceilings, cases, peers' own processes, and the report of all."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from quantmux._version import __version__
from quantmux.bench.ceilings import empty_node, measure_ceilings
from quantmux.bench.harness import Bench
from quantmux.bench.peers.environment import PeerEnv, run_there
from quantmux.bench.peers.known import here, peers_of
from quantmux.bench.rows import BenchCase, Report, Row, with_peers
from quantmux.capability.needs import package_version
from quantmux.registry.digest import kernel_digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantmux.bench.effort import Effort
    from quantmux.capability.device import DeviceProfile
    from quantmux.runtime.context import Context

_PACKAGES = ("torch", "triton")


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure.

    Attributes:
        cases: Neighbours of one config share its weights.
        device: A device that is here.
        effort: How much.
        peers: Names of peers to be timed beside the kernels.
        environments: Peers that are timed in processes of their own.
        only: Patterns of kernel ids, none for all that compete.
        quick: Ceilings are only looked at.
        with_kernels: Time pipelines; a peer's own process does not.
        command: Kept in the report.
    """

    cases: tuple[BenchCase, ...]
    device: DeviceProfile
    effort: Effort
    peers: tuple[str, ...] = ()
    environments: tuple[PeerEnv, ...] = ()
    only: tuple[str, ...] = ()
    quick: bool = False
    with_kernels: bool = True
    command: str = ""


def run_bench(plan: Plan, context: Context, tell: Callable[[str], None] = lambda _: None) -> Report:
    """Measure a plan and give the report; a contender that fails is a row, not an exception.

    Args:
        plan: What to measure.
        context: Plugins and policy.
        tell: Called with a line before every step.

    Raises:
        ConfigError: A peer is not known.
        LaunchError: The CUDA context is lost.
    """
    device = plan.device
    for spec in context.registry.kernels:
        # of the sources as they are before anything runs; `record` looks whether they still are
        kernel_digest(spec, context.registry.folder(spec.backend))
    present, missing = here(peers_of(plan.peers), device)
    tell("ceilings")
    rates = ("int8",) if any("int8" in case.scheme for case in plan.cases) else ()
    ceilings = measure_ceilings(device, rates=rates, quick=plan.quick)
    report = Report(
        device=device.name,
        title=device.title,
        date=datetime.now(UTC).date().isoformat(),
        versions=versions(device),
        ceilings=ceilings,
        protocol={
            "rounds": plan.effort.rounds,
            "rotate_mb": plan.effort.rotate_bytes / 1e6,
            "max_copies": plan.effort.max_copies,
            "seed": plan.effort.seed,
            "quick": plan.quick,
        },
        missing=missing,
        command=plan.command,
    )
    node = empty_node(device, plan.effort.rounds)
    if node is not None:
        report.rows.append(
            Row(
                op="empty",
                case="empty graph node",
                kernel="empty graph node",
                kind="node",
                us=node.us,
                us_min=node.us_min,
                us_max=node.us_max,
                noise=node.noise,
                method="graph",
            )
        )
    bench = Bench(
        context=context,
        device=device,
        effort=plan.effort,
        ceilings=ceilings,
        peers=present,
        only=plan.only,
        with_kernels=plan.with_kernels,
    )
    report.rows += bench.run(plan.cases, tell)
    for env in plan.environments:
        tell(f"{env.peer} in {env.place}")
        _merge(report, env, run_there(env, plan.cases, device, plan.effort, quick=plan.quick))
    report.rows = with_peers(report.rows)
    return report


def versions(device: DeviceProfile) -> dict[str, str]:
    """Give what the times depend on: quantmux, Python, torch, Triton and the driver."""
    python = ".".join(str(part) for part in sys.version_info[:3])
    found = {"quantmux": __version__, "python": python}
    for name in _PACKAGES:
        version = package_version(name)
        if version is not None:
            found[name] = version
    if device.driver:
        found["driver"] = device.driver
    return found


def _merge(report: Report, env: PeerEnv, answer: dict[str, Any]) -> None:
    if "error" in answer:
        report.missing[f"{env.peer} [{env.place.name}]"] = answer["error"]
        return
    report.missing |= {f"{name} [{env.peer}]": why for name, why in answer["missing"].items()}
    rows = [replace(Row.of(data), env=env.peer) for data in answer["rows"]]
    noises = sorted(row.aa_noise for row in rows if row.aa_noise is not None)
    report.environments[env.peer] = {
        "versions": answer["versions"],
        "ceilings": answer["ceilings"],
        "aa_noise": noises[len(noises) // 2] if noises else None,
    }
    report.rows += rows
