"""The table of the CUTLASS backend as Markdown, from its result file alone.

    python benchmarks/cutlass_markdown.py RESULT.json
    python benchmarks/cutlass_markdown.py --page PAGE.md

The second replaces every table of a page, as its marks say, by that of a result in `results`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cutlass_quantizers
from cutlass_others import calls, padded, units
from triton_cases import PDL_OFF, SHORT, Cases, Row, geomean, us_text
from triton_markdown import filled_by, head

FEW = 128
"""Most rows of what the issue calls few."""

ROW_PEERS = ("vLLM cutlass_scaled_mm", "torch._scaled_mm", "torch._scaled_mm fast")
BLOCK_PEERS = ("DeepGEMM", "DeepGEMM PDL", "torch._scaled_mm fast")
_PARTS: Mapping[str, tuple[str, Sequence[str]]] = {
    "fp8_channel_token": ("row × channel scales", ROW_PEERS),
    "fp8_block128": ("1x128 × 128x128 scales", BLOCK_PEERS),
}


class Field:
    """The rows of one line: of ours the CUTLASS and the Triton kernels, and the peers."""

    def __init__(self, rows: Sequence[Row], pick: Callable[[Row], bool]) -> None:
        self._cases: dict[str, list[Row]] = {}
        for row in rows:
            if row["kind"] in ("kernel", "peer") and pick(row):
                self._cases.setdefault(row["case"], []).append(row)

    def __iter__(self) -> Any:
        return iter(self._cases)

    def __len__(self) -> int:
        return len(self._cases)

    def first(self, case: str) -> Row:
        """Give a row of the case, for what all its rows share."""
        return self._cases[case][0]

    def best(self, case: str, prefix: str, *, off: bool = False) -> Row | None:
        """Give the fastest row of a backend; if ``off``, launched without overlap."""
        found = [
            row
            for row in self._cases[case]
            if row["us"] and row["kernel"].startswith(prefix) and row["kind"] == "kernel"
        ]
        found = [row for row in found if row["kernel"].endswith(PDL_OFF) == off]
        return min(found, key=lambda row: row["us"], default=None)

    def peer(self, case: str, name: str) -> float | None:
        """Give the µs of a peer, None where it has none."""
        return next(
            (r["us"] for r in self._cases[case] if r["kind"] == "peer" and r["kernel"] == name),
            None,
        )

    def ratio(
        self, names: Sequence[str], *, off: bool = False, pick: Callable[[Row], bool] = bool
    ) -> tuple[float, float, int]:
        """Give geometric mean and least of the best peer's µs over ours, and the cases."""
        found = []
        for case in self:
            times = [us for name in names if (us := self.peer(case, name))]
            row = self.best(case, "cutlass/", off=off)
            if times and row and pick(row):
                found.append(min(times) / row["us"])
        return geomean(found), min(found, default=float("nan")), len(found)


def field(rows: Sequence[Row], scheme: str, few: bool | None = None) -> Field:
    """Give the linears of a scheme; with few rows, or with many."""

    def pick(row: Row) -> bool:
        # of a whole pipeline, as linears of odd widths are timed, other things are asked
        is_it = (row["op"], row["scheme"], row["part"]) == ("linear", scheme, "gemm")
        return bool(is_it) and few in (None, row["m"] <= FEW)

    return Field(rows, pick)


def _quantizers(rows: Sequence[Row]) -> Field:
    return Field(rows, lambda row: row["op"] == "quantize")


def brief(data: Mapping[str, Any]) -> str:
    """Give ceilings, the issue's lines filled in, and what has no time."""
    return "\n".join([*head(data), "", *_summary(data["rows"]), "", *_foot(data)]).rstrip() + "\n"


def table(data: Mapping[str, Any]) -> str:
    """Give all of `brief` and every case."""
    rows: Sequence[Row] = data["rows"]
    lines = [*head(data), "", *_summary(rows), ""]
    for scheme, (title, peers) in _PARTS.items():
        for few in (True, False):
            found = field(rows, scheme, few)
            if len(found):
                size = f"M ≤ {FEW}" if few else "many rows"
                lines += [f"### {title}, {size}", "", *_every(found, peers), ""]
    quantizers = _quantizers(rows)
    if len(quantizers):
        lines += ["### NVFP4 quantizer", "", *cutlass_quantizers.table(quantizers), ""]
    return "\n".join([*lines, *_foot(data)]).rstrip() + "\n"


def _summary(rows: Sequence[Row]) -> list[str]:
    row_few, row_many = (field(rows, "fp8_channel_token", few) for few in (True, False))
    block_few, block_many = (field(rows, "fp8_block128", few) for few in (True, False))
    fast = "torch._scaled_mm fast"
    return [
        "| case | reach | measured (geometric mean; least) | with PDL off |",
        "|---|---|---|---|",
        _line("row × channel, M ≤ 128", "≥ 1.1x vLLM CUTLASS", row_few, ROW_PEERS[:1]),
        _line("", "≥ 1.8x torch._scaled_mm", row_few, ROW_PEERS[1:2]),
        _line(
            "row × channel, M ≥ 1024",
            "≥ 0.98x the best of cuBLASLt fast and vLLM CUTLASS",
            row_many,
            (ROW_PEERS[0], fast),
        ),
        _line("block, M ≤ 64", "≥ 1.0x DeepGEMM", block_few, BLOCK_PEERS[:1]),
        _line("", "(DeepGEMM with its own PDL)", block_few, BLOCK_PEERS[1:2]),
        _line("", "≥ 1.5x torch's block", block_few, BLOCK_PEERS[2:]),
        _line("block, M ≥ 1024", "≥ 0.9x DeepGEMM", block_many, BLOCK_PEERS[:1]),
        _line("", "(torch's block)", block_many, BLOCK_PEERS[2:]),
        *cutlass_quantizers.summary(_quantizers(rows)),
    ]


def _line(case: str, reach: str, found: Field, peers: Sequence[str]) -> str:
    mean, least, count = found.ratio(peers)
    if not count:
        return f"| {case} | {reach} | not measured | |"
    off, _, has_off = found.ratio(peers, off=True)
    without = f"{off:.2f}x" if has_off else "–"
    return f"| {case} | {reach} | {mean:.2f}x ({least:.2f}x), {count} cases | {without} |"


def _every(found: Field, peers: Sequence[str]) -> list[str]:
    names = [SHORT.get(peer, peer) for peer in peers]
    lines = [
        f"| N×K | M | CUTLASS | PDL off | kernel | Triton | {' | '.join(names)} | % |",
        "|---|---|---|---|---|---|" + "---|" * (len(peers) + 1),
    ]
    for case in found:
        row, off = found.best(case, "cutlass/"), found.best(case, "cutlass/", off=True)
        triton, first = found.best(case, "triton/"), found.first(case)
        cells = [
            f"{first['n']}×{first['k']}",
            str(first["m"]),
            f"**{us_text(row['us'])}**" if row else "–",
            us_text(off["us"] if off else None),
            row["kernel"].partition("/linear_")[2] if row else "–",
            us_text(triton["us"] if triton else None),
            *(us_text(found.peer(case, peer)) for peer in peers),
            f"{row['pct_of_ceiling']:.0f}" if row and row["pct_of_ceiling"] else "–",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "µs; the last column is % of the run's ceiling, of bytes or of operations."]
    return lines


def _foot(data: Mapping[str, Any]) -> list[str]:
    lines = [f"Not timed: {line}." for line in Cases(data["rows"], lambda _: True).failed()]
    lines += [f"Not here: {name}: {why}." for name, why in data["missing"].items()]
    if data["protocol"].get("left_out"):
        lines.append(f"Left out by the budget: {len(data['protocol']['left_out'])} cases.")
    return lines


KINDS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "table": table,
    "brief": brief,
    "padded": padded,
    "calls": calls,
    "units": units,
}
"""What a mark of the page may ask for of a result."""


def filled(page: str, results: Path) -> str:
    """Give a page with the tables of the results that its marks name."""
    return filled_by(KINDS, page, results)


def main() -> None:
    file = Path(sys.argv[-1])
    if sys.argv[1] == "--page":
        page = filled(file.read_text(encoding="utf-8"), Path(__file__).parent / "results")
        file.write_text(page, encoding="utf-8")
    else:
        print(table(json.loads(file.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
