"""Route: one M range at run time. Calls its pipeline, and takes another when that one fails."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from quantmux.capability.rejection import Rejection, RejectionCode
from quantmux.errors import BuildError, LaunchError, NotBuiltError, QuantmuxError, RunError
from quantmux.ops.quantized import QuantizedTensor
from quantmux.runtime.capture import (
    WouldCompile,
    compiles_aloud,
    needs_rows,
    not_warmed,
    nothing_compiles,
)
from quantmux.runtime.events import FallbackEvent, Stage, one_line
from quantmux.runtime.failures import Failure, classify, declines, is_capturing
from quantmux.runtime.inputs import check_call, no_rows
from quantmux.runtime.results import result_problem
from quantmux.runtime.self_check import examiner
from quantmux.runtime.steps import Built, Call, KernelFailed, build
from quantmux.runtime.waiting import patiently

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import AbstractContextManager
    from threading import RLock

    from quantmux.capability.device import DeviceProfile
    from quantmux.config.policy import OnFallback
    from quantmux.dispatch.pipeline import Pipeline
    from quantmux.dispatch.ranges import RangeChoice
    from quantmux.dispatch.selection import Selection
    from quantmux.runtime.context import Context
    from quantmux.runtime.prepare import WeightStore


@dataclass(slots=True)
class Place:
    """What the routes of one bound op share.

    Attributes:
        selection: What they were made from.
        context: Registry, quarantine, selections.
        store: Weights of a linear, else None.
        layer: Name of the layer.
        check: Raises when the weights, and not a kernel, are wrong.
        events: Every fallback of this op, in order.
        lock: Held while something is replaced.
        is_patient: Wait for libraries that are being compiled.
        pending: Kernels that were passed over because their libraries are not compiled yet.
        declined: Kernels that said themselves that they cannot serve here, and why.
    """

    selection: Selection
    context: Context
    store: WeightStore | None
    layer: str | None
    check: Callable[[], None]
    events: list[FallbackEvent]
    lock: RLock
    is_patient: bool = False
    pending: dict[str, NotBuiltError] = field(default_factory=dict)
    declined: dict[str, Rejection] = field(default_factory=dict)

    def build(self, pipeline: Pipeline) -> Built:
        """Build a pipeline here; see `steps.build`."""
        examine = None
        if self.selection.settings.self_check == "first_use":
            examine = examiner(self.context, self.selection.device, self.store)

        def make() -> Built:
            return build(pipeline, self.context, self.selection.device, self.store, examine)

        return patiently(make, cause=True) if self.is_patient else make()

    @property
    def name(self) -> str:
        """The layer as errors name it."""
        return self.layer or str(self.selection.config)

    def mode(self, stage: Stage) -> OnFallback:
        """Give what the policy says of a stage."""
        return self.selection.settings.on_fallback(stage)

    def report(
        self, stage: Stage, wanted: str, taken: str | None, reason: str, cause: BaseException | None
    ) -> None:
        """Report a fallback of this op; raises where the policy says ``error``."""
        config, device = self.selection.config, self.selection.device
        event = FallbackEvent(
            wanted, taken, stage, reason, device.name, config.digest(), self.layer
        )
        if event not in self.events:
            self.events.append(event)
        self.context.report(event, self.mode(stage), cause)

    def put_away(self, failed: KernelFailed) -> str:
        """Quarantine a kernel that did not build; gives the reason, one line.

        One whose library is not compiled yet is no failure: it is passed over and remembered. Nor
        is one that says that it cannot serve here.

        Raises:
            BuildError: The policy says ``error``.
            InputError: The weights are wrong, not the kernel.
            LaunchError: The CUDA context is lost.
        """
        if isinstance(failed.error, NotBuiltError):
            self.pending[failed.kernel.id] = failed.error
            return one_line(failed.error)
        if declines(failed.error):
            self.declined[failed.kernel.id] = _declined(failed.error)
            return f"{failed.kernel.id}: {one_line(failed.error)}"
        how = "failed its" if failed.doing == "self-check" else "raised in"
        reason = f"{failed.kernel.id} {how} {failed.doing}: {one_line(failed.error)}"
        refuse(failed.error, self.check, reason)
        self.context.put_away(failed.kernel.id, self.selection.device, reason, failed.error)
        return reason


def _declined(error: BaseException) -> Rejection:
    hint = getattr(error, "hint", None)
    code = RejectionCode.UNAVAILABLE
    return Rejection(code, "bind", "what it can serve here", one_line(error), hint)


def refuse(error: BaseException, check: Callable[[], None], reason: str) -> None:
    """Raise where an exception is no reason to try another kernel; return where it is.

    Out of memory is raised as it is, the caller's own mistake and torch.compile's errors too.
    """
    kind = classify(error)
    if kind in (Failure.CALLER, Failure.OUT_OF_MEMORY, Failure.COMPILER):
        raise error
    if kind is Failure.POISONED:
        raise LaunchError(
            "a kernel failed and the CUDA context is lost",
            context_poisoned=True,
            facts=[reason],
            hint="start the process anew; CUDA_LAUNCH_BLOCKING=1 shows which call it was",
        ) from error
    check()


class Route:
    """Serves one M range.

    ``run`` is what callers call: the pipeline itself as long as it never failed; afterwards a
    look-up by M among what is left, so that what failed once is not tried again.

    A kernel that raises in a call is taken out only when another one serves that same call. When
    none does, the call is the likelier culprit: nothing is taken out, and the next call finds all
    kernels as before. What does not build is out for good.

    What the first call returns is looked at once (type, shape, dtype, device): a plugin that gives
    rubbish has failed as if it had raised.

    What a CUDA graph records goes to `captured`; see `runtime.capture` for what that refuses.
    """

    __slots__ = (
        "_choice",
        "_excluded",
        "_is_warm",
        "_look",
        "_memo",
        "_place",
        "_ready",
        "_rows",
        "_usual",
        "first",
        "run",
    )

    def __init__(self, place: Place, choice: RangeChoice, first: Built) -> None:
        """Begin with the pipeline that was built."""
        self._place = place
        self._choice = choice
        self._excluded: dict[str, str] = {}
        self._memo: dict[int, Built] = {}
        self._ready: list[Built] = []
        self.first = first
        self._look: Call = self._first_call
        self._is_warm = False
        self._rows: set[int] = set()
        self._usual: Call = self._noting_rows if needs_rows(first) else first.run
        self.run: Call = self._look

    @property
    def m_min(self) -> int:
        """First M."""
        return self._choice.m_min

    @property
    def m_max(self) -> int | None:
        """Last M, None is unbounded."""
        return self._choice.m_max

    @property
    def device(self) -> DeviceProfile:
        """Where it runs."""
        return self._place.selection.device

    def warmed(self, ms: Iterable[int]) -> None:
        """Take notice that the kernels in use have compiled all that these M need."""
        self._is_warm = True
        self._rows.update(ms)

    def current(self, m: int) -> Built:
        """Give the pipeline in use for M rows."""
        return self._in_use(m) if self._excluded else self.first

    def recover(
        self, run: Call, error: Exception, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Serve a call that raised by the next candidate, or raise what the caller must see."""
        if run is not self._usual and run is not self._look:
            raise error  # the look-up by M has done all that can be done
        return self._retry(self.first, error, args, kwargs)

    def captured(self, *args: Any, **kwargs: Any) -> Any:
        """Serve a call that a CUDA graph records.

        Raises:
            LaunchError: Something of it is not ready (code ``not_warmed``), or a kernel raised.
        """
        try:
            m = rows(args[0])
        except (AttributeError, IndexError):
            raise no_rows(args[0] if args else None) from None
        built = self._ready_for(m)
        try:
            with self._compiler(m):
                return self.run(*args, **kwargs)
        except KernelFailed as failed:
            raise self._in_capture(failed, m) from failed.error
        except LaunchError:
            raise  # of the look-up by M, which has judged it
        except Exception as error:
            refuse(error, lambda: None, f"{built.last.id} raised: {one_line(error)}")
            raise self._in_capture(KernelFailed(built.last, "run", error), m) from error

    def _ready_for(self, m: int) -> Built:
        """Give the pipeline that serves M rows in a capture, as it stands.

        Raises:
            LaunchError: It is not ready (code ``not_warmed``).
        """
        name = self._place.name
        if self.run is self._look and not self._is_warm:
            raise not_warmed(name, f"no call and no warmup of {self.first.pipeline}", m=m)
        if not self._excluded:
            built: Built | None = self.first
        else:
            built = self._memo.get(m) or self._is_built(self._next(m, self._excluded))
        if built is None:
            raise not_warmed(name, "the kernel that takes a failed one's place is not built", m=m)
        is_strict = self._place.selection.settings.capture == "refuse"
        if is_strict and m and m not in self._rows and needs_rows(built):
            found = f"{built.pipeline} may compile for another M, and was not called with this one"
            raise not_warmed(name, found, m=m)
        return built

    def _compiler(self, m: int) -> AbstractContextManager[None]:
        """Give the block in which a captured call runs, as the policy has it."""
        if self._place.selection.settings.capture == "refuse":
            return nothing_compiles()
        return compiles_aloud(self._place.name, m)

    def _in_capture(self, failed: KernelFailed, m: int) -> LaunchError:
        """Give the error for what a kernel raised in a capture."""
        if isinstance(failed.error, WouldCompile):
            return not_warmed(self._place.name, f"{failed.kernel.id} would compile", m=m)
        facts = [f"{failed.kernel.id} raised: {one_line(failed.error)}"]
        if "cuda_graph" not in failed.kernel.capability.tags:
            facts.append(f"{failed.kernel.id} does not say that it can be captured")
        return LaunchError(
            f"{failed.kernel.id} raised while a CUDA graph was being captured, "
            f"in {self._place.name} with M = {m}",
            facts=facts,
            hint=f"call warmup([{m}]) before capturing",
        )

    def _noting_rows(self, *args: Any, **kwargs: Any) -> Any:
        """Call the pipeline, and remember for how many rows it has compiled what it compiles."""
        result = self.first.run(*args, **kwargs)
        self._rows.add(rows(args[0]))
        return result

    def fail(self, built: Built, failed: KernelFailed) -> None:
        """Take back a pipeline whose kernel did not survive its warmup."""
        place = self._place
        reason = place.put_away(failed)
        self._exclude(failed.kernel.id, reason)
        taken = self._in_use(self.m_min)
        place.report("build", str(built.pipeline), str(taken.pipeline), reason, failed.error)

    def _first_call(self, *args: Any, **kwargs: Any) -> Any:
        """Call the pipeline, look at what it gives, and stand aside for the calls that follow."""
        result = self.first.run(*args, **kwargs)
        config, x = self._place.selection.config, args[0]
        problem = result_problem(config, result, rows(x), x.device)
        if problem is not None:
            raise KernelFailed(self.first.last, "run", RunError(f"it {problem}"))
        self._rows.add(rows(x))
        if self.run is self._look:
            self.run = self._usual
        return result

    def _degraded(self, *args: Any, **kwargs: Any) -> Any:
        """Serve a call after something failed: by M."""
        try:
            m = rows(args[0])
        except (AttributeError, IndexError):
            raise no_rows(args[0] if args else None) from None
        built = self._memo.get(m)
        if built is None:
            built = self._in_use(m)
        try:
            result = built.run(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - sorted by what it means
            return self._retry(built, error, args, kwargs)
        self._rows.add(m)
        return result

    def _retry(
        self, built: Built, error: Exception, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        place = self._place
        tried: dict[str, str] = {}
        passed: list[tuple[str, str, KernelFailed]] = []
        while True:
            failed = (
                error if isinstance(error, KernelFailed) else KernelFailed(built.last, "run", error)
            )
            stage, reason = self._judge(failed, args, kwargs)
            wanted = str(built.pipeline)
            if place.mode(stage) == "error":
                place.report(stage, wanted, None, reason, failed.error)
            is_out = stage == "build" and self._exclude(failed.kernel.id, reason)
            tried[failed.kernel.id] = reason
            built = self._find(rows(args[0]), tried, failed.error)
            if is_out:
                place.report(stage, wanted, str(built.pipeline), reason, failed.error)
            passed.append((wanted, str(built.pipeline), failed))
            try:
                result = built.run(*args, **kwargs)
            except Exception as again:  # noqa: BLE001 - judged in the next round
                error = again
            else:
                self._replace(passed, tried)
                return result

    def _replace(self, passed: list[tuple[str, str, KernelFailed]], tried: dict[str, str]) -> None:
        """Take out for good what failed in a call that another kernel served; tell it once."""
        for wanted, taken, failed in passed:
            reason = tried[failed.kernel.id]
            if self._exclude(failed.kernel.id, reason):  # what did not build is out already
                self._place.report("run", wanted, taken, reason, failed.error)

    def _judge(
        self, failed: KernelFailed, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Stage, str]:
        """Give the stage and the reason of a failure; raise where no fallback is allowed."""
        place, cause = self._place, failed.error
        selection = place.selection
        reason = f"{failed.kernel.id} raised: {one_line(cause)}"
        refuse(cause, lambda: None, reason)
        if is_capturing():
            raise self._in_capture(failed, rows(args[0])) from cause
        check_call(selection.config, selection.device, args, kwargs)
        if isinstance(cause, BuildError):
            return "build", place.put_away(failed)
        return "run", reason

    def _exclude(self, kernel: str, reason: str) -> bool:
        """Take a kernel out of this route; tell whether it was still in."""
        with self._place.lock:
            is_new = kernel not in self._excluded
            self._excluded[kernel] = reason
            if is_new:
                self._memo = {}
                self._rows = set()  # they were another kernel's
                self.run = self._degraded
            return is_new

    def _in_use(self, m: int) -> Built:
        """Give the best pipeline that is left for M rows, built; looked for once per M.

        Raises:
            LaunchError: None is left.
        """
        with self._place.lock:
            found = self._memo.get(m)
            if found is None:
                found = self._memo[m] = self._find(m, {})
            return found

    def _find(self, m: int, tried: Mapping[str, str], cause: BaseException | None = None) -> Built:
        """Give the best pipeline for M rows without the kernels that one call has tried, built.

        Raises:
            LaunchError: None is left.
        """
        place = self._place
        with place.lock:
            while True:
                out = {**self._excluded, **tried}
                pipeline = self._next(m, out)
                if pipeline is None:
                    raise self._nothing_left(m, out) from cause
                found = self._is_built(pipeline)
                if found is not None:
                    return found
                try:
                    found = place.build(pipeline)
                except KernelFailed as failed:
                    reason = place.put_away(failed)
                    self._exclude(failed.kernel.id, reason)
                    after = self._next(m, {**self._excluded, **tried})
                    taken = str(after) if after else None
                    place.report("build", str(pipeline), taken, reason, failed.error)
                else:
                    self._ready.append(found)
                    return found

    def _is_built(self, pipeline: Pipeline | None) -> Built | None:
        return next((b for b in self._ready if b.pipeline == pipeline), None)

    def _next(self, m: int, out: Mapping[str, str]) -> Pipeline | None:
        """Give the next candidate: of the prepared weight form unless that costs a tier."""
        place = self._place
        held = place.store.layouts if place.store is not None else ()
        near = [p for p in self._choice.candidates if p.serves(m) and self._may(p, out)]
        again = place.context.reselect(place.selection, None, out)
        choice = again.range_for(m)
        far = [p for p in choice.candidates if p.serves(m) and self._may(p, out)] if choice else []
        known = [p for p in near if place.store is None or p.weight_layout in held]
        best = min((p.tier.rank for p in (*near, *far)), default=None)
        return next((p for p in (*known, *far, *near) if p.tier.rank == best), None)

    def _may(self, pipeline: Pipeline, out: Mapping[str, str]) -> bool:
        """Tell whether no kernel of it is out, and its weight form is held or can be made."""
        if any(kernel in out for kernel in pipeline.ids):
            return False
        store = self._place.store
        return store is None or store.can_prepare or pipeline.weight_layout in store.layouts

    def _nothing_left(self, m: int, out: Mapping[str, str]) -> QuantmuxError:
        config, device = self._place.selection.config, self._place.selection.device
        return LaunchError(
            f"every kernel failed for {config}, M = {m}, on {device}",
            facts=list(out.values()),
            hint="if other calls succeed, look at what this one was given; run: quantmux doctor",
        )


def rows(x: Any) -> int:
    """Give M of a plain or a quantized matrix."""
    count: int = x.m if isinstance(x, QuantizedTensor) else x.shape[0]
    return count
