"""What a run of the decoder step found, as data that is written and shown."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class StepRow:
    """One variant in one mode at one number of rows. Times are µs of a whole step.

    Attributes:
        case: Model, scheme, phase and M, one line.
        phase: ``decode`` or ``prefill``.
        m: Rows.
        kernel: ``bf16``, ``selection``, or the backend that serves alone.
        mode: ``eager``, ``graph``, ``compiled``, ``compiled graph``, ``fused``, ``fused graph``.
        kind: ``kernel``, ``peer`` or ``aa``.
        us: Median of the rounds; None where it was not timed.
        us_min: Fastest round.
        us_max: Slowest round.
        noise: Half the spread of the middle half of the rounds over their median.
        tokens_per_s: M over ``us``.
        peer_us: Time of bf16 in the same mode.
        ratio: ``peer_us / us``.
        aa_noise: How far two bindings of the selection were apart in this case, as graphs.
        distance: How far the result is from the step without quantized activations, or of a graph
            from what it was captured of; see `check.Distance`.
        checked: What was compared, in words.
        status: ``ok``, or ``failed``: then it was not timed.
        reason: Why it failed.
        op: Always ``decoder_step``.
    """

    case: str
    phase: str
    m: int
    kernel: str
    mode: str
    kind: str = "kernel"
    us: float | None = None
    us_min: float | None = None
    us_max: float | None = None
    noise: float = 0.0
    tokens_per_s: float | None = None
    peer_us: float | None = None
    ratio: float | None = None
    aa_noise: float | None = None
    distance: float | None = None
    checked: str = ""
    status: str = "ok"
    reason: str = ""
    op: str = "decoder_step"

    def to_dict(self) -> dict[str, Any]:
        """Give the row as JSON-ready data."""
        return {f.name: plain(getattr(self, f.name)) for f in fields(self)}


@dataclass(frozen=True, slots=True)
class OracleLine:
    """One linear at one M: what was picked, and what was fastest in the same run.

    Attributes:
        n: N.
        k: K.
        m: M.
        count: How often it stands in the step.
        picked: Pipeline that the bound layer takes.
        picked_us: Its time; None where it was not timed.
        best: The fastest pipeline.
        best_us: Its time.
        best_here_us: Time of the fastest that reads the weight form that was prepared.
        best_here: Its pipeline.
        aa_noise: How far two bindings of one pipeline were apart.
        by_backend: Backend → time of the fastest pipeline with its product, whoever quantizes.
        alone: Backend → time of the fastest pipeline that is all its own.
    """

    n: int
    k: int
    m: int
    count: int
    picked: str
    picked_us: float | None
    best: str
    best_us: float
    best_here: str
    best_here_us: float
    aa_noise: float | None = None
    by_backend: dict[str, float] = field(default_factory=dict)
    alone: dict[str, float] = field(default_factory=dict)

    @property
    def loss(self) -> float | None:
        """Share of time lost against the fastest, 0 is none."""
        return None if self.picked_us is None else self.picked_us / self.best_us - 1.0

    def to_dict(self) -> dict[str, Any]:
        """Give the line as JSON-ready data."""
        data = {name: plain(value) for name, value in asdict(self).items()}
        return {"op": "decoder_linear", **data, "loss": plain(self.loss)}


@dataclass(frozen=True, slots=True)
class OracleSum:
    """All linears of a step at one M, µs.

    Attributes:
        m: M.
        picked_us: Sum of what was picked.
        best_us: Sum of the fastest.
        best_here_us: Sum of the fastest on the prepared weight forms.
        by_backend: Backend → sum of the fastest with its products; without those that lack one.
        alone: Backend → sum of the fastest that are all its own; likewise.
        missing: Linears that were picked and not timed.
    """

    m: int
    picked_us: float
    best_us: float
    best_here_us: float
    by_backend: dict[str, float]
    alone: dict[str, float]
    missing: int = 0

    @property
    def loss(self) -> float:
        """Share of time lost against the oracle."""
        return self.picked_us / self.best_us - 1.0

    def to_dict(self) -> dict[str, Any]:
        """Give the sum as JSON-ready data."""
        data = {name: plain(value) for name, value in asdict(self).items()}
        return {**data, "loss": plain(self.loss)}


def oracle_sums(lines: list[OracleLine]) -> list[OracleSum]:
    """Add the lines up per M, each as often as it stands in the step."""
    found = []
    for m in sorted({line.m for line in lines}):
        same = [line for line in lines if line.m == m]
        timed = [line for line in same if line.picked_us is not None]
        found.append(
            OracleSum(
                m=m,
                picked_us=sum(line.count * (line.picked_us or 0.0) for line in timed),
                best_us=sum(line.count * line.best_us for line in timed),
                best_here_us=sum(line.count * line.best_here_us for line in timed),
                by_backend=_added([(line.count, line.by_backend) for line in same]),
                alone=_added([(line.count, line.alone) for line in same]),
                missing=len(same) - len(timed),
            )
        )
    return found


def _added(parts: list[tuple[int, dict[str, float]]]) -> dict[str, float]:
    """Add up what every part names, each as often as it says."""
    names = set.intersection(*(set(times) for _, times in parts))
    return {name: sum(count * times[name] for count, times in parts) for name in sorted(names)}


@dataclass(slots=True)
class DecoderReport:
    """A run.

    Attributes:
        device: Short name.
        title: Its vendor's name for it.
        date: Day, ISO 8601.
        versions: Package → version.
        model: Name of the decoder.
        scheme: Of its linears.
        step: What the step is made of: layers, bytes, what was left out.
        means_nothing: No GPU: the figures prove that it runs, and nothing else.
        ceilings: Of this process.
        rows: Steps.
        oracle: Linears.
        served: Variant → N×K → pipeline at each M.
        helped: Variant → N×K → what served beside its backend.
        noise: Case → how far the step in the reference's numbers is from the one without quantized
            activations, see `check.Judge`.
        compile_report: What the fusion pass found, took and refused.
        compile_text: The same in words.
        skipped: Variants that were not run because they cannot serve, and pipelines of the oracle
            without a time, with the reason.
        denied: Backend → by which patterns of the policy it was left out.
        policy: ``order`` and ``deny`` as they held in the run.
        protocol: Rounds and the like.
        interrupted: Somebody ended it before all steps were timed.
        command: What was run.
    """

    device: str
    title: str
    date: str
    versions: dict[str, str]
    model: str
    scheme: str
    step: dict[str, Any]
    means_nothing: bool
    ceilings: dict[str, float] = field(default_factory=dict)
    rows: list[StepRow] = field(default_factory=list)
    oracle: list[OracleLine] = field(default_factory=list)
    served: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    helped: dict[str, dict[str, str]] = field(default_factory=dict)
    noise: dict[str, float] = field(default_factory=dict)
    compile_report: dict[str, Any] = field(default_factory=dict)
    compile_text: str = ""
    skipped: dict[str, str] = field(default_factory=dict)
    denied: dict[str, str] = field(default_factory=dict)
    policy: dict[str, list[str]] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    interrupted: bool = False
    command: str = ""

    @property
    def failed(self) -> tuple[StepRow, ...]:
        """Rows that were not timed because they disagree or do not run."""
        return tuple(row for row in self.rows if row.status != "ok")

    def to_dict(self) -> dict[str, Any]:
        """Give the report as JSON-ready data: steps and linears are its rows."""
        sums = oracle_sums(self.oracle)
        return {
            "device": self.device,
            "title": self.title,
            "date": self.date,
            "command": self.command,
            "versions": self.versions,
            "means_nothing": self.means_nothing,
            "interrupted": self.interrupted,
            "model": self.model,
            "scheme": self.scheme,
            "step": self.step,
            "ceilings": {name: plain(value) for name, value in self.ceilings.items()},
            "protocol": self.protocol,
            "served": self.served,
            "helped": self.helped,
            "skipped": self.skipped,
            "denied": self.denied,
            "policy": self.policy,
            "noise": {case: plain(value) for case, value in self.noise.items()},
            "oracle": [total.to_dict() for total in sums],
            "compile_report": self.compile_report,
            "rows": [
                *(row.to_dict() for row in self.rows),
                *(line.to_dict() for line in self.oracle),
            ],
        }


def plain(value: Any) -> Any:
    """Give a value for JSON: floats rounded, those that are no number as None."""
    if isinstance(value, float):
        return round(value, 5) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): plain(one) for name, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value
