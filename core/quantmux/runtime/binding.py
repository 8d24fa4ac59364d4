"""bind: a selection and weights become a callable that calls its kernels and nothing else."""

from __future__ import annotations

from functools import partial
from threading import RLock
from typing import TYPE_CHECKING, Any

import torch

from quantmux.capability.rejection import Rejection, RejectionCode
from quantmux.errors import BuildError, NotBuiltError
from quantmux.ops.linear.weights import check_weights
from quantmux.ops.quantized import DTYPES
from quantmux.runtime.calls import guarded, linear_call, producer_call, route_of
from quantmux.runtime.capture import refuse_to_bind, refuse_to_warm
from quantmux.runtime.context import default_context
from quantmux.runtime.events import FallbackEvent
from quantmux.runtime.prepare import WeightStore
from quantmux.runtime.route import Place, Route, rows
from quantmux.runtime.steps import Built, Call, KernelFailed
from quantmux.runtime.waiting import patiently

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import QuantizeConfig
    from quantmux.dispatch.pipeline import Pipeline
    from quantmux.dispatch.selection import Selection
    from quantmux.ops.quantized import LinearWeights
    from quantmux.runtime.context import Context


class Bound:
    """A bound op.

    Attributes:
        call: The function to call; `__call__` adds one Python call to it.
        routes: One per M range.
    """

    def __init__(self, place: Place, routes: tuple[Route, ...], call: Call) -> None:
        self._place = place
        self.routes = routes
        self.call = call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it."""
        return self.call(*args, **kwargs)

    @property
    def selection(self) -> Selection:
        """What was bound. After a failed build it is another one than was given."""
        return self._place.selection

    @property
    def device(self) -> DeviceProfile:
        """Where it runs."""
        return self._place.selection.device

    @property
    def events(self) -> tuple[FallbackEvent, ...]:
        """Every fallback of this op since it was bound, the bind itself included."""
        return tuple(self._place.events)

    @property
    def pending(self) -> tuple[str, ...]:
        """Kernels that were passed over because their libraries were not compiled yet.

        They are not taken later by themselves: what is bound stays. Bind anew to take them.
        """
        return tuple(self._place.pending)

    @property
    def has_news(self) -> bool:
        """Tell whether the library of one of `pending` is compiled by now, or has failed to."""
        pending = self._place.pending
        return bool(pending) and any(error.is_ready for error in pending.values())

    def pipeline_for(self, m: int) -> Pipeline:
        """Give the pipeline in use for M rows, fallbacks included.

        Raises:
            ShapeError: No kernel serves this M.
        """
        return self._built(m).pipeline

    def warmup(self, ms: Sequence[int]) -> None:
        """Have the kernels compile all that calls with these M need.

        A kernel whose warmup raises is replaced as one that does not build.

        Raises:
            ShapeError: No kernel serves one of them.
        """
        refuse_to_warm(self._place.name)
        for route in self.routes:
            mine = [m for m in ms if route_of(self.routes, m) is route]
            if mine:
                _warm(route, mine)
        for m in ms:
            self._dry_run(m)

    def _dry_run(self, m: int) -> None:
        """Call once with M rows, where inputs can be made up."""

    def _built(self, m: int) -> Built:
        return route_of(self.routes, m).current(m)


class BoundLinear(Bound):
    """A linear with its weights prepared: ``bound(x, out=None) -> y``; x [M, K] or quantized.

    Attributes:
        fused: What calls it together with others, by their weights; of `runtime.traced.fused`. It
            holds those others, hence is held here and nowhere else: linears that are in each
            other's groups are a cycle that Python's collector frees.
    """

    def __init__(self, place: Place, routes: tuple[Route, ...], call: Call) -> None:
        super().__init__(place, routes, call)
        self.fused: dict[tuple[Any, ...], Any] = {}

    @property
    def store(self) -> WeightStore:
        """The weights."""
        store = self._place.store
        if store is None:
            raise BuildError("a linear was bound without weights")
        return store

    @property
    def bytes_held(self) -> int:
        """Bytes of prepared and canonical weights, each storage counted once."""
        return self.store.bytes_held

    def weights(self) -> LinearWeights:
        """Give the canonical weights, restored if they were freed."""
        return self.store.canonical()

    def input_layout(self, m: int) -> QuantizeConfig | None:
        """Give what the consumer for M rows reads; None when it takes a plain tensor."""
        return self._built(m).reads

    def _dry_run(self, m: int) -> None:
        config = self.selection.config
        if config.op == "linear":
            dtype = DTYPES[config.in_dtype]
            x = torch.zeros((m, config.k), dtype=dtype, device=self.device.torch_name)
            self.call(x)


class BoundProducer(Bound):
    """A producer or a relayout: called as its op is, gives a QuantizedTensor."""


def bind(
    selection: Selection,
    weights: LinearWeights,
    *,
    context: Context | None = None,
    layer: str | None = None,
    wait: bool = False,
) -> BoundLinear:
    """Prepare weights and bind the pipelines of every M range.

    A kernel that fails to load, to prepare or to bind is quarantined on the device and the
    selection is made again without it: the answer is the best of what builds, on one weight form.
    One whose library is not compiled yet is passed over, and stands in `Bound.pending`; one that
    says that it cannot serve here (`BuildError`, code ``unsupported`` or ``unavailable``) is passed
    over too, and asked again by the next bind.

    Args:
        selection: Of a linear; must be served.
        weights: Canonical weights on the device. They are not changed.
        context: Registry and quarantine; None takes the process's.
        layer: Name of the layer, for events.
        wait: Wait for libraries that are being compiled.

    Raises:
        BuildError: Nothing that builds can serve, or the policy says ``fallback.build = "error"``;
            a `NotBuiltError` where a library that is being compiled could.
        InputError: The weights are not those of the config.
        LaunchError: The CUDA context is lost.
        NoKernelError: The selection serves nothing.
    """
    config = selection.config
    if config.op != "linear":
        raise BuildError(f"bind takes a linear, found {config.op}", hint="use bind_producer")
    store = WeightStore(weights, config, selection.device, selection.settings.keep_canonical)

    def check() -> None:
        if store.kept is not None:  # else they were good enough for a first preparation
            check_weights(store.kept, config, name=layer)

    place = _place(selection, context, store, layer, check, wait=wait)
    builts = _build_all(place)
    store.settle({b.pipeline.weight_layout for b in builts})
    _warn_lossy(place)
    routes = _routes(place, builts)
    call = guarded(linear_call(routes), place.selection.device)
    return BoundLinear(place, routes, call)


def bind_prepared(
    selection: Selection, store: WeightStore, *, context: Context, layer: str | None = None
) -> BoundLinear:
    """Bind a linear to forms of its weights that are prepared already; see `bind`.

    A kernel that fails to build can be replaced by those alone that read these forms.

    Raises:
        BuildError: Nothing that builds can serve.
    """
    place = _place(selection, context, store, layer, lambda: None, wait=False)
    routes = _routes(place, _build_all(place))
    return BoundLinear(place, routes, guarded(linear_call(routes), place.selection.device))


def bind_producer(
    selection: Selection,
    *,
    context: Context | None = None,
    layer: str | None = None,
    wait: bool = False,
) -> BoundProducer:
    """Bind a producer or a relayout; see `bind`.

    Raises:
        BuildError: Nothing that builds can serve.
        NoKernelError: The selection serves nothing.
    """
    place = _place(selection, context, None, layer, lambda: None, wait=wait)
    builts = _build_all(place)
    routes = _routes(place, builts)
    call = guarded(producer_call(routes), place.selection.device)
    return BoundProducer(place, routes, call)


def _place(
    selection: Selection,
    context: Context | None,
    store: WeightStore | None,
    layer: str | None,
    check: Callable[[], None],
    *,
    wait: bool,
) -> Place:
    config = selection.config
    refuse_to_bind(layer or str(config), is_linear=config.op == "linear")
    context = default_context() if context is None else context
    if not selection.is_served:
        raise BuildError(
            f"nothing can serve {selection.config} on {selection.device}",
            hint="print selection.explain()",
        )
    return Place(selection, context, store, layer, check, [], RLock(), wait)


def _build_all(place: Place) -> list[Built]:
    """Build every range; after a failure, of the selection without the kernel that failed."""
    while True:
        selection = place.selection
        done: list[Built] = []
        try:
            done.extend(place.build(choice.pipeline) for choice in selection.ranges)
        except KernelFailed as failed:
            wanted = selection.ranges[len(done)]
            _reselect(place, wanted.pipeline, wanted.m_min, failed)
        else:
            return done


def _reselect(place: Place, wanted: Pipeline, m: int, failed: KernelFailed) -> None:
    reason = place.put_away(failed)
    if place.mode("build") == "error":
        place.report("build", str(wanted), None, reason, failed.error)
    before = place.selection
    away = {name: _not_built(error) for name, error in place.pending.items()} | place.declined
    again = place.context.reselect(before, _only_m(before), blocked=away)
    choice = again.range_for(m)
    if choice is None or failed.kernel.id in again.kernels:
        place.events.append(_lost(place, str(wanted), reason))
        place.context.report(place.events[-1], "silent")
        raise _nothing_else(before, wanted, [reason, *_why(again)], failed.error) from failed.error
    place.report("build", str(wanted), str(choice.pipeline), reason, failed.error)
    place.selection = again


def _nothing_else(
    selection: Selection, wanted: Pipeline, facts: list[str], error: BaseException
) -> BuildError:
    where = f"for {selection.config} on {selection.device}, and nothing else can serve"
    if isinstance(error, NotBuiltError):
        headline = f"{wanted} is not compiled yet {where}"
        return NotBuiltError(headline, ready=error.ready, facts=facts, hint=error.hint)
    headline = f"{wanted} cannot be built {where}"
    return BuildError(headline, facts=facts, hint="run: quantmux doctor")


def _not_built(error: NotBuiltError) -> Rejection:
    have = "being compiled" if error.ready is not None else "not compiled"
    return Rejection(RejectionCode.NOT_BUILT, "library", "its library", have, error.hint)


def _lost(place: Place, wanted: str, reason: str) -> FallbackEvent:
    config, device = place.selection.config, place.selection.device
    return FallbackEvent(wanted, None, "build", reason, device.name, config.digest(), place.layer)


def _why(selection: Selection) -> list[str]:
    return [f"{name}: {r}" for name, reasons in selection.rejected.items() for r in reasons[:1]]


def _only_m(selection: Selection) -> int | None:
    """Give the M that the selection was made for, None if for all."""
    first = selection.ranges[0]
    is_one = len(selection.ranges) == 1 and first.m_min == first.m_max
    return first.m_min if is_one else None


def _routes(place: Place, builts: list[Built]) -> tuple[Route, ...]:
    pairs = zip(place.selection.ranges, builts, strict=True)
    return tuple(Route(place, choice, built) for choice, built in pairs)


def _warm(route: Route, ms: list[int]) -> None:
    """Warm the kernels in use up; one that raises is replaced until all survive."""
    while True:
        built = route.current(ms[0])
        try:
            for step, kernel in zip(built.pipeline.steps, built.kernels, strict=True):
                try:
                    patiently(partial(kernel.warmup, step.config, ms))  # type: ignore[arg-type]
                except Exception as error:
                    raise KernelFailed(step.kernel, "warmup", error) from error
        except KernelFailed as failed:
            route.fail(built, failed)
        else:
            route.warmed(ms)
            return


def _warn_lossy(place: Place) -> None:
    """Say once that a kernel ignores the activation operand, if the policy asks for it."""
    selection = place.selection
    config = selection.config
    if config.op != "linear" or selection.settings.allow_lossy != "warn":
        return
    for choice in selection.ranges:
        if choice.tier == "weight_only":
            event = FallbackEvent(
                wanted=f"scheme {config.scheme.name}",
                taken=str(choice.pipeline),
                stage="select",
                reason=f"no kernel computes with {config.scheme.activation}: activations stay in "
                f"{config.in_dtype}, which changes the numbers",
                device=selection.device.name,
                config=config.digest(),
                layer=place.layer,
            )
            place.events.append(event)
            place.context.report(event, place.mode("select"))
            return


__all__ = [
    "Bound",
    "BoundLinear",
    "BoundProducer",
    "bind",
    "bind_prepared",
    "bind_producer",
    "route_of",
    "rows",
]
