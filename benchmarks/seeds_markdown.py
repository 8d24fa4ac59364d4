"""The tables of the seeds as Markdown, from a result of ``quantmux bench seeds``.

    python benchmarks/seeds_markdown.py docs/seeds.md README.md

Replaces every table of the pages, as its marks say:

    <!-- seeds-summary: RESULT.json -->            a line per experiment
    <!-- seeds-cases: RESULT.json padded_weights -->   a line per case of one
    <!-- seeds-rows: RESULT.json silu_mul -->      means by number of rows
    <!-- seeds-also: RESULT.json silu_mul -->      variants beside the three
    <!-- seeds-stalls: RESULT.json -->             what first calls wait for the compiler
    <!-- seeds-remarks: RESULT.json silu_mul -->   what was printed under its table
    <!-- seeds-warm: RESULT.json -->              cases that no rotation makes cold
    <!-- seeds-run: RESULT.json -->                where, when, with what

each up to ``<!-- end of table -->``. RESULT.json lies in ``benchmarks/results``.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from triton_cases import us_text

from quantmux.bench.effort import L2_TIMES
from quantmux.bench.seeds.known import headline_of
from quantmux.bench.seeds.ratios import geomean, is_in
from quantmux.bench.seeds.report import mean_ratios
from quantmux.bench.seeds.rows import SeedRow
from quantmux.bench.seeds.table import further
from quantmux.bench.seeds.warm import warm_line

Data = Mapping[str, Any]
Row = Mapping[str, Any]

_BLOCK = re.compile(
    r"(?P<begin><!-- seeds-(?P<kind>[a-z]+): (?P<file>[\w.-]+)(?: (?P<name>\w+))? -->)"
    r".*?<!-- end of table -->",
    re.DOTALL,
)
_MAIN = ("before", "seed", "ours")


def summary(data: Data, _: str) -> str:
    """Give a line per experiment: geometric means over its cases, and what its report says."""
    heads = ("experiment", "vllm", "cases", "before/ours", "seed/ours", "before/seed", "A/A")
    lines = _head(*heads, "the report says")
    for name, told in data["experiments"].items():
        rows = [SeedRow.of(row) for row in _rows(data, name)]
        found, number = mean_ratios(rows, headline_of(name, told)), told["pull_request"]
        link = f"[#{number}](https://github.com/vllm-project/vllm/pull/{number})"
        cells = [
            f"`{name}`",
            link,
            str(found["cases"]),
            _spread(found, "before"),
            _spread(found, "seed"),
            _ratio(found["seed_over_before"]),
            _percent(found["aa_noise"]),
            told["claim"]["figure"],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def cases(data: Data, name: str) -> str:
    """Give a line per case of one experiment: µs, ratios, noise, host µs and kernels launched."""
    by_case = _by_case(data, name)
    heads = ["case", *(f"{kind} µs" for kind in _MAIN), "before/ours", "seed/ours", "A/A"]
    has_kernels = any(row["launches"] is not None for row in _rows(data, name))
    heads += ["host µs", *(["kernels"] if has_kernels else [])]
    lines = _head(*heads)
    for case, main in by_case.items():
        ours = main.get("ours", {})
        rows = [main.get(kind, {}) for kind in _MAIN]
        control = " (control)" if any(row.get("is_control") for row in rows) else ""
        cells = [
            case + control,
            *(_us(row.get("us")) for row in rows),
            _ratio(ours.get("before_ratio")),
            _ratio(ours.get("ratio")),
            _percent(ours.get("aa_noise")),
            _three(row.get("host_us") for row in rows),
        ]
        cells += [_three(row.get("launches") for row in rows)] if has_kernels else []
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def rows(data: Data, name: str) -> str:
    """Give a line per number of rows of one experiment: means over its cases without controls."""
    by_m: dict[int, list[Mapping[str, Row]]] = {}
    headline = headline_of(name, data["experiments"].get(name, {}))
    for main in _by_case(data, name).values():
        ours = main.get("ours")
        if ours is not None and not ours["is_control"] and is_in(ours["facts"], headline):
            by_m.setdefault(int(ours["facts"]["m"]), []).append(main)
    lines = _head("M", "cases", "before/ours", "seed/ours", "before/seed", "A/A", "host µs")
    for m, some in sorted(by_m.items()):
        ours = [main["ours"] for main in some]
        seeds = [main["seed"] for main in some if "seed" in main]
        noises = [row["aa_noise"] for row in ours if row["aa_noise"] is not None]
        cells = [
            str(m),
            str(len(some)),
            _ratio(geomean(row["before_ratio"] for row in ours)),
            _ratio(geomean(row["ratio"] for row in ours)),
            _ratio(geomean(row["before_ratio"] for row in seeds)),
            _percent(median(noises) if noises else None),
            _three(_host_us(some, kind) for kind in _MAIN),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def also(data: Data, name: str) -> str:
    """Give a line per variant that is not one of the three, its times over ours in the mean."""
    lines = _head("also timed", "as", "cases", "its time over ours", "host µs", "kernels")
    for other in further([SeedRow.of(row) for row in _rows(data, name)]):
        low, high = other.launches or (None, None)
        kernels = "" if low is None else str(low) if low == high else f"{low} to {high}"
        host = "" if other.host_us is None else f"{other.host_us:.0f}"
        cells = [other.name, other.kind, str(other.cases), _ratio(other.ratio), host, kernels]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def stalls(data: Data, _: str) -> str:
    """Give a line per fresh process: its variants, when they were compiled, who waited."""
    waits = ("first calls wait", "after the first T", "before any call")
    lines = _head("heads, groups", "way", "variants", "compiled at T =", *waits)
    for row in data["rows"]:
        extra, facts = row["extra"], row["facts"]
        if "stall_by_tokens_ms" not in extra:
            continue
        at = ", ".join(str(t) for t in extra["stalled_tokens"]) or "–"
        cells = [
            f"{facts['heads']}, {facts['groups']}",
            row["kernel"],
            str(extra["variants"]),
            at,
            *(_ms(extra[key]) for key in ("stall_ms", "later_ms", "before_calls_ms")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def remarks(data: Data, name: str) -> str:
    """Give what was printed under the table of an experiment."""
    return "".join(f"- {line}\n" for line in data["experiments"][name]["remarks"])


def warm(data: Data, _: str) -> str:
    """Say of every experiment how many of its cases are warm."""
    protocol = data["protocol"]
    rotate = protocol["rotate_mb"]
    cache = protocol.get("cache_mb") or rotate / (1 if protocol["quick"] else L2_TIMES)
    found = []
    for name in data["experiments"]:
        line = warm_line([SeedRow.of(row) for row in _rows(data, name)], rotate, cache)
        found.append(f"- `{name}`: {line or 'every case is cold'}\n")
    return "".join(found)


def run(data: Data, _: str) -> str:
    """Say where, when and with what it was measured."""
    versions = ", ".join(f"{name} {version}" for name, version in data["versions"].items())
    copy = data["ceilings"].get("copy_gb_s")
    rate = f"copy {copy:,.0f} GB/s; " if copy else ""
    seconds = sum(told["seconds"] for told in data["experiments"].values())
    return (
        f"{data['title']}, {data['date']}, `{data['command']}`, {seconds:.0f} s; {rate}"
        f"{data['protocol']['rounds']} rounds in turns; {versions}.\n"
    )


KINDS: Mapping[str, Callable[[Data, str], str]] = {
    "summary": summary,
    "cases": cases,
    "rows": rows,
    "also": also,
    "stalls": stalls,
    "remarks": remarks,
    "warm": warm,
    "run": run,
}
"""What a mark may ask for."""


def filled(page: str, results: Path) -> str:
    """Give a page with the tables that its marks name.

    Args:
        page: With marks.
        results: Folder of the result files.

    Raises:
        ValueError: There is no mark.
        KeyError: A mark names no kind of table, or no experiment of the result.
    """

    def block(match: re.Match[str]) -> str:
        data = json.loads((results / match["file"]).read_text(encoding="utf-8"))
        text = KINDS[match["kind"]](data, match["name"] or "")
        return f"{match['begin']}\n\n{text}\n<!-- end of table -->"

    text, count = _BLOCK.subn(block, page)
    if not count:
        raise ValueError("the page has no <!-- seeds-KIND: RESULT.json --> … <!-- end of table -->")
    return text


def _rows(data: Data, name: str) -> list[Row]:
    if name not in data["experiments"]:
        raise KeyError(f"the result has no experiment {name}")
    return [row for row in data["rows"] if row["experiment"] == name]


def _by_case(data: Data, name: str) -> dict[str, dict[str, Row]]:
    """Give the main rows that were timed, by case and role."""
    found: dict[str, dict[str, Row]] = {}
    for row in _rows(data, name):
        if row["is_main"] and row["us"] is not None and row["kind"] in _MAIN:
            found.setdefault(row["case"], {})[row["kind"]] = row
    return found


def _host_us(some: Iterable[Mapping[str, Row]], kind: str) -> float | None:
    known = [main[kind]["host_us"] for main in some if kind in main]
    known = [us for us in known if us is not None]
    return median(known) if known else None


def _head(*titles: str) -> list[str]:
    return [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]


def _spread(found: Mapping[str, Any], key: str) -> str:
    mean = found[key]
    if mean is None:
        return "–"
    low, high = found[f"least_{key}"], found[f"most_{key}"]
    return f"**{mean:.2f}** ({low:.2f} to {high:.2f})"


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _us(value: float | None) -> str:
    return "–" if value is None else us_text(value)


def _ms(value: float) -> str:
    return f"{value:,.0f} ms"


def _three(values: Iterable[float | None]) -> str:
    cells = ["–" if value is None else f"{value:.0f}" for value in values]
    return "" if set(cells) == {"–"} else " / ".join(cells)


def main(pages: Sequence[str]) -> None:
    results = Path(__file__).parent / "results"
    for name in pages:
        file = Path(name)
        file.write_text(filled(file.read_text(encoding="utf-8"), results), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
