"""Rows of the seeds: one variant on one case, as data that is written and read again."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class SeedRow:
    """One variant on one case. Times are µs per call; what was not measured is None.

    Attributes:
        experiment: Name of the experiment.
        op: ``seed:<experiment>``, so that rows of results are told apart by ``op`` alone.
        case: One line.
        facts: What the case is made of.
        kernel: The variant's name.
        kind: ``before``, ``seed``, ``ours``, ``peer``; ``aa`` for the first of ours bound twice.
        is_main: The first of its role that has a time on this case: what ratios are made of.
        is_control: There is nothing to gain on this case.
        runs: What runs: kernel ids, or a few words.
        us: Median of the rounds.
        us_min: Fastest round.
        us_max: Slowest round.
        noise: Half the spread of the middle half of the rounds over their median.
        host_us: What the host needs to queue one eager call; of a host, None.
        launches: What one call launches on the GPU, memory copies and fills included.
        launched: Their names and how often each, shortened.
        gb_s: Bytes that must be moved over ``us``.
        tflops: None; in every result file's rows.
        pct_of_ceiling: ``gb_s`` in percent of the run's copy rate.
        peer: The main variant of the seed.
        peer_us: Its time.
        ratio: ``peer_us / us``: above 1 is faster than the seed.
        before_us: Time of the main variant of ``before``.
        before_ratio: ``before_us / us``.
        aa_noise: How far two bindings of ours were apart on this case.
        status: ``ok``; ``refused``: it does not do this case; ``failed``: disagrees or raises.
        reason: Why it is not ok.
        method: ``graph``, ``events``, ``host`` or ``process``.
        note: What a reader should know.
        copies: Copies of the buffers that were rotated.
        rotated_mb: Bytes of all copies, MB.
        cold: They were enough that every call found the cache without them.
        extra: The experiment's own numbers.
    """

    experiment: str
    case: str
    kernel: str
    kind: str
    op: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    is_main: bool = False
    is_control: bool = False
    runs: str = ""
    us: float | None = None
    us_min: float | None = None
    us_max: float | None = None
    noise: float = 0.0
    host_us: float | None = None
    launches: float | None = None
    launched: Mapping[str, float] = field(default_factory=dict)
    gb_s: float | None = None
    tflops: float | None = None
    pct_of_ceiling: float | None = None
    peer: str | None = None
    peer_us: float | None = None
    ratio: float | None = None
    before_us: float | None = None
    before_ratio: float | None = None
    aa_noise: float | None = None
    status: str = "ok"
    reason: str = ""
    method: str = ""
    note: str = ""
    copies: int = 0
    rotated_mb: float = 0.0
    cold: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.op:
            object.__setattr__(self, "op", f"seed:{self.experiment}")

    def to_dict(self) -> dict[str, Any]:
        """Give the row as JSON-ready data."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> SeedRow:
        """Give the row of `to_dict`'s data; keys of a later version are left out."""
        names = {f.name for f in fields(cls)}
        return cls(**{name: value for name, value in data.items() if name in names})


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value
