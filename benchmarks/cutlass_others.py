"""Tables of the CUTLASS page beside the speed of kernels: padding, calls, compilation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from triton_cases import Row, geomean, us_text

_CALL, _LOAD = "pad on every call", "pad at load, slice on every call"
_SIZES = {(2048, 1368): (2048, 1376), (1280, 3420): (1280, 3424), (1000, 1000): (1008, 1008)}


def padded(data: Mapping[str, Any]) -> str:
    """Give the linears of odd widths: ours, both ways of padding, and the aligned control."""
    rows: Sequence[Row] = [r for r in data["rows"] if r["part"] == "pipeline" and r["us"]]
    ours = {_size(r): r for r in _best(rows)}
    peers = {(*_size(r), r["kernel"]): r for r in rows if r["kind"] == "peer"}
    lines = [
        "| N×K | M | ours | every call | at load | aligned | host: ours | every call | at load |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    ratios: dict[str, list[float]] = {_CALL: [], _LOAD: [], "aligned": []}
    hosts: dict[str, list[float]] = {_CALL: [], _LOAD: []}
    for (n, k, m), row in ours.items():
        if (n, k) not in _SIZES:
            continue
        cells = [f"{n}×{k}", str(m), f"**{us_text(row['us'])}**"]
        for name in (_CALL, _LOAD):
            peer = peers.get((n, k, m, name))
            cells.append(_times(peer and peer["us"], row["us"]))
            if peer:
                ratios[name].append(peer["us"] / row["us"])
                if peer["host_us"] and row["host_us"]:
                    hosts[name].append(peer["host_us"] / row["host_us"])
        aligned = ours.get((*_SIZES[n, k], m))
        cells.append(_times(aligned and aligned["us"], row["us"]))
        if aligned:
            ratios["aligned"].append(aligned["us"] / row["us"])
        cells.append(us_text(row["host_us"]))
        for name in (_CALL, _LOAD):
            peer = peers.get((n, k, m, name))
            cells.append(us_text(peer["host_us"] if peer else None))
        lines.append(f"| {' | '.join(cells)} |")
    means = ", ".join(f"{geomean(v):.2f}x {k}" for k, v in ratios.items() if v)
    lines += ["", f"Geometric means, on the GPU: {means}."]
    if hosts[_CALL]:
        means = ", ".join(f"{geomean(v):.2f}x {k}" for k, v in hosts.items() if v)
        lines.append(f"What the host needs to queue a call: {means}.")
    return "\n".join(lines) + "\n"


def calls(data: Mapping[str, Any]) -> str:
    """Give what the host needs for one call, medians of µs, and counted launches."""
    lines = ["| call | µs |", "|---|---|"]
    lines += [f"| {row['what']} | {row['us']:.2f} |" for row in data["calls"]]
    for row in data.get("launches", ()):
        lines += ["", f"{row['what']}: {row['count']} launches: {', '.join(row['names'])}."]
    return "\n".join(lines) + "\n"


def units(data: Mapping[str, Any]) -> str:
    """Give what each library took to compile, of what ``quantmux build cutlass --json`` printed."""
    lines = ["| library | for | s | CPU s | peak MiB | KiB |", "|---|---|---|---|---|---|"]
    lines += [
        f"| `{row['name']}` | {row['target']} | {row['seconds']:.0f} | "
        f"{row['cpu_seconds']:.0f} | {row['memory_mib']:.0f} | {row['bytes'] / 1024:.0f} |"
        for row in sorted(data["libraries"], key=lambda row: row["cpu_seconds"])
    ]
    return "\n".join(lines) + "\n"


def _best(rows: Sequence[Row]) -> list[Row]:
    best: dict[tuple[int, int, int], Row] = {}
    for row in rows:
        if row["kind"] == "kernel" and "cutlass/" in row["kernel"]:
            kept = best.setdefault(_size(row), row)
            if row["us"] < kept["us"]:
                best[_size(row)] = row
    return list(best.values())


def _size(row: Row) -> tuple[int, int, int]:
    return row["n"], row["k"], row["m"]


def _times(us: float | None, ours: float) -> str:
    return "–" if not us else f"{us_text(us)} ({us / ours:.2f}x)"
