"""Writes the tables of docs/selection.md from what `quantmux bench selection` found.

python benchmarks/selection_markdown.py docs/selection.md
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

Data = dict[str, Any]

RESULTS: Final = Path(__file__).parent / "results"
PREFIX: Final = "2026-11-21-h200-selection-"
RUNS: Final = {
    "1": "the first run, by what was shipped before it",
    "2-shapes": "the second, shapes that the first had left out",
    "2-rows": "the second, other M of the first's shapes",
    "2-padded": "the second, padded shapes, new to selection",
    "3": "the third: all 16 shapes again, by the times of the first two",
    "3-rows": "the third, other M",
}
"""Results in the order of the runs; one that is not there is left out."""

LAST: Final = "3"


def load(results: Path) -> dict[str, Data]:
    """Give the results that are there, by their name in `RUNS`."""
    files = {name: results / f"{PREFIX}{name}.json" for name in RUNS}
    return {name: json.loads(f.read_text()) for name, f in files.items() if f.exists()}


def runs(found: dict[str, Data]) -> str:
    """Give a line per run: how far behind the best, by the times known then and by none."""
    head = "| run | cells | behind, mean | on the layout | ≤ 3 % | worst | by the order alone |"
    lines = [head, "|---|---|---|---|---|---|---|"]
    for name, data in found.items():
        now, order = data["quality"]["as it is"][-1], data["quality"]["order only"][-1]
        losses = [cell["loss"] for cell in data["cells"] if cell["loss"] is not None]
        cells = [
            f"[{RUNS[name]}](../benchmarks/results/{PREFIX}{name}.json)",
            str(now["served"]),
            f"{(now['ratio'] - 1) * 100:.1f} %",
            f"{(now['on_layout'] - 1) * 100:.1f} %",
            f"{now['near'] * 100:.0f} %",
            f"{max(losses) * 100:.0f} %",
            f"{(order['ratio'] - 1) * 100:.1f} %",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parts(found: dict[str, Data]) -> str:
    """Give a line per part of the last run: cells that the runs before it timed, and others."""
    lines = ["| last run | cells | behind, mean | ≤ 3 % | or noise | worst |"]
    lines.append("|---|---|---|---|---|---|")
    earlier = [data for name, data in found.items() if not name.startswith(LAST)]
    known = {_place(cell) for data in earlier for cell in data["cells"]}
    cells = [cell for cell in found[LAST]["cells"] if cell["loss"] is not None]
    before = [cell for cell in cells if _place(cell) in known]
    for scheme in dict.fromkeys(cell["scheme"] for cell in before):
        for label, low, high in (("M ≤ 64", 1, 64), ("M > 64", 65, 1 << 30)):
            mine = [c for c in before if c["scheme"] == scheme and low <= c["m"] <= high]
            if mine:
                lines.append(_part(f"timed before: {scheme}, {label}", mine))
    for label, is_known in (("timed before: all", True), ("not timed before", False)):
        mine = [cell for cell in cells if (_place(cell) in known) is is_known]
        if mine:
            lines.append(_part(label, mine))
    return "\n".join(lines)


def _place(cell: Data) -> tuple[str, int, int, int]:
    return cell["scheme"], cell["n"], cell["k"], cell["m"]


def _part(name: str, cells: list[Data]) -> str:
    mean = 1.0
    for cell in cells:
        mean *= (1 + cell["loss"]) ** (1 / len(cells))
    near = [cell["loss"] <= 0.03 for cell in cells]
    noise = [cell["loss"] <= 0.03 or not cell["is_loss"] for cell in cells]
    values = [
        name,
        str(len(cells)),
        f"{(mean - 1) * 100:.1f} %",
        f"{sum(near) / len(near) * 100:.0f} %",
        f"{sum(noise) / len(noise) * 100:.0f} %",
        f"{max(cell['loss'] for cell in cells) * 100:.1f} %",
    ]
    return "| " + " | ".join(values) + " |"


def backends(found: dict[str, Data]) -> str:
    """Give a line per scheme and backend of the last run."""
    head = (
        "| one backend everywhere | cells | with its own quantizer, or torch's | with anybody's |"
    )
    lines = [head, "|---|---|---|---|"]
    for quality in found[LAST]["quality"]["as it is"]:
        for one in quality["fixed"]:
            own = "–" if one["ratio"] is None else f"{one['ratio']:.2f}×"
            others = "–" if one["with_others"] is None else f"{one['with_others']:.3f}×"
            cells = f"{one['cells']}" + (f", {one['unserved']} not" if one["unserved"] else "")
            lines.append(f"| {quality['name']}: {one['backend']} | {cells} | {own} | {others} |")
    return "\n".join(lines)


TABLES: Final = {"runs": runs, "parts": parts, "backends": backends}


def filled(page: str, results: Path = RESULTS) -> str:
    """Give the page with its tables made anew."""
    found = load(results)
    for name, make in TABLES.items():
        start, end = f"<!-- quality: {name} -->", "<!-- end of quality -->"
        if start not in page:
            raise ValueError(f"the page has no {start}")
        if LAST not in found and name != "runs":
            continue
        head, _, rest = page.partition(start)
        _, _, tail = rest.partition(end)
        page = f"{head}{start}\n{make(found)}\n{end}{tail}"
    return page


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(filled(file.read_text(encoding="utf-8")), encoding="utf-8")
