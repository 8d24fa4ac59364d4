"""Measuring cases: build, gate, time in turns, and say what was found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

from quantmux.bench.contenders import Binder, Contender, pipelines_of
from quantmux.bench.gate import Checked, check_pipeline
from quantmux.bench.materials import Materials
from quantmux.bench.recheck import recheck
from quantmux.bench.rows import BenchCase, Row
from quantmux.bench.timing import Timing, Watch, interleave
from quantmux.bench.traffic import Part, work
from quantmux.bench.watch_cuda import cuda_watch, host_us, raise_if_lost
from quantmux.bench.watch_host import HostWatch
from quantmux.dispatch.tier import Tier
from quantmux.ops.spec import Call
from quantmux.registry.guard import describe
from quantmux.runtime.failures import Failure, classify
from quantmux.runtime.steps import KernelFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from quantmux.bench.effort import Effort
    from quantmux.bench.peers.base import Peer
    from quantmux.capability.device import DeviceProfile
    from quantmux.dispatch.pipeline import Pipeline
    from quantmux.runtime.context import Context


@dataclass(frozen=True, slots=True)
class Entry:
    """Somebody who competes on a case.

    Attributes:
        name: As in the rows.
        part: What its time covers.
        make: Binds it and holds it against the reference; gives why it may not be timed instead.
            May raise anything.
    """

    name: str
    part: Part
    make: Callable[[], Contender | str]


Choice = Callable[[BenchCase, Binder, Sequence[Call]], Iterable[Entry]]
"""Case, what binds its pipelines, and its inputs → who competes."""


@dataclass(frozen=True, slots=True)
class Bench:
    """Everything that a measurement needs besides its cases.

    Attributes:
        context: Plugins and policy.
        device: A device that is here.
        effort: How much is measured.
        ceilings: Of this process.
        peers: Those that are here.
        only: Patterns of kernel ids, none for all that compete.
        with_kernels: Time pipelines; a peer's own process does not.
        choose: Gives who competes on a case in place of every pipeline, None for those.
    """

    context: Context
    device: DeviceProfile
    effort: Effort
    ceilings: Mapping[str, float]
    peers: Sequence[Peer] = ()
    only: Sequence[str] = ()
    with_kernels: bool = True
    choose: Choice | None = None

    def run(
        self, cases: Sequence[BenchCase], tell: Callable[[str], None] = lambda _: None
    ) -> Iterator[Row]:
        """Measure the cases; cases of one config, if neighbours, share its weights.

        Args:
            cases: What to measure.
            tell: Called with the name of every case before it is begun.

        Raises:
            LaunchError: The CUDA context is lost.
        """
        for config, same in groupby(cases, key=lambda case: case.config):
            materials = Materials(config, self.device, self.effort.seed)
            binder = Binder(self.context, materials)
            for case in same:
                tell(case.name)
                yield from _Case(self, case, materials, binder).rows()

    def part(self, config: Any) -> tuple[Part, ...]:
        """Give the parts that are timed of a config."""
        return ("pipeline", "gemm") if config.op == "linear" and self.effort.gemm else ("pipeline",)


class _Case:
    """One case being measured."""

    def __init__(self, bench: Bench, case: BenchCase, materials: Materials, binder: Binder) -> None:
        self._bench = bench
        self._case = case
        self._materials = materials
        self._binder = binder
        self._failed: list[Row] = []
        least = min(work(case.config, case.m, part).moved for part in bench.part(case.config))
        self._copies = bench.effort.copies(least)
        self._rotated = self._copies * least

    def rows(self) -> list[Row]:
        bench = self._bench
        if not bench.with_kernels and all(peer.refuses(self._case) for peer in bench.peers):
            return []
        try:
            inputs = self._materials.inputs(self._case.m, self._copies)
        except (RuntimeError, MemoryError) as error:
            if classify(error) is not Failure.OUT_OF_MEMORY:
                raise
            return [self._failure(Contender("the inputs", "pipeline", ()), describe(error))]
        contenders = self._contenders(inputs)
        watches: dict[str, Watch] = {}
        notes: dict[str, str] = {}
        named: dict[str, Contender] = {}
        for contender in contenders:
            name = f"{contender.kind} {contender.part} {contender.name}"
            try:
                watches[name], notes[name] = self._watch(contender)
            # a plugin's or a peer's code may raise anything; it costs that contender only
            except Exception as error:  # noqa: BLE001
                raise_if_lost(error)
                self._failed.append(self._failure(contender, describe(error)))
                continue
            named[name] = contender

        def failed(name: str, error: Exception) -> None:
            raise_if_lost(error)
            self._drop(name, named, f"in its rounds: {describe(error)}")

        timings = interleave(watches, self._bench.effort.rounds, failed)
        self._recheck(named, watches, inputs)
        noise = _aa_noise(named, timings)
        rows: list[Row] = []
        for name, contender in named.items():
            try:
                rows.append(self._row(contender, timings[name], notes[name], noise))
            # likewise: warm and eager calls are made here
            except Exception as error:  # noqa: BLE001
                raise_if_lost(error)
                self._failed.append(self._failure(contender, describe(error)))
        return [*rows, *self._failed]

    def _contenders(self, inputs: list[Call]) -> list[Contender]:
        bench, found = self._bench, []
        if bench.with_kernels:
            found += self._kernels(inputs)
        for peer in bench.peers:
            if peer.refuses(self._case):
                continue
            bound = self._try(peer.name, "peer", peer.part, partial(self._peer, peer, inputs))
            if bound is not None:
                found.append(bound)
        if found and not bench.with_kernels:
            found.append(replace(found[0], kind="aa"))
        return found

    def _kernels(self, inputs: list[Call]) -> list[Contender]:
        bench, case = self._bench, self._case
        found: list[Contender] = []
        if bench.choose is not None:
            for entry in bench.choose(case, self._binder, inputs):
                bound = self._try(entry.name, "kernel", entry.part, entry.make)
                found += [] if bound is None else [bound]
            return found
        alone: set[str] = set()
        pipelines = pipelines_of(case.config, case.m, bench.context, bench.device, only=bench.only)
        for pipeline in pipelines:
            bound = self._try(
                str(pipeline), "kernel", "pipeline", partial(self._gated, pipeline, inputs)
            )
            if bound is None:
                continue
            found.append(bound)
            if "gemm" in bench.part(case.config) and pipeline.main.id not in alone:
                alone.add(pipeline.main.id)
                consumer = self._binder.gemm(pipeline, inputs)
                if consumer is not None:
                    consumer.checked = bound.checked
                    found.append(consumer)
        if found:
            first = found[0].pipeline
            if first is not None:
                found.append(self._binder.contender(first, inputs, again=True))
        return found

    def _gated(self, pipeline: Pipeline, inputs: list[Call]) -> Contender | str:
        contender = self._binder.contender(pipeline, inputs)
        checked = check_pipeline(contender, inputs[0], self._materials)
        contender.checked = checked.how
        return contender if checked.ok else checked.reason

    def _peer(self, peer: Peer, inputs: list[Call]) -> Contender | str:
        bound = peer.bind(self._case, self._materials, inputs)
        checked = bound.check()
        if not checked.ok:
            return checked.reason
        return Contender(
            peer.name,
            peer.part,
            bound.calls,
            checked=checked.how,
            kind="peer",
            compare=bound.compare,
        )

    def _try(
        self, name: str, kind: str, part: Part, make: Callable[[], Contender | str]
    ) -> Contender | None:
        """Give the contender, or keep why it cannot be timed."""
        try:
            made = make()
        except KernelFailed as failed:
            raise_if_lost(failed.error)
            made = f"{failed.kernel.id} failed to {failed.doing}: {describe(failed.error)}"
        # a plugin's or a peer's code may raise anything; it costs that contender only
        except Exception as error:  # noqa: BLE001
            raise_if_lost(error)
            made = describe(error)
        if isinstance(made, Contender):
            return made
        self._failed.append(self._failure(Contender(name, part, (), kind=kind), made))
        return None

    def _watch(self, contender: Contender) -> tuple[Watch, str]:
        if self._bench.device.is_cuda:
            return cuda_watch(contender.calls)
        return HostWatch(contender.calls, round_us=self._bench.effort.round_us), ""

    def _recheck(
        self, named: dict[str, Contender], watches: Mapping[str, Watch], inputs: list[Call]
    ) -> None:
        """Take out those that no longer agree, and what was bound a second time of them."""
        whole = [n for n, c in named.items() if (c.kind, c.part) == ("kernel", "pipeline")]
        # what was bound to a quantized x, or to weights of its own, does not see another x
        others = [n for n, c in named.items() if c.kind != "aa" and n not in whole]
        for name in others:
            self._recheck_one(name, named, watches[name], inputs)
        if whole:
            self._materials.renew(inputs, self._case.m)
        for name in whole:
            contender = named[name]
            self._recheck_one(name, named, watches[name], inputs)
            if name not in named and contender.pipeline is not None:
                # it has seen one x only: what its pipeline gave for another one counts for it too
                alone = f"kernel gemm {contender.pipeline.main.id}"
                self._drop(alone, named, "its pipeline disagrees after its rounds")

    def _recheck_one(
        self, name: str, named: dict[str, Contender], watch: Watch, inputs: list[Call]
    ) -> None:
        contender = named[name]
        if contender.compare is None:
            return
        try:
            checked = recheck(watch, contender.compare, inputs)
        # a plugin's or a peer's code may raise anything; it costs that contender only
        except Exception as error:  # noqa: BLE001
            raise_if_lost(error)
            checked = Checked(False, reason=f"after its rounds: {describe(error)}")
        if not checked.ok:
            self._drop(name, named, checked.reason)

    def _drop(self, name: str, named: dict[str, Contender], reason: str) -> None:
        """Take a contender out, with what was bound a second time of it."""
        contender = named.pop(name, None)
        if contender is None:
            return
        if contender.kind != "aa":
            named.pop(f"aa {contender.part} {contender.name}", None)
            self._failed.append(self._failure(contender, reason))

    def _blank(self, contender: Contender) -> Row:
        case, pipeline = self._case, contender.pipeline
        n, k = case.shape
        return Row(
            op=case.config.op,
            case=case.name,
            kernel=contender.name,
            kind=contender.kind,
            part=contender.part,
            scheme=case.scheme,
            n=n,
            k=k,
            m=case.m,
            tier=str(pipeline.tier) if pipeline else None,
            pipeline=pipeline.ids if pipeline else (),
        )

    def _failure(self, contender: Contender, reason: str) -> Row:
        return replace(self._blank(contender), status="failed", reason=reason)

    def _row(self, contender: Contender, timing: Timing, note: str, noise: float | None) -> Row:
        bench, case, us = self._bench, self._case, timing.us
        tier = contender.pipeline.tier if contender.pipeline else Tier.NATIVE
        todo = work(case.config, case.m, contender.part, native=tier is Tier.NATIVE)
        floor = todo.floor_us(bench.ceilings)
        by_copy = replace(todo, flops=0.0).floor_us(bench.ceilings)
        method = "host" if not bench.device.is_cuda else "events" if note else "graph"
        row = replace(
            self._blank(contender),
            us=us,
            us_min=timing.us_min,
            us_max=timing.us_max,
            noise=timing.noise,
            gb_s=todo.moved / us * 1e-3,
            tflops=todo.flops / us * 1e-6,
            pct_of_ceiling=None if floor is None else 100.0 * floor / us,
            bound=None if floor is None else "copy" if floor == by_copy else "compute",
            aa_noise=noise,
            copies=self._copies,
            rotated_mb=self._rotated / 1e6,
            cold=self._rotated >= bench.effort.rotate_bytes,
            method=method,
            note="; ".join(part for part in (note, contender.checked) if part),
        )
        if contender.kind == "aa":
            return row
        return replace(row, warm_us=self._warm(contender), host_us=self._host(contender))

    def _warm(self, contender: Contender) -> float | None:
        if not self._bench.effort.warm:
            return None
        one = replace(contender, calls=contender.calls[:1])
        watch, _ = self._watch(one)
        return interleave({"warm": watch}, self._bench.effort.rounds)["warm"].us

    def _host(self, contender: Contender) -> float | None:
        return host_us(contender.calls) if self._bench.device.is_cuda else None


def _aa_noise(named: Mapping[str, Contender], timings: Mapping[str, Timing]) -> float | None:
    for name, contender in named.items():
        if contender.kind != "aa":
            continue
        for other, first in named.items():
            if (first.name, first.part) == (contender.name, contender.part) and other != name:
                one, two = timings[other].us, timings[name].us
                return abs(one - two) / min(one, two)
    return None
