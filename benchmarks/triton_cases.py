"""Rows of a result of the Triton table by case, and how their figures are spelled."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
PDL_OFF = ", PDL off"
_LARGE_M = 1024

ROW_SCHEME = "fp8_channel_token"
BLOCK_PEERS = ("DeepGEMM", "DeepGEMM PDL", "torch._scaled_mm fast")
ROW_PEERS = ("vLLM cutlass_scaled_mm", "torch._scaled_mm")
SHORT = {
    "torch._scaled_mm fast": "torch fast",
    "torch._scaled_mm": "torch",
    "vLLM cutlass_scaled_mm": "vLLM CUTLASS",
    "vLLM per_token_group_fp8_quant": "vLLM",
}


class Cases:
    """The rows of a result by case: the best of ours, the same without PDL, and every peer."""

    def __init__(self, rows: Iterable[Row], pick: Callable[[Row], bool]) -> None:
        self._cases: dict[str, list[Row]] = {}
        for row in rows:
            if row["kind"] in ("kernel", "peer") and pick(row):
                self._cases.setdefault(row["case"], []).append(row)

    def __iter__(self) -> Any:
        return iter(self._cases)

    def __len__(self) -> int:
        return len(self._cases)

    def first(self, case: str) -> Row:
        """Give a row of the case, timed or not, for what all its rows share."""
        return self._cases[case][0]

    def ours(self, case: str, *, off: bool = False) -> Row | None:
        """Give our fastest row; if ``off``, of what needs no programmatic dependence."""
        ours = [r for r in self._cases[case] if r["kind"] == "kernel" and r["us"]]
        twins = {r["kernel"].removesuffix(PDL_OFF) for r in ours if r["kernel"].endswith(PDL_OFF)}
        if off:
            found = [r for r in ours if twins and r["kernel"] not in twins]
        else:
            found = [r for r in ours if not r["kernel"].endswith(PDL_OFF)]
        return min(found, key=lambda row: row["us"], default=None)

    def peer(self, case: str, name: str) -> float | None:
        """Give the µs of a peer, None where it has none."""
        return next(
            (r["us"] for r in self._cases[case] if r["kind"] == "peer" and r["kernel"] == name),
            None,
        )

    def failed(self) -> list[str]:
        """Give what was not timed because it disagreed or did not run."""
        return [
            f"{row['kernel']} on {row['case']}: {row['reason']}"
            for rows in self._cases.values()
            for row in rows
            if row["status"] != "ok"
        ]

    def ratio(self, name: str, *, off: bool = False, pick: Callable[[Row], bool] = bool) -> Any:
        """Give the geometric mean of a peer's µs over ours, and over how many cases."""
        found = []
        for case in self:
            us, row = self.peer(case, name), self.ours(case, off=off)
            if us and row and pick(row):
                found.append(us / row["us"])
        return geomean(found), len(found)


def pick(rows: Sequence[Row], op: str, scheme: str | None = None) -> Cases:
    return Cases(rows, lambda r: r["op"] == op and scheme in (None, r["scheme"]))


def linears(rows: Sequence[Row], scheme: str, *, large: bool) -> Cases:
    def pick(row: Row) -> bool:
        is_it = row["op"] == "linear" and row["scheme"] == scheme
        return bool(is_it) and (row["m"] >= _LARGE_M) == large

    return Cases(rows, pick)


def both(cases: Cases, case: str) -> str:
    on, off = cases.ours(case), cases.ours(case, off=True)
    return us_text(on["us"] if on else None) + (f" ({us_text(off['us'])})" if off else "")


def size(row: Row) -> str:
    return f"{row['m']}×{row['n']}"


def layout(case: str) -> str:
    names = r"row_major|col_major_aligned4|col_major|packed_pow2|swizzled_128x4|swizzled_8x4"
    found = re.search(rf"\b({names})\b", case)
    return found[1] if found else ""


def percent(row: Row) -> str:
    return "–" if row["pct_of_ceiling"] is None else f"{row['pct_of_ceiling']:.0f}"


def us_text(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}" if value < 100 else f"{value:.0f}"


def geomean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan
