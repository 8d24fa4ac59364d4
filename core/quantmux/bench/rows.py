"""What a run found: rows and the report around them, as data that is written and read again."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from quantmux.config import LayerConfig


@dataclass(frozen=True, slots=True)
class BenchCase:
    """One config at one M."""

    config: LayerConfig
    m: int

    @property
    def name(self) -> str:
        """Give the case in one line, the same in every process."""
        return f"{self.config} M={self.m}"

    @property
    def scheme(self) -> str:
        """Name of the scheme, or of the operand of other ops."""
        config = self.config
        return config.scheme.name if config.op == "linear" else config.operand.name

    @property
    def shape(self) -> tuple[int, int]:
        """Give (N, K); of a producer its row width twice."""
        config = self.config
        return (config.n, config.k) if config.op == "linear" else (config.n, config.n)


@dataclass(frozen=True, slots=True)
class Row:
    """One contender on one case. Times are µs per call; a time that was not taken is None.

    Attributes:
        op: Name of the op.
        case: Config and M, one line.
        kernel: Kernel ids joined by an arrow, or the peer's name.
        kind: ``kernel``; ``peer``; ``aa`` for a pipeline bound a second time.
        part: ``pipeline`` from a plain x, ``gemm`` from a quantized one.
        us: Median of the rounds.
        us_min: Fastest round.
        us_max: Slowest round.
        noise: Half the spread of the middle half of the rounds over their median.
        gb_s: Bytes that must be moved over ``us``.
        tflops: Operations over ``us``.
        pct_of_ceiling: Least time under the ceilings of the same run over ``us``, percent.
        bound: ``copy`` or ``compute``: which ceiling gives the least time.
        peer: The fastest peer on the same case that does the same part.
        peer_us: Its time.
        ratio: ``peer_us / us``; above 1 is faster than every peer.
        aa_noise: How far two bindings of one contender were apart on this case.
        warm_us: Over one copy of the buffers, which stays in the cache.
        host_us: What the host needs to queue one eager call.
        status: ``ok``, or ``failed``: then it was not timed.
        reason: Why it failed.
        scheme: Scheme, or operand.
        n: N, or the row width.
        k: K, or the row width.
        m: M.
        tier: Tier of the pipeline.
        pipeline: Kernel ids.
        copies: Copies of the buffers that were rotated.
        rotated_mb: Bytes of all copies, MB.
        cold: They were enough that every call found the cache without them.
        method: ``graph``, ``events`` or ``host``.
        note: What a reader should know: why there is no graph, which rows were compared.
        env: Environment of a peer that ran in its own process, "" for this one.
    """

    op: str
    case: str
    kernel: str
    kind: str = "kernel"
    part: str = "pipeline"
    us: float | None = None
    us_min: float | None = None
    us_max: float | None = None
    noise: float = 0.0
    gb_s: float | None = None
    tflops: float | None = None
    pct_of_ceiling: float | None = None
    bound: str | None = None
    peer: str | None = None
    peer_us: float | None = None
    ratio: float | None = None
    aa_noise: float | None = None
    warm_us: float | None = None
    host_us: float | None = None
    status: str = "ok"
    reason: str = ""
    scheme: str = ""
    n: int = 0
    k: int = 0
    m: int = 0
    tier: str | None = None
    pipeline: tuple[str, ...] = ()
    copies: int = 0
    rotated_mb: float = 0.0
    cold: bool = False
    method: str = ""
    note: str = ""
    env: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Give the row as JSON-ready data."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Row:
        """Give the row of `to_dict`'s data; keys of a later version are left out."""
        names = {f.name for f in fields(cls)}
        known = {name: value for name, value in data.items() if name in names}
        return cls(**{**known, "pipeline": tuple(known.get("pipeline", ()))})


@dataclass(slots=True)
class Report:
    """A run.

    Attributes:
        device: Short name.
        title: Its vendor's name for it.
        date: Day, ISO 8601.
        versions: Package → version, with ``driver`` where there is one.
        ceilings: Of this process.
        rows: Everything found, in the order of the cases.
        protocol: Rounds, rotated bytes and the like.
        environments: Peers' own processes: name → versions, ceilings and A/A noise.
        missing: Peers that were asked and are not here, with the reason.
        command: What was run.
    """

    device: str
    title: str
    date: str
    versions: dict[str, str]
    ceilings: dict[str, float]
    rows: list[Row] = field(default_factory=list)
    protocol: dict[str, Any] = field(default_factory=dict)
    environments: dict[str, dict[str, Any]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    command: str = ""

    @property
    def failed(self) -> tuple[Row, ...]:
        """Rows that were not timed because they disagree or do not run."""
        return tuple(row for row in self.rows if row.status != "ok")

    def noise_of(self, case: str, env: str = "") -> float | None:
        """Give the A/A noise of a case in a process, None where there was no second binding."""
        found = (r.aa_noise for r in self.rows if r.case == case and r.env == env)
        return next((noise for noise in found if noise is not None), None)

    def to_dict(self) -> dict[str, Any]:
        """Give the report as JSON-ready data."""
        return {
            "device": self.device,
            "title": self.title,
            "date": self.date,
            "command": self.command,
            "versions": self.versions,
            "ceilings": {name: _plain(value) for name, value in self.ceilings.items()},
            "protocol": self.protocol,
            "environments": self.environments,
            "missing": self.missing,
            "rows": [row.to_dict() for row in self.rows],
        }


def with_peers(rows: Iterable[Row]) -> list[Row]:
    """Give the rows with the fastest peer of their case and part named, and the ratio to it.

    A peer whose time covers a whole pipeline (torch's bf16 product) also stands beside consumers
    alone: it needs no quantized input.
    """
    rows = list(rows)
    best: dict[tuple[str, str], Row] = {}
    for row in rows:
        if row.kind != "peer" or row.us is None:
            continue
        for part in ("pipeline", "gemm") if row.part == "pipeline" else ("gemm",):
            known = best.get((row.case, part))
            if known is None or (known.us or math.inf) > row.us:
                best[row.case, part] = row
    found = []
    for row in rows:
        peer = best.get((row.case, row.part))
        if row.kind == "kernel" and row.us and peer is not None and peer.us:
            name = f"{peer.kernel} [{peer.env}]" if peer.env else peer.kernel
            row = replace(row, peer=name, peer_us=peer.us, ratio=peer.us / row.us)  # noqa: PLW2901
        found.append(row)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    return list(value) if isinstance(value, tuple) else value
