"""The report of a run: every experiment with its claim, its rows and its mean ratios."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from quantmux.bench.seeds.ratios import geomean, is_in

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from quantmux.bench.seeds.experiment import About
    from quantmux.bench.seeds.rows import SeedRow

NO_NUMBERS: Final = "a host, tiny shapes: this tries the plumbing, and the figures mean nothing"


@dataclass(frozen=True, slots=True)
class Told:
    """What a run keeps of one experiment.

    Attributes:
        about: What the experiment says of itself.
        remarks: Lines that stand under its table.
        seconds: How long it took.
    """

    about: About
    remarks: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(slots=True)
class SeedReport:
    """A run.

    Attributes:
        device: Short name.
        title: Its vendor's name for it.
        date: Day, ISO 8601.
        versions: Package → version, with ``driver`` where there is one.
        ceilings: Of this process.
        size: ``full``, ``quick`` or ``tiny``.
        told: Experiments that were run, by name, in their order.
        rows: Everything found.
        protocol: Rounds, rotated bytes and the like.
        command: What was run.
        not_run: Experiments that were asked and have no rows since they raised, and what.
    """

    device: str
    title: str
    date: str
    versions: dict[str, str]
    ceilings: dict[str, float]
    size: str
    told: dict[str, Told] = field(default_factory=dict)
    rows: list[SeedRow] = field(default_factory=list)
    protocol: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    not_run: dict[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> tuple[SeedRow, ...]:
        """Rows of variants that disagree or raise."""
        return tuple(row for row in self.rows if row.status == "failed")

    def of(self, experiment: str) -> list[SeedRow]:
        """Give the rows of one experiment."""
        return [row for row in self.rows if row.experiment == experiment]

    def summary(self, experiment: str) -> dict[str, Any]:
        """Give the mean ratios of ours over the cases where there is something to gain.

        Of an experiment with a `headline` those are the headline's.

        ``before`` and ``seed`` are geometric means of before/ours and seed/ours,
        ``seed_over_before`` of before/seed; ``aa_noise`` is the median, ``worst_aa`` the largest.
        """
        return mean_ratios(self.of(experiment), self.told[experiment].about.headline)

    def to_dict(self) -> dict[str, Any]:
        """Give the report as JSON-ready data."""
        return {
            "device": self.device,
            "title": self.title,
            "date": self.date,
            "command": self.command,
            "size": self.size,
            "figures": NO_NUMBERS if self.size == "tiny" else "measured",
            "versions": self.versions,
            "ceilings": _rounded(self.ceilings),
            "protocol": self.protocol,
            "not_run": self.not_run,
            "experiments": {name: self._told(name) for name in self.told},
            "rows": [row.to_dict() for row in self.rows],
        }

    def _told(self, name: str) -> dict[str, Any]:
        told = self.told[name]
        about, claim = told.about, told.about.claim
        return {
            "pull_request": about.pull_request,
            "title": about.title,
            "claim": {
                "figure": claim.figure,
                "measured": claim.measured,
                "ratios": list(claim.ratios) if claim.ratios else None,
            },
            "reach": about.reach,
            "headline": dict(about.headline),
            "seconds": round(told.seconds, 1),
            "extras": [{"key": e.key, "title": e.title, "digits": e.digits} for e in about.extras],
            "summary": _rounded(self.summary(name)),
            "remarks": list(told.remarks),
        }


def mean_ratios(rows: Sequence[SeedRow], headline: Mapping[str, Any]) -> dict[str, Any]:
    """Give what `SeedReport.summary` gives, of the rows of one experiment."""
    rows = [row for row in rows if not row.is_control and is_in(row.facts, headline)]
    ours = [row for row in rows if row.kind == "ours" and row.is_main]
    seed = [row for row in rows if row.kind == "seed" and row.is_main]
    noises = sorted(row.aa_noise for row in ours if row.aa_noise is not None)
    return {
        "cases": len({row.case for row in rows if row.us is not None or row.status != "ok"}),
        "before": geomean(row.before_ratio for row in ours),
        "seed": geomean(row.ratio for row in ours),
        "seed_over_before": geomean(row.before_ratio for row in seed),
        "least_before": min((r.before_ratio for r in ours if r.before_ratio), default=None),
        "most_before": max((r.before_ratio for r in ours if r.before_ratio), default=None),
        "least_seed": min((r.ratio for r in ours if r.ratio), default=None),
        "most_seed": max((r.ratio for r in ours if r.ratio), default=None),
        "aa_noise": median(noises) if noises else None,
        "worst_aa": noises[-1] if noises else None,
    }


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()}
