"""A cell: what selection takes there, what was best there, and what every one backend does."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from quantmux.bench.selection.entrants import COMMON, backends_of
from quantmux.config import LinearConfig

if TYPE_CHECKING:
    from quantmux.bench.rows import Row
    from quantmux.dispatch.selection import Selection
    from quantmux.registry.kernel_spec import KernelSpec

    Rows = list[Row]

Ids = tuple[str, ...]
Selector = Callable[[LinearConfig], "Selection"]
"""Config → what selection says of it, for all M."""

KINDS: Final = ("kernel", "alone")
"""Kinds of rows that are pipelines."""


@dataclass(frozen=True, slots=True)
class Best:
    """The fastest of some pipelines.

    Attributes:
        ids: Its kernels.
        us: Its median time.
        spread: Half the spread of the middle half of its rounds over the median.
    """

    ids: Ids
    us: float
    spread: float = 0.0


@dataclass(frozen=True, slots=True)
class Cell:
    """One N×K at one M in one scheme.

    Attributes:
        scheme: Name of the scheme.
        n: Output width.
        k: Input width.
        m: Rows.
        pick: What selection takes, None where that has no time.
        best: The fastest of all of the tier.
        on_layout: The fastest of those that read the weights as selection has prepared them.
        own: Backend → its fastest with its own quantizer, or torch's where it has none.
        consumers: Backend → its fastest behind anybody's quantizer.
        aa_noise: How far two bindings of the pick were apart.
        problem: Why there is no ``pick``.
    """

    scheme: str
    n: int
    k: int
    m: int
    pick: Best | None
    best: Best
    on_layout: Best | None
    own: Mapping[str, Best] = field(default_factory=dict)
    consumers: Mapping[str, Best] = field(default_factory=dict)
    aa_noise: float | None = None
    problem: str = ""

    @property
    def loss(self) -> float | None:
        """Time of the pick over the best's, less 1; None without a pick."""
        return None if self.pick is None else self.pick.us / self.best.us - 1.0

    @property
    def noise(self) -> float:
        """What a loss must exceed to be one: A/A, and the spread of either's rounds."""
        pick = self.pick.spread if self.pick is not None else 0.0
        return max(self.aa_noise or 0.0, pick, self.best.spread)

    @property
    def is_loss(self) -> bool:
        """Tell whether another pipeline is faster by more than noise."""
        return self.loss is not None and self.loss > self.noise

    def within(self, share: float) -> bool:
        """Tell whether the loss is at most a share, 0.03 being 3 %."""
        return self.loss is not None and self.loss <= share

    def to_dict(self) -> dict[str, Any]:
        """Give the cell as JSON-ready data."""
        return {
            "scheme": self.scheme,
            "n": self.n,
            "k": self.k,
            "m": self.m,
            "pick": _data(self.pick),
            "best": _data(self.best),
            "on_layout": _data(self.on_layout),
            "loss": None if self.loss is None else round(self.loss, 4),
            "aa_noise": None if self.aa_noise is None else round(self.aa_noise, 4),
            "is_loss": self.is_loss,
            "own": {name: _data(best) for name, best in self.own.items()},
            "consumers": {name: _data(best) for name, best in self.consumers.items()},
            "problem": self.problem,
        }


def cells_of(
    rows: Iterable[Row], select: Selector, specs: Mapping[str, KernelSpec]
) -> tuple[Cell, ...]:
    """Give the cells of a run, in its order.

    Args:
        rows: What was timed.
        select: Gives selections, under whatever measured times are to be judged.
        specs: Kernel id → kernel: its weight layout.
    """
    groups: dict[tuple[str, int, int, int], Rows] = defaultdict(list)
    for row in rows:
        if row.op == "linear" and row.part == "pipeline" and not row.env:
            groups[row.scheme, row.n, row.k, row.m].append(row)
    found = (_cell(key, same, select, specs) for key, same in groups.items())
    return tuple(cell for cell in found if cell is not None)


def _cell(
    key: tuple[str, int, int, int],
    rows: Rows,
    select: Selector,
    specs: Mapping[str, KernelSpec],
) -> Cell | None:
    scheme, n, k, m = key
    timed = [row for row in rows if row.kind in KINDS and row.us and row.status == "ok"]
    if not timed:
        return None
    selection = select(LinearConfig(out_features=n, in_features=k, scheme=scheme))
    pipeline = selection.pipeline_for(m)
    mine = [row for row in timed if pipeline is not None and row.pipeline == pipeline.ids]
    tier = str(pipeline.tier) if pipeline is not None else None
    same = [row for row in timed if tier is None or row.tier == tier]
    laid = [
        row
        for row in same
        if _layout(specs.get(row.pipeline[-1]), n, k) in selection.weight_layouts
    ]
    problem = ""
    if pipeline is None:
        problem = "selection has nothing"
    elif not mine:
        failed = [row.reason for row in rows if row.pipeline == pipeline.ids and row.reason]
        problem = f"{pipeline} has no time: " + ("; ".join(failed) or "it was not in the run")
    noises = [row.aa_noise for row in rows if row.aa_noise is not None]
    return Cell(
        scheme=scheme,
        n=n,
        k=k,
        m=m,
        pick=_fastest(mine),
        best=_fastest(same or timed) or Best((), math.inf),
        on_layout=_fastest(laid),
        own=_by_backend(same, own=True),
        consumers=_by_backend(same, own=False),
        aa_noise=noises[0] if noises else None,
        problem=problem,
    )


def _by_backend(rows: Rows, *, own: bool) -> dict[str, Best]:
    found: dict[str, Rows] = defaultdict(list)
    for row in rows:
        backend = row.pipeline[-1].partition("/")[0]
        if not own or backends_of(row.pipeline) <= {backend, COMMON}:
            found[backend].append(row)
    best: dict[str, Best] = {}
    for backend, mine in sorted(found.items()):
        # torch's quantizer stands in only where the backend has none of its own
        pure = [row for row in mine if backends_of(row.pipeline) == {backend}]
        fastest = _fastest(pure if own and pure else mine)
        if fastest is not None:
            best[backend] = fastest
    return best


def _fastest(rows: Rows) -> Best | None:
    row = min(rows, key=lambda r: r.us or math.inf, default=None)
    return None if row is None else Best(row.pipeline, row.us or math.inf, row.noise)


def _layout(spec: KernelSpec | None, n: int, k: int) -> str:
    return "" if spec is None else spec.capability.weight_layout_for(n, k)


def _data(best: Best | None) -> dict[str, Any] | None:
    return None if best is None else {"pipeline": list(best.ids), "us": round(best.us, 4)}
