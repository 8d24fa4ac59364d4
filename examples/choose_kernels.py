"""A host application that lets quantmux choose its kernels: configs in, kernels and reasons out.

Needs no GPU and imports no torch. An engine would ask these questions when it loads a model.
"""

from __future__ import annotations

import argparse
import sys

import quantmux as qm

# One decoder layer as an engine knows it: names, shapes [N, K], and what the checkpoint says.
SHAPES = {
    "qkv_proj": (6144, 4096),
    "o_proj": (4096, 4096),
    "gate_up_proj": (28672, 4096),
    "down_proj": (4096, 14336),
}


def layers(scheme: str, count: int) -> list[tuple[str, qm.LinearConfig]]:
    """Describe the linears of a model; nothing is allocated, nothing is loaded."""
    return [
        (
            f"model.layers.{index}.{name}",
            qm.LinearConfig(in_features=k, out_features=n, scheme=scheme),
        )
        for index in range(count)
        for name, (n, k) in SHAPES.items()
    ]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scheme", default="fp8_block128")
    parser.add_argument("--device", default="h200", help="a GPU that need not be here")
    options = parser.parse_args(argv)
    try:
        choose(options.scheme, options.device)
    except qm.QuantmuxError as error:  # one tree of errors: asked, found, next step
        print(f"quantmux.{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def choose(scheme: str, device: str) -> None:
    config = qm.LinearConfig(in_features=4096, out_features=6144, scheme=scheme)

    heading(f"which kernels on {device}, and which here?")
    for where in (device, None):
        selection = qm.select(config, where)
        for one in selection.ranges:
            span = f"M {one.m_min}..{one.m_max or '∞'}"
            print(f"{selection.device.name:<6} {span:<12} {one.pipeline}  [{one.tier}]")

    heading(f"why? every kernel of the op, on {device}")
    print(qm.select(config, device).explain())

    heading("why not the other? reasons are data: codes for programs, text for people")
    for kernel, reasons in qm.select(config, device).rejected.items():
        print(f"{kernel:<36} {', '.join(sorted({reason.code for reason in reasons}))}")

    heading("policy: the call over the context over plugins.toml")
    with qm.policy(deny=["torch/linear_scaled_mm*"]):
        inside = qm.select(config, device)
    print(f"without torch's scaled GEMMs: {inside.ranges[0].pipeline}  [{inside.ranges[0].tier}]")
    try:
        qm.select(config, device, force="torch/linear_int_mm")
    except qm.ForcedKernelError as error:
        print(error.headline)

    heading(f"the plan of a model with 4 layers on {device}")
    plan = qm.plan(layers(scheme, 4), device)
    print(f"{len(plan.layers)} linears, {len(plan.selections)} distinct answers")
    for key, selection in plan.selections.items():
        names = [layer.name for layer in plan.layers if layer.selection == key]
        print(f"{key}  {len(names)} × {names[0]}: {selection.ranges[0].pipeline}")
    for warning in plan.warnings:
        print(f"warning: {warning}")
    same = plan.to_json() == qm.plan(layers(scheme, 4), device).to_json()
    print(f"planned again, byte by byte the same: {same}")


def heading(text: str) -> None:
    print(f"\n== {text}")


if __name__ == "__main__":
    sys.exit(main())
