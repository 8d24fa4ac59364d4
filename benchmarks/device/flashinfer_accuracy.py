"""How far the block-scaled linears of a Hopper GPU are from the truth, at every number of rows.

    python benchmarks/device/flashinfer_accuracy.py FOLDER

Writes ``FOLDER/<date>-<device>-flashinfer-accuracy.json``. Every pipeline starts at the same bf16
x, whose rows differ in size by orders of magnitude, as activations do. Two questions per pipeline
and M, both of the worst row: how far is y from the definition (x quantized as
`quantmux.ops.quantize` says, products in fp64), and how far from the product of x itself, in which
the quantization's own loss stands too.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import torch

from quantmux.bench.contenders import Binder, pipelines_of
from quantmux.bench.materials import Materials
from quantmux.bench.run import versions
from quantmux.capability.detect import resolve_device
from quantmux.config import LinearConfig
from quantmux.ops.linear.reference import linear_exact, weight_parts
from quantmux.runtime.context import default_context

SHAPES: Final = ((2112, 7168), (7168, 2048), (4160, 4096))
"""N×K; the last ends in half a block of scales."""

MS: Final = (1, 2, 7, 8, 15, 16, 17, 24, 25, 31, 32, 33, 48, 63, 64, 65, 100, 128, 257, 512, 1024)


def spread_rows(m: int, k: int, seed: int) -> torch.Tensor:
    """Give a bf16 x whose rows differ in size."""
    generator = torch.Generator(device="cuda").manual_seed(seed)
    x = torch.randn(m, k, generator=generator, device="cuda")
    size = torch.exp(2 * torch.randn(m, 1, generator=generator, device="cuda"))
    return (x * size).bfloat16()


def relative(y: torch.Tensor, truth: torch.Tensor) -> float:
    """Give the worst row's relative error: a sum over all rows would be that of the largest."""
    return float(((y.double() - truth).norm(dim=1) / truth.norm(dim=1)).max())


def rows_of(n: int, k: int) -> list[dict[str, Any]]:
    """Give a row per pipeline and M."""
    config = LinearConfig(in_features=k, out_features=n, scheme="fp8_block128")
    device, context = resolve_device("cuda:0"), default_context()
    materials = Materials(config, device)
    binder = Binder(context, materials)
    weights = materials.weights
    w = torch.cat(list(weight_parts(weights, config)))
    rows: list[dict[str, Any]] = []
    for m in MS:
        x = spread_rows(m, k, m)
        defined, truth = linear_exact(x, weights, config), x.double() @ w.T
        lost = relative(defined, truth)
        for pipeline in pipelines_of(config, m, context, device):
            row = {"n": n, "k": k, "m": m, "pipeline": str(pipeline), "definition_loses": lost}
            try:
                call = binder.builts(pipeline, 1)[0].run
                begin = time.perf_counter()
                y = call(x)
                torch.cuda.synchronize()
                took = time.perf_counter() - begin
                again = torch.equal(call(x), y)
            except Exception as error:  # noqa: BLE001 - one pipeline costs its row only
                rows.append({**row, "failed": f"{error!r}"[:300]})
                continue
            found = {"from_definition": relative(y, defined), "from_truth": relative(y, truth)}
            rows.append({**row, **found, "first_call_s": took, "repeats": again})
    return rows


def main(folder: Path) -> None:
    device = resolve_device("cuda:0")
    rows = [row for n, k in SHAPES for row in rows_of(n, k)]
    date = datetime.now(UTC).date().isoformat()
    result = {"device": device.name, "date": date, "versions": versions(device), "rows": rows}
    file = folder / f"{date}-{device.name}-flashinfer-accuracy.json"
    text = ",\n  ".join(json.dumps(row) for row in rows)
    head = json.dumps({**result, "rows": []}, indent=1)
    file.write_text(head.replace('"rows": []', f'"rows": [\n  {text}\n ]') + "\n", encoding="utf-8")
    for name in dict.fromkeys(row["pipeline"] for row in rows):
        mine = [row for row in rows if row["pipeline"] == name]
        good = [row for row in mine if "failed" not in row]
        print(f"{name}: {len(good)} of {len(mine)}")
        for low, high in ((1, 31), (32, 1 << 30)):
            some = [row for row in good if low <= row["m"] <= high]
            if some:
                print(
                    f"  M {low}..{high}: from the definition "
                    f"{max(r['from_definition'] for r in some):.2e}, from the truth "
                    f"{max(r['from_truth'] for r in some):.4f} (the definition itself "
                    f"{max(r['definition_loses'] for r in some):.4f}), first call "
                    f"{max(r['first_call_s'] for r in some):.2f} s, "
                    f"repeats {all(r['repeats'] for r in some)}"
                )
        for row in mine:
            if "failed" in row:
                print(f"  failed at N={row['n']} M={row['m']}: {row['failed'][:160]}")
                break


if __name__ == "__main__":
    main(Path(sys.argv[1]))
