"""Legality: at which M a prologue and several linears can share one producer, and why not.

Fused is what some kernel offers exactly as the consumer reads it: element, block, scale type,
rounding, eps, scale_ub, scale layout, padding. Nothing here runs a kernel. The pass over graphs
asks before it rewrites; the op that it writes into the graph asks the same questions again when it
is first called, since inductor may hand over a graph that another process rewrote.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from quantmux.capability.rejection import Rejection, RejectionCode
from quantmux.config.layers import QuantizeConfig
from quantmux.dispatch.join import satisfies, satisfies_layout
from quantmux.dispatch.ranges import PROBE_MS
from quantmux.dispatch.tuning import NOISE_BAND, tuning_key
from quantmux.runtime.traced.offers import Asked, Refusal, settings_of, within

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantmux.config import LayerConfig
    from quantmux.config.policy import Policy
    from quantmux.dispatch.pipeline import Pipeline
    from quantmux.dispatch.selection import Selection
    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux.runtime.traced.keys import LinearProgram, ProducerProgram
    from quantmux.runtime.traced.prologue import Prologue

Code = RejectionCode

_EXACTLY: Final = (
    ("scale_rounding", Code.SCALE_ROUNDING),
    ("dynamic", Code.OPERAND),
    ("global_scale", Code.GLOBAL_SCALE),
)

_LAUNCH_US: Final = 2.0
"""Price of a launch, as the join rule counts it (DESIGN.md §3)."""


@dataclass(frozen=True, slots=True)
class Consumer:
    """What one linear does in a segment.

    Attributes:
        pipeline: Whose consumer multiplies.
        reads: What that consumer reads; None is a plain x.
        instead_of: The pipeline that is selected when nothing is fused, where this one was taken
            for what it reads.
    """

    pipeline: Pipeline
    reads: QuantizeConfig | None
    instead_of: Pipeline | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Linears that read one quantized matrix.

    Attributes:
        members: Their places.
        config: Of the producer.
        selection: The producer's kernels.
    """

    members: tuple[int, ...]
    config: LayerConfig
    selection: Selection


@dataclass(frozen=True, slots=True)
class Segment:
    """A range of M in which each linear has one pipeline.

    Attributes:
        m_min: First M.
        m_max: Last M, None is unbounded.
        consumers: One per linear.
        groups: Linears that share a producer; empty where nothing is fused.
        refusals: Why nothing is fused, or why not all linears share.
    """

    m_min: int
    m_max: int | None
    consumers: tuple[Consumer, ...]
    groups: tuple[Group, ...]
    refusals: tuple[Refusal, ...]

    @property
    def is_fused(self) -> bool:
        """Tell whether anything is saved here."""
        return bool(self.groups)

    def overlaps(self, first: int, last: int | None) -> bool:
        """Tell whether an M from ``first`` to ``last`` lies in it."""
        below = self.m_max is not None and self.m_max < first
        above = last is not None and last < self.m_min
        return not (below or above)

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON-ready data."""
        return {
            "m_min": self.m_min,
            "m_max": self.m_max,
            "fused": self.is_fused,
            "consumers": [
                {
                    "kernel": c.pipeline.main.id,
                    "reads": None
                    if c.reads is None
                    else f"{c.reads.operand.name} {c.reads.layout}",
                    "instead_of": None if c.instead_of is None else str(c.instead_of),
                }
                for c in self.consumers
            ],
            "producers": [
                {
                    "linears": list(g.members),
                    "kernels": [
                        c.pipeline.main.id
                        for c in g.selection.ranges
                        if self.overlaps(c.m_min, c.m_max)
                    ],
                }
                for g in self.groups
            ],
            "refusals": [r.to_dict() for r in self.refusals],
        }


def segments(
    prologue: Prologue, programs: Sequence[LinearProgram], policy: Policy | None = None
) -> tuple[Segment, ...]:
    """Give, for every M that all linears serve, how they are fed.

    With the prologue ``none`` linears that agree share one quantized x, the others read the plain
    one as before. With another prologue all linears of a segment must be fed by fused producers:
    else the plain value has to be computed anyway, and nothing would be saved.

    Args:
        prologue: What stands before the quantization.
        programs: Linears of one K, device and context.
        policy: Over everything else, for the choice of producers.
    """
    found: list[Segment] = []
    selections = [program.selection for program in programs]
    starts = {c.m_min for s in selections for c in s.ranges}
    ends = {c.m_max + 1 for s in selections for c in s.ranges if c.m_max is not None}
    edges = sorted(starts | ends)
    for first, following in zip(edges, [*edges[1:], None], strict=True):
        last = None if following is None else following - 1
        choices = [s.range_for(first) for s in selections]
        if any(choice is None for choice in choices):
            continue
        found.append(_Segmenter(prologue, programs, policy, first, last).segment())
    return tuple(found)


def quantizer_segments(
    prologue: Prologue, program: ProducerProgram, policy: Policy | None = None
) -> tuple[Segment, ...]:
    """Give, per range of M of a quantizer, the producer that does the prologue too.

    Args:
        prologue: What stands before it.
        program: The quantizer.
        policy: Over everything else, for the choice of producers.
    """
    reads: Any = program.config
    found: list[Segment] = []
    for choice in program.bound.selection.ranges:
        asked = Asked([program], prologue, policy, choice.m_min, choice.m_max)
        selection = asked.offer(reads, [choice.pipeline.main])
        groups = () if selection is None else (Group((0,), selection.config, selection),)
        consumer = Consumer(choice.pipeline, reads)
        refusals = tuple(dict.fromkeys(asked.refusals))
        found.append(Segment(choice.m_min, choice.m_max, (consumer,), groups, refusals))
    return tuple(found)


def reads_of(pipeline: Pipeline) -> QuantizeConfig | None:
    """Give the quantized input of a linear's consumer; None when it takes a plain x."""
    if len(pipeline.steps) < 2:
        return None
    made, config = pipeline.steps[-2].config, pipeline.steps[-1].config
    if made.op == "quantize":
        return made
    if made.op == "relayout" and config.op == "linear":
        return QuantizeConfig(
            operand=made.operand, n=made.n, layout=made.target, in_dtype=config.in_dtype
        )
    return None


def differences(mine: QuantizeConfig, other: QuantizeConfig) -> tuple[Rejection, ...]:
    """Give the reasons why what one linear reads is not what another reads; empty if it is.

    Stricter than the join rule: scales that are powers of two would satisfy a linear that asks for
    any, but sharing them would change its numbers, and nobody has asked for that.
    """
    found = (
        *satisfies(mine.operand, other.operand),
        *satisfies_layout(mine.layout, other.layout),
    )
    if found:
        return found
    return tuple(
        Rejection(code, name, str(need), str(have))
        for name, code in _EXACTLY
        if (need := getattr(other.operand, name)) != (have := getattr(mine.operand, name))
    )


class _Segmenter:
    """Decides one segment."""

    def __init__(
        self,
        prologue: Prologue,
        programs: Sequence[LinearProgram],
        policy: Policy | None,
        first: int,
        last: int | None,
    ) -> None:
        self._prologue = prologue
        self._programs = programs
        self._policy = policy
        self._first, self._last = first, last
        self._refusals: list[Refusal] = []

    def segment(self) -> Segment:
        fuses = self._prologue.kind != "none"
        consumers = [self._consumer(place, fuses=fuses) for place in range(len(self._programs))]
        groups = self._groups(consumers)
        if fuses:
            fed = {member for group in groups for member in group.members}
            if len(fed) < len(self._programs):
                groups = []  # the plain value is needed anyway
        if not groups:
            consumers = [self._plain(place) for place in range(len(self._programs))]
        return Segment(
            self._first,
            self._last,
            tuple(consumers),
            tuple(groups),
            tuple(dict.fromkeys(self._refusals)),
        )

    def _plain(self, place: int) -> Consumer:
        """Give what is selected when nothing is fused."""
        # never None: segments are made where all serve
        choice: Any = self._programs[place].selection.range_for(self._first)
        return Consumer(choice.pipeline, reads_of(choice.pipeline))

    def _consumer(self, place: int, *, fuses: bool) -> Consumer:
        """Give what a linear does; with a prologue, one that reads what a producer offers."""
        mine = self._plain(place)
        if not fuses:
            return mine
        if mine.reads is not None and self._offer(mine.reads, {place: mine}):
            return mine
        program = self._programs[place]
        choice = program.selection.range_for(self._first)
        for other in choice.candidates[1:] if choice is not None else ():
            reads = reads_of(other)
            if reads is None or not self._stands_for(other, mine.pipeline):
                continue
            said = len(self._refusals)
            instead = Consumer(other, reads, instead_of=mine.pipeline)
            if self._offer(reads, {place: instead}) is None:
                if mine.reads is not None:
                    del self._refusals[said:]  # what the selected one reads is what was asked
                continue
            slower = self._is_slower(program, mine.pipeline, other)
            if slower is not None:
                self._refusals.append(Refusal(str(other), slower))
                continue
            return instead
        if mine.reads is None:
            name = self._prologue.op
            why = Rejection(
                Code.OPERAND,
                "input",
                f"what {name} writes",
                f"a plain {program.selection.config.in_dtype} x",  # type: ignore[union-attr]
                "it quantizes inside, or not at all",
            )
            self._refusals.append(self._here(Refusal(mine.pipeline.main.id, why)))
        return mine

    def _stands_for(self, other: Pipeline, winner: Pipeline) -> bool:
        """Tell whether a candidate may be taken for the winner: same weights, no worse kernels."""
        return (
            other.weight_layout == winner.weight_layout
            and other.tier is winner.tier
            and other.covers(self._first, self._last)
            and not (other.main.capability.is_experimental and not winner.is_experimental)
            and (other.main.capability.rel_tolerance or 0.0)
            <= (winner.main.capability.rel_tolerance or 0.0)
        )

    def _groups(self, consumers: list[Consumer]) -> list[Group]:
        """Put linears that read alike together, each group with its producer."""
        fuses = self._prologue.kind != "none"
        alike: list[tuple[QuantizeConfig, list[int]]] = []
        for place, consumer in enumerate(consumers):
            if consumer.reads is None:
                if not fuses:
                    self._say_plain(place, consumer)
                continue
            for reads, members in alike:
                if not differences(reads, consumer.reads):
                    members.append(place)
                    break
            else:
                alike.append((consumer.reads, [place]))
        if not fuses:
            self._say_different(alike)
        groups: list[Group] = []
        for reads, members in alike:
            groups += self._fed(reads, {place: consumers[place] for place in members})
        return groups

    def _fed(self, reads: QuantizeConfig, members: dict[int, Consumer]) -> list[Group]:
        """Give linears that read alike their producer; several where they do not allow one."""
        if self._prologue.kind == "none" and len(members) < 2:
            return []
        selection = self._offer(reads, members)
        if selection is not None:
            return [Group(tuple(members), selection.config, selection)]
        apart: dict[tuple[Any, ...], dict[int, Consumer]] = {}
        for place, consumer in members.items():
            settings = settings_of(self._programs[place])
            allows = (frozenset(settings.deny), settings.require_evidence, settings.force)
            key = (*allows, _quantizer(consumer).id)
            apart.setdefault(key, {})[place] = consumer
        if len(apart) < 2:
            return []
        return [group for some in apart.values() for group in self._fed(reads, some)]

    def _say_plain(self, place: int, consumer: Consumer) -> None:
        why = Rejection(Code.OPERAND, "input", "a quantized x", "a plain x")
        why = why.replace(hint=f"{consumer.pipeline.main.id} quantizes inside, or not at all")
        self._refusals.append(self._here(Refusal(f"linear {place}", why)))

    def _say_different(self, alike: list[tuple[QuantizeConfig, list[int]]]) -> None:
        """Say why linears beside those of the largest group do not share with them."""
        if len(alike) < 2:
            return
        most = max(alike, key=lambda item: len(item[1]))
        for reads, members in alike:
            if reads is most[0]:
                continue
            for why in differences(most[0], reads):
                who = f"linear {members[0]}"
                self._refusals.append(self._here(Refusal(who, why)))

    def _offer(self, reads: QuantizeConfig, members: dict[int, Consumer]) -> Selection | None:
        """Give the producers that write what is read at every M here; None says why not.

        Args:
            reads: What is read.
            members: Who reads it, by their places. All must allow the producer.
        """
        programs = [self._programs[place] for place in members]
        asked = Asked(programs, self._prologue, self._policy, self._first, self._last)
        quantizers = [_quantizer(consumer) for consumer in members.values()]
        traded = any(consumer.instead_of is not None for consumer in members.values())
        found = asked.offer(reads, quantizers, traded=traded)
        self._refusals += asked.refusals
        return found

    def _here(self, refusal: Refusal) -> Refusal:
        return within(refusal, self._first, self._last)

    def _is_slower(
        self, program: LinearProgram, winner: Pipeline, other: Pipeline
    ) -> Rejection | None:
        """Say with measured times that the winner behind a kernel for the prologue is faster.

        Measured are whole pipelines. The prologue's own kernel is priced by its bytes: it writes
        what the fused producer does not, which in turn reads [gate | up] instead of the product.
        None where nobody has measured both: the order of kernels is no time.
        """
        device = program.selection.device
        tuning = program.context.inventory(device).tuning
        config: Any = program.selection.config
        if not len(tuning) or not device.copy_gb_s:
            return None
        row_us = config.k * (4 if self._prologue.in_dtype == "fp32" else 2) / device.copy_gb_s / 1e3
        probes = [
            m for m in PROBE_MS if self._first <= m and (self._last is None or m <= self._last)
        ]
        for m in probes or [self._first]:
            us = tuning.times(((winner.ids,), (other.ids,)), *tuning_key(config), m)
            if not us:
                continue
            before, after = us[winner.ids], us[other.ids]
            if self._prologue.kind == "silu_mul":
                # 2n read and n written by the kernel before; n more read by the fused producer
                before += _LAUNCH_US + 3 * m * row_us
                after += m * row_us
            else:
                before += m * row_us  # n written; the sum before a norm has a kernel anyway
            if after > before * NOISE_BAND:
                return Rejection(
                    Code.OUTRANKED,
                    "rank",
                    f"{winner} ({before:.4g} µs, its prologue included)",
                    f"{other} ({after:.4g} µs)",
                    f"measured at M = {m}",
                    self._first,
                    self._last,
                )
        return None


def _quantizer(consumer: Consumer) -> KernelSpec:
    """Give the kernel that quantizes for a consumer when nothing is fused.

    No lesser kernel may take its place. It is that of the selected pipeline, where that has one.
    """
    winner = consumer.instead_of
    takes = winner is not None and reads_of(winner) is not None
    pipeline = winner if winner is not None and takes else consumer.pipeline
    return pipeline.steps[0].kernel


__all__ = [
    "Consumer",
    "Group",
    "Refusal",
    "Segment",
    "differences",
    "quantizer_segments",
    "reads_of",
    "segments",
]
