"""A capability sweep: op × scheme × architecture, as a Markdown page or as JSON.

What would serve each scheme on each GPU, and how well? Needs no GPU and imports no torch.

    python examples/capability_sweep.py > matrix.md
    python examples/capability_sweep.py --json --devices h200,b200
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

import quantmux as qm
from quantmux.capability.profiles import PROFILES
from quantmux.config import OPERANDS, SCHEMES, layouts_for

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = 4096  # N, K and row width: a multiple of everything, so that only the scheme counts


def questions() -> Iterator[tuple[str, str, Any]]:
    """Give (op, name of the row, config) for every scheme, and every operand in every layout."""
    for name in SCHEMES:
        yield "linear", name, qm.LinearConfig(in_features=SIZE, out_features=SIZE, scheme=name)
    for op, config in (
        ("quantize", qm.QuantizeConfig),
        ("silu_mul_quantize", qm.SiluMulQuantizeConfig),
        ("rmsnorm_quantize", qm.RmsNormQuantizeConfig),
    ):
        for name, operand in OPERANDS.items():
            if operand.block.kind == "block":
                continue  # blocks of rows are for weights
            for layout in layouts_for(operand):
                yield op, f"{name} {layout}", config(operand=operand, n=SIZE, layout=layout)
    for layout in ("col_major_aligned4", "packed_pow2"):
        rope = qm.InverseRopeQuantizeConfig(
            heads=16, head_dim=256, rope_dim=64, groups=1, layout=layout
        )
        yield "inverse_rope_quantize", f"{rope.operand.name} {layout}", rope
    heads = qm.RopeQuantizeConfig(heads=32, head_dim=128, rope_dim=128, static_scale=1.0)
    yield "rope_quantize", f"{heads.operand.name} scale in the config", heads
    for name in ("fp8_group128", "fp8_group128_pow2", "nvfp4"):
        source, *targets = layouts_for(OPERANDS[name])
        for target in targets:
            move = qm.RelayoutConfig(
                operand=name,
                n=SIZE,
                source=qm.Layout(scales=source, padded_n=SIZE),
                target=qm.Layout(scales=target, padded_n=SIZE),
            )
            yield "relayout", f"{name} {source} to {target}", move


def sweep(devices: list[str]) -> list[dict[str, Any]]:
    """Ask every question on every device."""
    found = []
    for op, name, config in questions():
        for device in devices:
            answer = qm.explain(config, device)  # as select, but nothing is no error
            best = answer.ranges[0] if answer.ranges else None
            found.append(
                {
                    "op": op,
                    "name": name,
                    "device": device,
                    "arch": str(answer.device.arch),
                    "tier": str(best.tier) if best else None,
                    "pipeline": list(best.pipeline.ids) if best else [],
                    "rejected": {
                        kernel: sorted({reason.code for reason in reasons})
                        for kernel, reasons in answer.rejected.items()
                    },
                }
            )
    return found


def markdown(cells: list[dict[str, Any]], devices: list[str]) -> str:
    """Give one table per op: a row per scheme or operand, a column per device."""
    by_place = {(c["op"], c["name"], c["device"]): c for c in cells}
    titles = {c["device"]: f"{c['device']} ({c['arch']})" for c in cells}
    lines = ["# What serves what", "", "The tier of the best kernel. — means that nothing serves."]
    for op in dict.fromkeys(c["op"] for c in cells):
        lines += ["", f"## {op}", ""]
        lines.append("| | " + " | ".join(titles[device] for device in devices) + " |")
        lines.append("|---" * (len(devices) + 1) + "|")
        for name in dict.fromkeys(c["name"] for c in cells if c["op"] == op):
            tiers = [by_place[op, name, device]["tier"] or "—" for device in devices]
            lines.append(f"| {name} | " + " | ".join(tiers) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Sweep op × scheme × architecture.")
    parser.add_argument("--json", action="store_true", help="JSON, with the reasons of every loser")
    parser.add_argument("--devices", default=",".join(PROFILES), help="comma-separated names")
    options = parser.parse_args(argv)
    devices = [name.strip() for name in options.devices.split(",") if name.strip()]
    try:
        cells = sweep(devices)
    except qm.QuantmuxError as error:
        print(f"quantmux.{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps({"devices": devices, "cells": cells}, indent=2))
    else:
        print(markdown(cells, devices))
    return 0


if __name__ == "__main__":
    sys.exit(main())
