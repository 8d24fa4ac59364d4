"""Measured times of pipelines: rows, nearest-shape look-up, thresholds over M."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import ConfigDict, Field, field_validator

from quantmux.config._base import Frozen

if TYPE_CHECKING:
    from quantmux.config import LayerConfig

MAX_DISTANCE: Final = 2 * math.log(2)
"""Farthest a measured (N, K) may lie, in log units: a factor 4 over both together."""

NOISE_BAND: Final = 1.03
"""Pipelines within 3 % of the fastest tie, so that winners do not flip between runs."""

_KEPT: Final = 4096
"""Comparisons that are remembered; beyond it all are forgotten and made again."""

Ids = tuple[str, ...]
Shape = tuple[int, int]
Pairs = tuple[tuple[str, str], ...]

_Extent = Annotated[int, Field(gt=0, strict=True)]


class TuningRow(Frozen):
    """One measurement: a pipeline on one shape.

    Attributes:
        pipeline: Kernel ids in the order of the call.
        scheme: What was run, as `tuning_key` spells it.
        n: Output width; see `tuning_key` for other ops than a linear.
        k: Input width.
        m: Rows.
        us: Median time of a call, µs.
        noise: Half the spread of the middle half of the rounds over their median.
        digests: Kernel id → its digest when it was run.
        versions: Package → version when it was run.
        date: Day of the run, ISO 8601.
    """

    model_config = ConfigDict(extra="ignore")

    pipeline: Annotated[Ids, Field(min_length=1)]
    scheme: Annotated[str, Field(min_length=1)]
    n: _Extent
    k: _Extent
    m: _Extent
    us: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    noise: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    digests: Pairs = ()
    versions: Pairs = ()
    date: str = ""

    @field_validator("digests", "versions", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        pairs = value.items() if isinstance(value, dict) else value
        # one spelling, so that equal rows compare equal
        return tuple(sorted(pairs)) if isinstance(value, dict | tuple | list) else value

    @property
    def key(self) -> tuple[Ids, str, int, int, int]:
        """What it is a measurement of; a later one of the same replaces it."""
        return self.pipeline, self.scheme, self.n, self.k, self.m

    def to_dict(self) -> dict[str, Any]:
        """Give the row as it stands in a file."""
        data = self.model_dump(mode="json")
        return {**data, "digests": dict(self.digests), "versions": dict(self.versions)}


class TuningTable:
    """Rows by (pipeline, scheme); empty until somebody measures."""

    __slots__ = ("_common", "_rows", "stale")

    def __init__(
        self, rows: Iterable[TuningRow] = (), digests: Mapping[str, str] | None = None
    ) -> None:
        """Keep the rows whose digests still hold; ``digests`` maps kernel id to today's.

        ``stale`` tells how many do not.
        """
        kept: dict[tuple[Ids, str], dict[Shape, dict[int, float]]]
        kept = defaultdict(lambda: defaultdict(dict))
        self.stale = 0
        for row in rows:
            if digests is None or all(digests.get(i) == d for i, d in row.digests):
                kept[row.pipeline, row.scheme][row.n, row.k][row.m] = row.us
            else:
                self.stale += 1
        self._rows = {key: dict(shapes) for key, shapes in kept.items()}
        self._common: dict[Any, dict[int, dict[Ids, float]]] = {}

    def __len__(self) -> int:
        return sum(len(times) for shapes in self._rows.values() for times in shapes.values())

    def rows(self) -> list[TuningRow]:
        """Give what counts, as rows: a table of them answers alike.

        Noise, digests, versions and dates are not kept.
        """
        return [
            TuningRow(pipeline=ids, scheme=scheme, n=n, k=k, m=m, us=us)
            for (ids, scheme), shapes in self._rows.items()
            for (n, k), times in shapes.items()
            for m, us in times.items()
        ]

    def _near(self, pipeline: Ids, scheme: str, n: int, k: int) -> dict[Shape, dict[int, float]]:
        shapes = self._rows.get((pipeline, scheme), {})
        return {s: times for s, times in shapes.items() if _distance(s, n, k) <= MAX_DISTANCE}

    def us(self, pipeline: Ids, scheme: str, n: int, k: int, m: int) -> float | None:
        """Give the measured time nearest in log(N, K), then in log M; None if nothing is near."""
        return self.times([[pipeline]], scheme, n, k, m).get(pipeline)

    def times(
        self, contenders: Iterable[Iterable[Ids]], scheme: str, n: int, k: int, m: int
    ) -> dict[Ids, float]:
        """Give the times of pipelines at one point, so that they can be compared.

        The point is the nearest in log(N, K), then in log M, at which every contender was
        measured. Nothing is given when there is none: a time at one shape says nothing against a
        time at another.

        Args:
            contenders: Pipelines by contender; one pipeline with a row is enough for each.
            scheme: As `tuning_key` spells it.
            n: Output width.
            k: Input width.
            m: Rows.
        """
        key = tuple(tuple(pipelines) for pipelines in contenders), scheme, n, k
        points = self._common.get(key)
        if points is None:
            if len(self._common) >= _KEPT:
                self._common.clear()
            points = self._common[key] = self._measured_alike(*key)
        if not points:
            return {}
        return points[min(points, key=lambda one: (_ratio(one, max(m, 1)), one))]

    def _measured_alike(
        self, contenders: tuple[tuple[Ids, ...], ...], scheme: str, n: int, k: int
    ) -> dict[int, dict[Ids, float]]:
        """Give the times by M at the nearest shape at which all contenders share an M."""
        found: list[dict[Shape, dict[int, dict[Ids, float]]]] = []
        for pipelines in contenders:
            points: dict[Shape, dict[int, dict[Ids, float]]] = {}
            for ids in pipelines:
                for shape, times in self._near(ids, scheme, n, k).items():
                    at = points.setdefault(shape, {})
                    for m, us in times.items():
                        at.setdefault(m, {})[ids] = us
            if not points:
                return {}
            found.append(points)
        if not found:
            return {}
        shapes = set.intersection(*(set(points) for points in found))
        for shape in sorted(shapes, key=lambda s: (_distance(s, n, k), s)):
            ms = set.intersection(*(set(points[shape]) for points in found))
            if ms:
                return {
                    m: {ids: us for points in found for ids, us in points[shape][m].items()}
                    for m in ms
                }
        return {}

    def thresholds(self, pipelines: Iterable[Ids], scheme: str, n: int, k: int) -> set[int]:
        """Give the first M behind each geometric mean of two measured Ms that may be neighbours.

        Where all were measured at the same Ms these are the neighbours among them. Else every
        pair may be, since those are left out at which one of the contenders was not measured.
        """
        found = {
            frozenset(times)
            for ids in pipelines
            for times in self._near(ids, scheme, n, k).values()
        }
        ms = sorted(set().union(*found))
        pairs = itertools.pairwise(ms) if len(found) == 1 else itertools.combinations(ms, 2)
        return {math.isqrt(a * b) + 1 for a, b in pairs}


def tuning_key(config: LayerConfig) -> tuple[str, int, int]:
    """Give (what, N, K) under which times of a config are kept.

    Rows of bf16 serve fp16 and the other way round: they move the same bytes and the tensor cores
    are as fast. fp32 does not, and is spelled out. A bias is N more elements of M·N and is left
    out, as padding is. A producer's N and K are its row width; of inverse_rope_quantize, K is that
    of all groups, of rope_quantize that of all heads.
    """
    if config.op == "linear":
        wide = [
            f" {name}=fp32"
            for name, dtype in (("in", config.in_dtype), ("out", config.out_dtype))
            if dtype == "fp32"
        ]
        return config.scheme.name + "".join(wide), config.n, config.k
    if config.op == "relayout":
        move = f"{config.source.scales}->{config.target.scales}"
        return f"{config.operand.name} {move}", config.n, config.n
    what = f"{config.operand.name} {config.layout.scales}"
    if config.in_dtype == "fp32":
        what += " in=fp32"
    if config.op == "rope_quantize":
        return what, config.n, config.n * config.heads
    groups = config.groups if config.op == "inverse_rope_quantize" else 1
    return what, config.n, config.n * groups


def _distance(shape: Shape, n: int, k: int) -> float:
    return abs(math.log(n / shape[0])) + abs(math.log(k / shape[1]))


def _ratio(a: int, b: int) -> float:
    # not a difference of logarithms: at the geometric mean of two Ms both must be as near
    return max(a / b, b / a)
