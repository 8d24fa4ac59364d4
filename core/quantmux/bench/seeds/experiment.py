"""What an experiment is to the frame: a claim, cases, and the variants of each case."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from quantmux.bench.gate import Checked
    from quantmux.bench.seeds.rows import SeedRow
    from quantmux.bench.seeds.stage import Stage
    from quantmux.ops.spec import Call

Role = Literal["before", "seed", "ours", "peer"]
"""``before``: as it was; ``seed``: as the pull request has it; ``ours``: quantmux; ``peer``: shown
beside them. Of each role the first variant of a case is the one that ratios are made of."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What the report of a pull request says was gained. Never measured here.

    Attributes:
        figure: Its figure, word for word.
        measured: Who measured it, of what, on what.
        ratios: The least and the greatest ratio before/seed that it says of the very thing that is
            timed here; None where it says something else, a model's throughput for example.
    """

    figure: str
    measured: str
    ratios: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class SeedCase:
    """One case of an experiment.

    Attributes:
        name: One line, the same in every process.
        facts: What it is made of, JSON-ready: ``n``, ``k``, ``m``, ``dtype`` and the like.
        is_control: There is nothing to gain: it is shown, and left out of the mean ratios.
        is_counted: Kernel launches of its variants are counted; some 50 ms a variant.
    """

    name: str
    facts: Mapping[str, Any]
    is_control: bool = False
    is_counted: bool = True


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a variant does not do a case: it is a row that says so, and no failure of the run."""

    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """A variant on one case, ready to be called.

    Attributes:
        calls: One per copy of the buffers; each allocates what it gives, or owns its output. They
            must give the same numbers as long as the inputs hold the same.
        compare: Compares what a call gave with the reference of what the inputs hold *now*.
        kernel: What runs: kernel ids of ours joined by an arrow, or a few words.
        note: What a reader should know of this row.
    """

    calls: tuple[Callable[[], Any], ...]
    compare: Callable[[Any], Checked]
    kernel: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Variant:
    """One way of doing a case.

    Attributes:
        name: As shown; the same in every case, so that means can be made over cases.
        role: See `Role`.
        make: Binds it; called a second time for the A/A row, and once more where kernels are
            counted. What it raises fails the run; `Refused` does not.
    """

    name: str
    role: Role
    make: Callable[[], Made | Refused]


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A case with its inputs and its variants.

    Attributes:
        variants: In the order of their turns and of the table.
        copies: Copies of the buffers, as `Stage.copies` gave them.
        bytes_per_call: Bytes that one call of the best variant must move; 0 where nobody asks.
        inputs: Arguments of the calls; results may share memory with them.
        renew: Overwrites the inputs with other numbers, the same in all copies; None where that
            cannot be done. After its rounds every variant is compared on those.
    """

    variants: tuple[Variant, ...]
    copies: int
    bytes_per_call: float = 0.0
    inputs: tuple[Call, ...] = ()
    renew: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class Extra:
    """A number of an experiment's own, shown as ``before / seed / ours`` in its table.

    Attributes:
        key: In `SeedRow.extra`.
        title: Of the column.
        digits: After the point.
    """

    key: str
    title: str
    digits: int = 0


@dataclass(frozen=True, slots=True)
class About:
    """What an experiment says of itself.

    Attributes:
        name: As in ``--only``.
        pull_request: Number in vllm-project/vllm.
        title: One line.
        claim: Of the report.
        reach: What ours is to reach, one line.
        extras: Its own numbers.
        needs_process: It times in processes of its own, which is said in the result.
        headline: Facts of the cases that its mean ratios are of, where those are not all: the
            others do something that the pull request is not about, and are shown beside them.
    """

    name: str
    pull_request: int
    title: str
    claim: Claim
    reach: str
    extras: tuple[Extra, ...] = field(default_factory=tuple)
    needs_process: bool = False
    headline: Mapping[str, Any] = field(default_factory=dict)


class Experiment(ABC):
    """One seed. Subclasses give `about`, `cases` and `prepare`; the frame times.

    `stage.size` says how much is asked: ``full``; ``quick``, a few seconds on a GPU; ``tiny``, on a
    host, where only the plumbing is tried: a second or two, shapes of a few thousand elements.
    """

    about: ClassVar[About]

    @abstractmethod
    def cases(self, stage: Stage) -> Sequence[SeedCase]:
        """Give the cases of a size, those that share weights next to each other."""

    @abstractmethod
    def prepare(self, case: SeedCase, stage: Stage) -> Prepared:
        """Give the variants of a case, over inputs that are made now."""

    def enrich(self, case: SeedCase, row: SeedRow) -> Mapping[str, Any]:
        """Give the numbers of its own for a row that was timed, its kernels counted."""
        del case, row
        return {}

    def remarks(self, rows: Sequence[SeedRow], stage: Stage) -> Sequence[str]:
        """Give lines that stand under its table: what is modelled, what is not."""
        del rows, stage
        return ()

    def run(self, stage: Stage, tell: Callable[[str], None]) -> list[SeedRow]:
        """Give the rows of all cases. One that needs processes of its own overrides it.

        Args:
            stage: Where, and how much.
            tell: Called once at the begin of every case, with its name.
        """
        from quantmux.bench.seeds.measure import measure

        return measure(self, stage, tell)

    def steps(self, stage: Stage) -> int:
        """Give how often `run` calls ``tell``."""
        return len(self.cases(stage))
