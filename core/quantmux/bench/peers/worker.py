"""The process of a peer's environment: ``python -m quantmux.bench.peers.worker ORDER REPORT``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from quantmux.bench.effort import Effort
from quantmux.bench.rows import BenchCase
from quantmux.bench.run import Plan, run_bench
from quantmux.capability.detect import resolve_device
from quantmux.config import parse_layer_config
from quantmux.runtime.context import default_context


def main(order_file: str, report_file: str) -> None:
    """Measure what the order file asks, and write the report."""
    order = json.loads(Path(order_file).read_text(encoding="utf-8"))
    plan = Plan(
        cases=tuple(BenchCase(parse_layer_config(c["config"]), c["m"]) for c in order["cases"]),
        device=resolve_device(order["device"]),
        effort=Effort(**order["effort"]),
        peers=tuple(order["peers"]),
        quick=order["quick"],
        with_kernels=False,
    )
    report = run_bench(plan, default_context())
    Path(report_file).write_text(json.dumps(report.to_dict()), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
