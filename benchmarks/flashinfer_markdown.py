"""The tables of the FlashInfer page as Markdown, from result files and from what is declared.

    python benchmarks/flashinfer_markdown.py docs/flashinfer.md

Replaces every table of the page, as its marks say: by that of a result in `results`, or, for a mark
without a file, by what the backend declares for named GPUs.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import flashinfer_declared
from cutlass_others import units
from triton_cases import geomean, us_text

Row = Mapping[str, Any]

_BLOCK = re.compile(
    r"(?P<begin><!-- (?P<kind>[a-z]+): (?P<name>[\w.-]+) -->).*?<!-- end of table -->", re.DOTALL
)
_OURS = "flashinfer/linear_"
_COLUMNS: Mapping[str, Callable[[str], bool]] = {
    "CUTLASS": lambda name: "cutlass/linear" in name,
    "Triton": lambda name: "triton/linear" in name,
    "torch": lambda name: "torch/linear" in name,
}


def shown(kernel: str) -> str:
    """Give a kernel's name as a column has it."""
    return kernel.rpartition(_OURS)[2].removeprefix("fp8_")


def pipelines(data: Mapping[str, Any]) -> str:
    """Give µs of whole pipelines from a bf16 x by shape and M: ours, and each backend's best."""
    rows: list[Row] = [
        r for r in data["rows"] if r["kind"] == "kernel" and r["part"] == "pipeline" and r["us"]
    ]
    cases: dict[tuple[int, int, int], list[Row]] = {}
    for row in rows:
        cases.setdefault((row["n"], row["k"], row["m"]), []).append(row)
    names = sorted({shown(r["kernel"]) for r in rows if _OURS in r["kernel"]})
    ways: dict[str, Callable[[str], bool]] = {
        f"`{name}`": lambda kernel, name=name: _OURS in kernel and shown(kernel) == name
        for name in names
    }
    ways |= _COLUMNS
    lines = [f"| N×K | M | {' | '.join(ways)} |", "|---|---|" + "---|" * len(ways)]
    for (n, k, m), found in cases.items():
        best = {
            way: min((r["us"] for r in found if fits(r["kernel"])), default=None)
            for way, fits in ways.items()
        }
        least = min(us for us in best.values() if us is not None)
        cells = [f"**{us_text(us)}**" if us == least else us_text(us) for us in best.values()]
        lines.append(f"| {n}×{k} | {m} | {' | '.join(cells)} |")
    head = data["ceilings"]
    noise = sorted(r["aa_noise"] for r in data["rows"] if r.get("aa_noise") is not None)
    lines += [
        "",
        f"{data['title']}, {data['date']}; copy {head['copy_gb_s']:.0f} GB/s; "
        f"A/A {100 * noise[len(noise) // 2]:.1f} % in the median; "
        + ", ".join(f"{name} {version}" for name, version in data["versions"].items())
        + ".",
        *_not_timed(data["rows"]),
    ]
    return "\n".join(lines) + "\n"


def _not_timed(rows: Sequence[Row]) -> list[str]:
    reasons: dict[str, set[str]] = {}
    for row in rows:
        if row["status"] != "ok":
            reasons.setdefault(f"{row['kernel']}: {row['reason']}", set()).add(row["case"])
    return [f"\nNot timed in {len(cases)} cases: {what}." for what, cases in reasons.items()]


def calls(data: Mapping[str, Any]) -> str:
    """Give what a call through quantmux adds to the library's own, medians of µs."""
    heads = (
        "kernel",
        "the library's call",
        "ours",
        "added",
        "the library without its checks",
        "added",
        "ours, without `out=`",
    )
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    keys = ("plain_us", "us", "added_to_plain_us", "library_us", "added_us", "allocating_us")
    for row in data["calls"]:
        if "failed" in row:
            cells = ["–"] * len(keys)
        elif row["kernel"].startswith("flashinfer/"):
            cells = [f"{row[key]:+.2f}" if "added" in key else f"{row[key]:.2f}" for key in keys]
        else:
            cells = ["", f"{row['us']:.2f}", "", "", "", ""]
        lines.append(f"| `{row['kernel']}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def launches(data: Mapping[str, Any]) -> str:
    """Give what a call of each pipeline launches, as the profiler counted it."""
    lines = ["| pipeline | M | launches | kernels |", "|---|---|---|---|"]
    for row in data["launches"]:
        if "failed" in row:
            continue
        names = ", ".join(f"`{_plain(name)}`" for name in row["names"])
        lines.append(f"| {row['pipeline']} | {row['m']} | {row['count']} | {names} |")
    return "\n".join(lines) + "\n"


def _plain(name: str) -> str:
    return name.removeprefix("void ").partition("<")[0].rpartition("::")[2]


def accuracy(data: Mapping[str, Any]) -> str:
    """Give the worst errors of the pipelines at few rows and at many."""
    lines = [
        "| pipeline | M | cases | from the definition | from the truth | the definition itself |",
        "|---|---|---|---|---|---|",
    ]
    good = [row for row in data["rows"] if "failed" not in row]
    for name in dict.fromkeys(row["pipeline"] for row in good):
        for low, high, text in ((1, 31, "< 32"), (32, 1 << 40, "≥ 32")):
            some = [r for r in good if r["pipeline"] == name and low <= r["m"] <= high]
            if not some:
                continue
            worst = {
                key: max(row[key] for row in some)
                for key in ("from_definition", "from_truth", "definition_loses")
            }
            lines.append(
                f"| {name} | {text} | {len(some)} | {worst['from_definition']:.4f} | "
                f"{worst['from_truth']:.4f} | {worst['definition_loses']:.4f} |"
            )
    return "\n".join(lines) + "\n"


def imported(data: Mapping[str, Any]) -> str:
    """Give what importing costs."""
    return (
        f"`import torch` {data['torch_s']:.1f} s, the CUDA context {data['cuda_s']:.1f} s, "
        f"`import flashinfer` {data['flashinfer_s']:.1f} s more (FlashInfer {data['flashinfer']}, "
        f"torch {data['torch']}).\n"
    )


def gains(data: Mapping[str, Any]) -> str:
    """Give by M how the form that quantizes inside stands against the best of each other way."""
    lines = [
        "| M | its own pre-quantized form | CUTLASS | Triton | torch |",
        "|---|---|---|---|---|",
    ]
    cases: dict[int, dict[tuple[int, int], list[Row]]] = {}
    for row in data["rows"]:
        if row["kind"] == "kernel" and row["part"] == "pipeline" and row["us"]:
            cases.setdefault(row["m"], {}).setdefault((row["n"], row["k"]), []).append(row)
    ways: dict[str, Callable[[str], bool]] = {
        "pre": lambda name: name.endswith("linear_fp8_block_sm90"),
        **_COLUMNS,
    }
    for m, shapes in sorted(cases.items()):
        cells = []
        for fits in ways.values():
            found = []
            for rows in shapes.values():
                ours = [r["us"] for r in rows if r["kernel"].endswith("_inside")]
                theirs = [r["us"] for r in rows if fits(r["kernel"])]
                if ours and theirs:
                    found.append(min(theirs) / min(ours))
            cells.append(f"{geomean(found):.2f}x" if found else "–")
        lines.append(f"| {m} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


KINDS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "pipelines": pipelines,
    "gains": gains,
    "calls": calls,
    "launches": launches,
    "accuracy": accuracy,
    "imported": imported,
    "units": units,
}
"""What a mark may ask for of a result."""

DECLARED: Mapping[str, Callable[[], str]] = {
    "offers": flashinfer_declared.offers,
    "needs": flashinfer_declared.needs,
    "proved": flashinfer_declared.proved,
    "selected": flashinfer_declared.selected,
}
"""What a mark may ask for of the backend itself."""


def filled(page: str, results: Path, *, leave: Collection[str] = ()) -> str:
    """Give a page with the tables that its marks name.

    Args:
        page: With marks.
        results: Folder of the result files.
        leave: Kinds of tables to leave as they are.

    Raises:
        ValueError: There is no mark.
        KeyError: A mark names no kind of table.
    """

    def block(match: re.Match[str]) -> str:
        kind = match["kind"]
        if kind in leave:
            return match[0]
        if kind in DECLARED:
            text = DECLARED[kind]()
        else:
            text = KINDS[kind](json.loads((results / match["name"]).read_text(encoding="utf-8")))
        return f"{match['begin']}\n\n{text}\n<!-- end of table -->"

    text, count = _BLOCK.subn(block, page)
    if not count:
        raise ValueError("the page has no <!-- kind: NAME --> … <!-- end of table -->")
    return text


def main() -> None:
    file = Path(sys.argv[-1])
    page = filled(file.read_text(encoding="utf-8"), Path(__file__).parent / "results")
    file.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
