"""The functions that callers call: per M range, guarded, nothing else on the way.

Under torch.compile each of them is one graph break: the first line of each, which costs an eager
call some 0.05 µs, sends dynamo past it. See `runtime.untraced` for why. The line is written out,
``torch`` included, in each: a frame that neither holds a tensor nor names ``torch`` (a call with a
QuantizedTensor) is run by dynamo untraced, but what it calls is traced.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.errors import ShapeError
from quantmux.ops.quantized import QuantizedTensor
from quantmux.runtime.capture import capture_question
from quantmux.runtime.failures import is_capturing
from quantmux.runtime.inputs import elsewhere, no_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantmux.capability.device import DeviceProfile
    from quantmux.runtime.route import Route
    from quantmux.runtime.steps import Call

_UNBOUNDED: Final = 1 << 62


def route_of(routes: tuple[Route, ...], m: int) -> Route:
    """Give the route for M rows; M = 0 launches nothing and takes the first.

    Raises:
        ShapeError: No kernel serves this M.
    """
    for route in routes:
        if route.m_min <= max(m, 1) and (route.m_max is None or m <= route.m_max):
            return route
    if m == 0:
        return routes[0]
    spans = [f"M {r.m_min} … {'any' if r.m_max is None else r.m_max}" for r in routes]
    raise ShapeError(
        f"M = {m} is outside what was selected",
        facts=spans,
        hint="select without m=, or print selection.explain() for what limits M",
    )


def linear_call(routes: tuple[Route, ...]) -> Call:
    """Give ``call(x, out=None)``; for one range of all M it looks nothing up."""
    stream, index, capturing = capture_question(routes[0].device)
    if len(routes) == 1 and routes[0].m_min <= 1 and routes[0].m_max is None:
        only = routes[0]

        def direct(x: Any, out: Any = None) -> Any:
            if torch.compiler.is_dynamo_compiling():
                return _past_dynamo(_serve, only, x, out)
            if stream(index) and capturing():
                return only.captured(x, out)
            run = only.run
            try:
                return run(x, out)
            except Exception as error:  # noqa: BLE001 - sorted by what it means
                return only.recover(run, error, (x, out), {})

        return direct
    find = _finder(routes)

    def by_m(x: Any, out: Any = None) -> Any:
        if torch.compiler.is_dynamo_compiling():
            return _past_dynamo(_find_and_serve, find, x, out)
        route = find(x)
        if stream(index) and capturing():
            return route.captured(x, out)
        run = route.run
        try:
            return run(x, out)
        except Exception as error:  # noqa: BLE001 - sorted by what it means
            return route.recover(run, error, (x, out), {})

    return by_m


def producer_call(routes: tuple[Route, ...]) -> Call:
    """Give the call of a producer or relayout; its arguments are those of its op."""
    find = _finder(routes)
    stream, index, capturing = capture_question(routes[0].device)
    only = routes[0] if len(routes) == 1 and routes[0].m_max is None else None

    def call(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_dynamo_compiling():
            if only is not None:
                return _past_dynamo(_serve, only, *args, **kwargs)
            return _past_dynamo(_find_and_serve, find, *args, **kwargs)
        route = only or find(args[0] if args else None)
        if stream(index) and capturing():
            return route.captured(*args, **kwargs)
        run = route.run
        try:
            return run(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - sorted by what it means
            return route.recover(run, error, args, kwargs)

    return call


def _past_dynamo(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    from quantmux.runtime.untraced import untraced

    return untraced(function, *args, **kwargs)


def _serve(route: Route, *args: Any, **kwargs: Any) -> Any:
    if is_capturing():
        return route.captured(*args, **kwargs)
    run = route.run
    try:
        return run(*args, **kwargs)
    except Exception as error:  # noqa: BLE001 - sorted by what it means
        return route.recover(run, error, args, kwargs)


def _find_and_serve(find: Callable[[Any], Route], *args: Any, **kwargs: Any) -> Any:
    return _serve(find(args[0] if args else None), *args, **kwargs)


def _finder(routes: tuple[Route, ...]) -> Callable[[Any], Route]:
    uppers = [_UNBOUNDED if r.m_max is None else r.m_max for r in routes]
    lowers = [r.m_min for r in routes]
    count = len(routes)
    quantized = QuantizedTensor

    def find(x: Any) -> Route:
        try:
            m = x.m if type(x) is quantized else x.shape[0]
        except (AttributeError, IndexError):
            raise no_rows(x) from None
        place = bisect_left(uppers, m)
        if place < count and m >= lowers[place]:
            return routes[place]
        return route_of(routes, m)  # M = 0, or an error

    return find


def guarded(call: Call, device: DeviceProfile) -> Call:
    """Run a call under the device of its weights, where there is more than one GPU.

    Kernels launch on the current device, which is the caller's own business on one GPU only.
    """
    if not device.is_cuda or torch.cuda.device_count() < 2:
        return call
    index = device.index or 0
    home = torch.device("cuda", index)
    current = torch.cuda.current_device

    def guarded_call(x: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_dynamo_compiling():
            return _past_dynamo(_serve_at, call, home, x, *args, **kwargs)
        if x.device != home:
            raise elsewhere(x.device, home)
        if current() == index:
            return call(x, *args, **kwargs)
        with torch.cuda.device(index):
            return call(x, *args, **kwargs)

    return guarded_call


def _serve_at(call: Call, home: torch.device, x: Any, *args: Any, **kwargs: Any) -> Any:
    if x.device != home:
        raise elsewhere(x.device, home)
    with torch.cuda.device(home.index):
        return call(x, *args, **kwargs)
