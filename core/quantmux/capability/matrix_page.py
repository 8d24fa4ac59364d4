"""The matrix as one HTML page: needs no network, no JavaScript to be read, and no second file.

The table is written here; `matrix_page.css` and `matrix_page.js` beside this file go into it. What
a cell answers in full stands once in the page as JSON, and again as a list where scripts are off.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from quantmux.capability.capability import OPS
from quantmux.capability.matrix import MARKS, MatrixRow
from quantmux.capability.matrix_fold import FoldedRow, fold, is_of_interest

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile

_TIERS: Final = {
    "native": "native",
    "emulated": "emulated",
    "weight_only": "weight only",
    "reference": "reference",
}
_TIER_HELP: Final = {
    "native": "the asked operands, on units made for them",
    "emulated": "the same values, in wider arithmetic",
    "weight_only": "ignores the activation operand",
    "reference": "the definition itself, slow",
}
_MARK_HELP: Final = {
    "measured": "verified, and timed",
    "verified": "agreed with the reference on that device",
    "compiled": "compiled for it, not run",
    "declared": "the kernel’s own word",
    "stale": "shown with other sources or versions",
    "failed": "disagreed with the reference",
}
_TITLES: Final = {
    "linear": "y = x · Wᵀ from quantized operands",
    "quantize": "a tensor into an operand and its layout",
    "silu_mul_quantize": "SiLU · mul, quantized in one pass",
    "inverse_rope_quantize": "inverse RoPE, quantized in one pass",
    "rmsnorm_quantize": "RMSNorm, quantized in one pass",
    "rope_quantize": "RoPE, quantized in one pass with a given scale",
    "relayout": "one scale layout into another",
}


@dataclass(frozen=True, slots=True)
class DeviceMatrix:
    """The rows of one device.

    Attributes:
        device: The device.
        rows: One for every kernel and scheme, in the same order on every device.
        problems: Evidence that does not count and why, one line each.
    """

    device: DeviceProfile
    rows: tuple[MatrixRow, ...]
    problems: tuple[str, ...] = ()


def matrix_page(found: Sequence[DeviceMatrix], *, version: str, date: str) -> str:
    """Give the page.

    Args:
        found: One matrix per device, the columns from left to right.
        version: Version of quantmux, shown.
        date: Day, shown.
    """
    folded = fold([each.rows for each in found])
    shown = sorted(
        (row for row in folded if any(is_of_interest(answer) for answer in row.answers)),
        key=lambda row: (OPS.index(row.answers[0].op), row.label.partition(" ")[0], _place(row)),
    )
    answers = _Answers()
    body = _body(shown, len(found), answers)
    data = {"devices": [_device(each.device) for each in found], "answers": answers.kept}
    kernels = {row.answers[0].id for row in shown}
    backends = sorted({row.answers[0].backend for row in shown})
    facts = ", ".join(
        _count(number, what)
        for number, what in (
            (len(kernels), "kernel"),
            (len(backends), "backend"),
            (len(found), "device"),
        )
    )
    return "".join(
        (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            '<link rel="icon" href="data:,">\n<title>quantmux matrix</title>\n',
            f"<style>\n{_asset('matrix_page.css')}</style>\n</head>\n<body>\n",
            "<header>\n<div class=title><h1>quantmux <span>matrix</span></h1>",
            f"<p>{facts} · asked at N = K = 4096 in bf16 · {escape(version)} · {escape(date)}</p>",
            "</div>\n",
            _legend(),
            "</header>\n",
            _controls(shown, found, backends),
            _problems(found),
            f"<main>\n<table style=--n:{len(found)}>\n{_head(found)}{body}</table>\n",
            "<p id=none hidden>Nothing fits the filter.</p>\n</main>\n",
            f"<noscript>{_reasons(answers)}</noscript>\n",
            "<div id=card role=tooltip hidden></div>\n",
            f'<script type="application/json" id=data>{_json(data)}</script>\n',
            f"<script>\n{_asset('matrix_page.js')}</script>\n</body>\n</html>\n",
        )
    )


class _Answers:
    """The distinct answers, each under its number."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = []
        self._numbers: dict[tuple[Any, ...], int] = {}

    def number(self, row: MatrixRow, schemes: tuple[str, ...]) -> int:
        layouts = schemes if len(schemes) > 1 else ()
        said = row.tier, row.experimental, row.eligible
        key = (*said, row.rejections, row.evidence, layouts)
        if key not in self._numbers:
            self._numbers[key] = len(self.kept)
            evidence = {k: v for k, v in row.evidence.to_dict().items() if v}
            answer = {
                "tier": _tier(row),
                "no": [[str(r.code), r.text, r.hint or ""] for r in row.rejections],
                "mark": row.evidence.mark,
                "proof": row.evidence.text,
                "evidence": evidence,
                "layouts": layouts,
            }
            self.kept.append({k: v for k, v in answer.items() if v})
        return self._numbers[key]


def _tier(row: MatrixRow) -> str | None:
    name = _TIERS.get(row.tier or "", row.tier)
    return f"{name}, experimental" if name and row.experimental else name


def _place(row: FoldedRow) -> tuple[int, str, str]:
    tiers = [*_TIERS]
    ranks = [tiers.index(a.tier) for a in row.answers if a.tier in tiers]
    return min(ranks, default=len(tiers)), row.answers[0].id, row.label


def _device(device: DeviceProfile) -> dict[str, Any]:
    return {
        "name": device.name,
        "title": device.title,
        "arch": str(device.arch),
        "here": device.is_present,
    }


def _head(found: Sequence[DeviceMatrix]) -> str:
    cells = "".join(_device_head(each, i) for i, each in enumerate(found))
    return (
        "<thead>\n<tr><th scope=col class=s>Scheme</th><th scope=col class=k>Kernel</th>"
        f"{cells}</tr>\n</thead>\n"
    )


def _device_head(found: DeviceMatrix, column: int) -> str:
    device = found.device
    kernels = {row.id: row for row in found.rows}
    serving = {row.id for row in found.rows if row.eligible}
    marks = Counter(row.evidence.mark for row in kernels.values())
    shown = [f"{marks[m]} {m}" for m in MARKS if marks[m] and m != "declared"]
    here = "<em>here</em>" if device.is_present else ""
    bar = "".join(f'<i class="{m}" style="flex:{marks[m]}"></i>' for m in MARKS if marks[m])
    return (
        f"<th scope=col data-c={column} class=d><b>{escape(device.name)}</b>{here}"
        f"<small>{escape(str(device.arch))}</small>"
        f"<small>{len(serving)} of {len(kernels)} serve</small>"
        f"<small>{', '.join(shown) or 'declared only'}</small>"
        f"<span class=bar aria-hidden=true>{bar}</span></th>"
    )


def _body(rows: Sequence[FoldedRow], devices: int, answers: _Answers) -> str:
    parts: list[str] = []
    op = scheme = ""
    for row in rows:
        first = row.answers[0]
        if first.op != op:
            parts.append("</tbody>\n" if op else "")
            op, scheme = first.op, ""
            parts.append(
                f'<tbody data-op="{escape(op)}">\n<tr class=op><th colspan={devices + 2} '
                f"scope=rowgroup><span><b>{escape(op)}</b> {escape(_TITLES.get(op, ''))}</span>"
                "</th></tr>\n"
            )
        again = " class=again" if row.label == scheme else ""
        scheme = row.label
        base, stem = scheme.partition(" ")[0], first.id.partition("/")[2]
        parts.append(
            f'<tr data-b="{escape(first.backend)}" data-s="{escape(base)}"{again}>'
            f'<td class=s title="{escape(scheme)}">{_label(scheme)}</td>'
            f'<th scope=row class=k title="{escape(first.id)}">'
            f"<span>{escape(first.backend)}/</span>{escape(stem)}</th>"
            + "".join(_cell(a, answers.number(a, row.schemes)) for a in row.answers)
            + "</tr>\n"
        )
    return "".join((*parts, "</tbody>\n" if op else ""))


def _label(scheme: str) -> str:
    base, _, layout = scheme.partition(" ")
    return escape(base) + (f" <small>{escape(layout)}</small>" if layout else "")


def _cell(row: MatrixRow, number: int) -> str:
    mark = row.evidence.mark
    if row.eligible:
        kind, text = row.tier or "other", _TIERS.get(row.tier or "", row.tier or "yes")
    else:
        kind, text = "no", str(row.rejections[0].code) if row.rejections else "no"
    text = text.replace("_", " ")
    return (
        f'<td><button class="{escape(kind)} {mark}" data-a={number}>'
        f"{escape(text)}<i></i></button></td>"
    )


def _legend() -> str:
    tiers = "".join(
        f'<li><b class="chip {tier}">{name}</b> {_TIER_HELP[tier]}</li>'
        for tier, name in _TIERS.items()
    )
    marks = "".join(
        f'<li><b class="mark {mark}"><i></i>{mark}</b> {_MARK_HELP[mark]}</li>' for mark in MARKS
    )
    return (
        "<details class=legend open><summary>Legend</summary>"
        f"<div><ul aria-label=Tiers>{tiers}<li><b class='chip no'>arch</b> does not serve: the "
        f"first reason</li></ul><ul aria-label=Evidence>{marks}</ul></div></details>\n"
    )


def _controls(
    rows: Sequence[FoldedRow], found: Sequence[DeviceMatrix], backends: Sequence[str]
) -> str:
    ops = list(dict.fromkeys(row.answers[0].op for row in rows))
    schemes = sorted({row.label.partition(" ")[0] for row in rows})
    return (
        '<form id=controls class=js role=search aria-label="Filter the matrix">\n'
        '<input id=find type=search placeholder="Filter kernels and schemes  ( / )" '
        'aria-label="Filter kernels and schemes" autocomplete=off>\n'
        + _toggles("op", "Ops", ops)
        + _toggles("b", "Backends", backends)
        + _toggles("c", "Devices", [each.device.name for each in found])
        + _select("scheme", "all schemes", schemes)
        + _select("proof", "any evidence", MARKS)
        + "<label><input type=checkbox id=serves> only what serves</label>\n"
        "<button type=button id=clear>reset</button>\n"
        '<button type=button id=theme aria-label="Dark or light">◐</button>\n'
        "<output id=count></output>\n</form>\n"
    )


def _toggles(kind: str, title: str, names: Sequence[str]) -> str:
    buttons = "".join(
        f'<button type=button aria-pressed=true data-{kind}="{escape(name)}">'
        f"{escape(name.replace('_', ' '))}</button>"
        for name in names
    )
    return f"<fieldset data-kind={kind}><legend>{title}</legend>{buttons}</fieldset>\n"


def _select(name: str, every: str, values: Iterable[str]) -> str:
    options = "".join(f"<option>{escape(value)}</option>" for value in values)
    first = f'<option value="">{every}</option>'
    return f'<select id={name} aria-label="{every}">{first}{options}</select>\n'


def _problems(found: Sequence[DeviceMatrix]) -> str:
    lines = list(dict.fromkeys(problem for each in found for problem in each.problems))
    if not lines:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    what = "entry does" if len(lines) == 1 else "entries do"
    return (
        f"<details class=problems><summary>{len(lines)} {what} not count as evidence"
        f"</summary><ul>{items}</ul></details>\n"
    )


def _reasons(answers: _Answers) -> str:
    """Give every reason as a list, for readers without scripts."""
    lines = {f"{code}: {text}" for each in answers.kept for code, text, _ in each.get("no", ())}
    items = "".join(f"<li>{escape(line)}</li>" for line in sorted(lines))
    return f"<section class=reasons><h2>Reasons</h2><ul>{items}</ul></section>"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _json(data: Any) -> str:
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    # inside a script element only "<" could end it; ASCII is json's default
    return text.replace("<", "\\u003c")


def _asset(name: str) -> str:
    return files("quantmux.capability").joinpath(name).read_text(encoding="utf-8")
