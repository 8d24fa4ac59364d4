"""The tables of the decoder step as Markdown, from a result of ``quantmux bench decoder``.

    python benchmarks/decoder_markdown.py docs/decoder.md README.md

Replaces every table of the pages, as its marks say:

    <!-- decoder-summary: RESULT.json -->    a line per M in one mode, with the pass, and the A/A
    <!-- decoder-steps: RESULT.json -->      µs of a step, by M, variant and mode
    <!-- decoder-oracle: RESULT.json -->     linears against the fastest of the run
    <!-- decoder-losses: RESULT.json -->     linears more than 3 % behind it
    <!-- decoder-sites: RESULT.json -->      what the fusion pass found
    <!-- decoder-run: RESULT.json -->        where, when, with what

each up to ``<!-- end of table -->``. RESULT.json lies in ``benchmarks/results``.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Data = Mapping[str, Any]
Row = Mapping[str, Any]

_BLOCK = re.compile(
    r"(?P<begin><!-- decoder-(?P<kind>[a-z]+): (?P<file>[\w.-]+) -->).*?<!-- end of table -->",
    re.DOTALL,
)
_MODES = ("eager", "graph", "compiled", "compiled graph", "fused", "fused graph")
_AGAIN = "selection again"
_TIE = 0.03
_LAYER = re.compile(r"blocks\.\d+\.")


def summary(data: Data) -> str:
    """Give a line per M, all times in one mode, and beside them the same with the pass.

    The mode is the fastest that bf16 and the selection were timed in at every M: a step compiled
    and captured, or a graph alone, or called eagerly.
    """
    rows = [row for row in data["rows"] if row["op"] == "decoder_step" and row["us"]]
    cases = _cases(rows)
    at = {(row["phase"], row["m"], row["kernel"], row["mode"]): row["us"] for row in rows}

    def is_whole(mode: str) -> bool:
        return all((*case, name, mode) in at for case in cases for name in ("bf16", "selection"))

    mode = next(filter(is_whole, ("compiled graph", "graph", "eager")))
    with_pass = mode.replace("compiled", "fused") if mode.startswith("compiled") else ""
    names = dict.fromkeys(row["kernel"] for row in rows if row["kind"] == "kernel")
    backends = [name for name in names if not name.startswith("selection")]
    fused = [name for name in backends if any((*c, name, with_pass) in at for c in cases)]
    more = (*(f"{name} with the pass" for name in fused), "selection with the pass")
    titles = ("M", "bf16", "best backend alone", "selection", "bf16 / selection")
    lines = [f"µs, {mode}:", "", *_head(*titles, "backend / selection", *more, "A/A (graph)")]
    for case in cases:
        bf16, ours = at[*case, "bf16", mode], at[*case, "selection", mode]
        known = {n: at[*case, n, mode] for n in backends if (*case, n, mode) in at}
        alone = min(known, key=lambda name: known[name], default=None)
        passed = [at.get((*case, name, with_pass)) for name in (*fused, "selection")]
        noise = next((r["aa_noise"] for r in rows if (r["phase"], r["m"]) == case), None)
        lines.append(
            _line(
                f"{case[0]} {case[1]}",
                f"{bf16:,.0f}",
                "-" if alone is None else f"{known[alone]:,.0f} ({alone})",
                f"{ours:,.0f}",
                f"{bf16 / ours:.2f}",
                "-" if alone is None else f"{known[alone] / ours:.3f}",
                *("-" if us is None else f"{us:,.0f}" for us in passed),
                "-" if noise is None else _percent(noise),
            )
        )
    return "\n".join(lines)


def steps(data: Data) -> str:
    """Give a line per M and variant: µs in every mode, and the time of bf16 over it."""
    rows = [r for r in data["rows"] if r["op"] == "decoder_step" and r["kernel"] != _AGAIN]
    modes = [mode for mode in _MODES if any(row["mode"] == mode for row in rows)]
    lines = _head("M", "variant", *modes)
    for case in _cases(rows):
        same = [row for row in rows if (row["phase"], row["m"]) == case]
        for i, name in enumerate(dict.fromkeys(row["kernel"] for row in same)):
            by_mode = {row["mode"]: row for row in same if row["kernel"] == name}
            first = "" if i else f"{case[0]} {case[1]}"
            shown = f"**{name}**" if name == "selection" else name
            lines.append(_line(first, shown, *(_time(by_mode.get(mode)) for mode in modes)))
    return "\n".join(lines)


def oracle(data: Data) -> str:
    """Give a line per M: sums over the linears of a step, µs."""
    titles = ("M", "selected", "oracle", "loss", "on its form", "backends alone, × selected")
    lines = _head(*titles, "their products, anybody's quantizers, × selected")
    for total in sorted(data["oracle"], key=lambda one: one["m"]):
        picked = total["picked_us"]
        alone = _over(total.get("alone", {}), picked, 2) or (
            "none has all" if "alone" in total else "-"
        )
        lines.append(
            _line(
                str(total["m"]),
                f"{picked:.1f}",
                f"{total['best_us']:.1f}",
                _percent(total["loss"]),
                _percent(picked / total["best_here_us"] - 1.0),
                alone,
                _over(total.get("by_backend", {}), picked, 3) or "-",
            )
        )
    return "\n".join(lines)


def losses(data: Data) -> str:
    """Give a line per linear and M that loses more than a tie, the dearest first."""
    rows = [row for row in data["rows"] if row["op"] == "decoder_linear"]
    bad = [row for row in rows if row["loss"] is not None and row["loss"] > _TIE]
    if not bad:
        return f"No linear of {len(rows)} (N×K and M) is more than 3 % behind the fastest."
    bad.sort(key=lambda row: -row["count"] * (row["picked_us"] - row["best_us"]))
    lines = _head("N×K", "M", "loss", "A/A", "selected", "µs", "fastest", "µs")
    for row in bad:
        noise = "-" if row["aa_noise"] is None else _percent(row["aa_noise"])
        picked, best = (f"`{row[name]}`" for name in ("picked", "best"))
        shape = f"{row['n']}×{row['k']}"
        times = f"{row['picked_us']:.1f}", f"{row['best_us']:.1f}"
        loss = _percent(row["loss"])
        lines.append(_line(shape, str(row["m"]), loss, noise, picked, times[0], best, times[1]))
    return "\n".join(lines)


def sites(data: Data) -> str:
    """Give a line per kind of site: how many, what they feed, taken by whom or refused why."""
    report = data["compile_report"]
    if not report:
        return "Nothing was compiled with the pass in this run."
    found: Counter[tuple[str, str, str, str]] = Counter()
    for site in report["sites"]:
        into = ", ".join(_LAYER.sub("", name) for name in site["into"])
        taken = "taken" if site["taken"] else "refused"
        found[site["pattern"], into, taken, _why(site)] += 1
    graphs = f"{report['graphs']} graphs, {report['taken']} sites taken, "
    lines = [f"{graphs}{report['refused']} refused.", ""]
    lines += _head("sites", "pattern", "before", "", "by")
    for (pattern, into, taken, why), count in found.items():
        lines.append(_line(str(count), pattern, f"`{into}`", taken, why))
    return "\n".join(lines)


def run(data: Data) -> str:
    """Say where, when and with what it ran."""
    noise = max((r["aa_noise"] for r in data["rows"] if r.get("kernel") == _AGAIN), default=None)
    known = ", ".join(f"{name} {version}" for name, version in data["versions"].items())
    step = data["step"]
    apart = "" if noise is None else f" A/A: {_percent(noise)} at most."
    ended = " The run was interrupted: other M are missing." if data.get("interrupted") else ""
    return (
        f"{data['title']}, {data['date']}; {known}. `{data['command']}`: {data['scheme']}, "
        f"{step['layers']} layers, {step['weight_mb']:,.0f} MB of weights, attention: "
        f"{step['attention']}.{apart}{_compared(data)}{ended}"
    )


KINDS: Mapping[str, Callable[[Data], str]] = {
    "summary": summary,
    "steps": steps,
    "oracle": oracle,
    "losses": losses,
    "sites": sites,
    "run": run,
}


def filled(page: str, results: Path) -> str:
    """Give a page with every table made anew from its result.

    Raises:
        ValueError: The page has no mark.
        KeyError: A mark asks for a table that there is not.
    """
    if not _BLOCK.search(page):
        raise ValueError("no <!-- decoder-KIND: RESULT.json --> in the page")

    def block(found: re.Match[str]) -> str:
        data = json.loads((results / found["file"]).read_text(encoding="utf-8"))
        table = KINDS[found["kind"]](data)
        return f"{found['begin']}\n\n{table}\n\n<!-- end of table -->"

    return _BLOCK.sub(block, page)


def _compared(data: Data) -> str:
    """Say who was denied, and of whom the oracle is."""
    names = sorted({name for total in data["oracle"] for name in total.get("by_backend", {})})
    of = f" The oracle is of {', '.join(names)}." if names else ""
    if "denied" not in data:
        given = "--plugins" in data["command"]
        silent = " The result does not say what its plugins file denies." if given else ""
        return silent + of
    denied = "".join(f" Denied: {name}." for name in data["denied"])
    return denied + of


def _cases(rows: Sequence[Row]) -> list[tuple[str, int]]:
    """Give phase and M of every case, by ascending M."""
    found = dict.fromkeys((row["phase"], row["m"]) for row in rows)
    return sorted(found, key=lambda case: case[1])


def _over(times: Mapping[str, float], picked: float, digits: int) -> str:
    """Give each time over what was selected, the fastest first."""
    ordered = sorted(times.items(), key=lambda item: item[1])
    return ", ".join(f"{name} {us / picked:.{digits}f}" for name, us in ordered)


def _why(site: Row) -> str:
    if not site["taken"]:
        refusals = [r for segment in site["segments"] for r in segment["refusals"]]
        said = dict.fromkeys([*(json.dumps(r, sort_keys=True) for r in refusals), *site["reasons"]])
        return "; ".join(said)
    kernels = dict.fromkeys(
        name
        for segment in site["segments"]
        for producer in segment["producers"]
        for name in producer["kernels"]
    )
    return ", ".join(f"`{name}`" for name in kernels)


def _time(row: Row | None) -> str:
    if row is None:
        return ""
    if row["us"] is None:
        return "failed"
    us = f"{row['us']:,.0f}"
    return us if row["kernel"] == "bf16" or row["ratio"] is None else f"{us} ×{row['ratio']:.2f}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _head(*titles: str) -> list[str]:
    return [_line(*titles), "|" + "---|" * len(titles)]


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def main(pages: Sequence[str]) -> None:
    """Fill the pages."""
    results = Path(__file__).parent / "results"
    for name in pages:
        page = Path(name)
        page.write_text(filled(page.read_text(encoding="utf-8"), results), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
