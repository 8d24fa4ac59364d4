"""What the FlashInfer backend declares for named GPUs, as Markdown; no GPU, no FlashInfer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import quantmux
from quantmux.capability.detect import resolve_device
from quantmux.cli._matrix_rows import matrix_rows, questions
from quantmux.config import LinearConfig
from quantmux.runtime.context import default_context

if TYPE_CHECKING:
    from quantmux.capability.matrix import MatrixRow

GPUS: Final = {
    "sm90": "h200",
    "sm100": "b200",
    "sm103": "b300",
    "sm120": "rtx_pro_6000",
    "sm121": "dgx_spark",
}
SHAPES: Final = (
    (576, 7168),
    (2112, 7168),
    (4096, 7168),
    (7168, 2048),
    (4096, 4096),
    (24576, 1536),
)

OWN_LINEARS: Final = ("cutlass", "triton/linear*")
"""What is denied so that FlashInfer's and torch's linears are left, and Triton's quantizers."""


def offers() -> str:
    """Give every kernel and what it is asked for, against the GPUs, as the matrix has it."""
    context = default_context()
    asked = questions()
    found: dict[tuple[str, str], dict[str, MatrixRow]] = {}
    for gpu, name in GPUS.items():
        for row in matrix_rows(context, resolve_device(name), asked):
            if row.backend == "flashinfer":
                found.setdefault((row.id, row.scheme), {})[gpu] = row
    unseen = {s.id for s in context.registry.kernels if "experimental" in s.capability.tags}
    alike: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (kernel, scheme), rows in found.items():
        if any(row.eligible for row in rows.values()):
            cells = tuple(_cell(rows[gpu], kernel in unseen) for gpu in GPUS)
            alike.setdefault((kernel, cells), []).append(scheme)
    lines = [f"| kernel | asked | {' | '.join(GPUS)} |", "|---|---|" + "---|" * len(GPUS)]
    for (kernel, cells), schemes in sorted(alike.items(), key=lambda item: _op(item[0][0])):
        stem = kernel.partition("/")[2]
        lines.append(f"| `{stem}` | {', '.join(schemes)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _op(kernel: str) -> int:
    """Give a kernel's place: linears first, then what quantizes."""
    return 0 if "/linear_" in kernel else 1


def _cell(row: MatrixRow, is_unseen: bool) -> str:
    if row.eligible:
        return f"{row.tier}, experimental" if is_unseen else str(row.tier)
    codes = list(dict.fromkeys(str(r.code) for r in row.rejections))
    return f"({codes[0]})" if codes else "–"


def needs() -> str:
    """Give what each kernel calls, and what that takes beyond flashinfer-python."""
    from quantmux_flashinfer.catalog import offers as every

    lines = ["| kernel | calls | compiled for sm90 | more packages |", "|---|---|---|---|"]
    arch = resolve_device("h200").arch
    for offer in every():
        entry = offer.entry
        call = f"`{entry.name}`" + (f' `backend="{entry.backend}"`' if entry.backend else "")
        runs = any(arch in archs for archs in offer.spec.capability.arch)
        modules = ", ".join(f"`{name}`" for name in entry.modules_on(arch)) if runs else ""
        more = [name for name, _ in entry.packages] + (["cubins"] if entry.cubins else [])
        stem = offer.spec.id.partition("/")[2]
        lines.append(f"| `{stem}` | {call} | {modules} | {', '.join(more)} |")
    return "\n".join(lines) + "\n"


def proved() -> str:
    """Give what has been shown of every kernel on an H200: cases and the worst error among them."""
    context, device = default_context(), resolve_device("h200")
    inventory = context.inventory(device)
    lines = ["| kernel | op | shown | cases | worst error |", "|---|---|---|---|---|"]
    for spec in context.registry.kernels:
        runs = any(device.arch in archs for archs in spec.capability.arch)
        if spec.backend != "flashinfer" or not runs:
            continue
        proof = inventory.proof(spec.id)
        worst = "–" if proof.worst_error is None else f"{proof.worst_error:.1e}"
        level = f"{proof.level}, stale" if proof.stale else str(proof.level)
        stem = spec.id.partition("/")[2]
        lines.append(f"| `{stem}` | {spec.op} | {level} | {proof.cases or '–'} | {worst} |")
    return "\n".join(lines) + "\n"


def selected() -> str:
    """Give what is selected for a block-scaled linear over M on an H200, by the shipped times."""
    lines = ["| N×K | all backends | linears of FlashInfer and torch only |", "|---|---|---|"]
    for n, k in SHAPES:
        config = LinearConfig(in_features=k, out_features=n, scheme="fp8_block128")
        cells = [
            _ranges(quantmux.select(config, "h200", **policy))
            for policy in ({}, {"deny": OWN_LINEARS})
        ]
        lines.append(f"| {n}×{k} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines) + "\n"


def _ranges(selection: Any) -> str:
    parts: list[list[Any]] = []
    for one in selection.ranges:
        text = str(one.pipeline)
        if parts and parts[-1][2] == text:
            parts[-1][1] = one.m_max
        else:
            parts.append([one.m_min, one.m_max, text])
    return "<br>".join(f"M {_extent(low, high)}: {text}" for low, high, text in parts)


def _extent(low: int, high: int | None) -> str:
    if high is None or high >= 1 << 30:
        return f"≥ {low}"
    return str(low) if low == high else f"{low}–{high}"
