"""Calls that a CUDA graph records: by what is warm, or refused before anything happens.

A capture must find everything done: weights prepared in it would be computed anew by every replay,
in memory of the graph; a kernel compiled in it holds up the program for seconds. So a call in a
capture is refused with a `LaunchError` (code ``not_warmed``) where it would

- bind a layer or a producer,
- be the first call of its M range, never warmed up,
- take a kernel in another's place that is not built yet,
- compile: Triton is asked, exactly, through the hook that it calls before it compiles,
- use a kernel that may compile in a call and does not tell (it offers no ``compiled_variants`` and
  needs a library of others), at a number of rows that was neither warmed up nor called.

The last two are a matter of policy: ``capture = "compile"`` lets them compile, and says so. See
docs/cuda-graphs.md for what was seen on a GPU where none of this is refused.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.errors import LaunchError
from quantmux.runtime.failures import is_capturing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from quantmux.capability.device import DeviceProfile
    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux.runtime.steps import Built

_log: Final = logging.getLogger("quantmux.capture")

_LONG: Final = 0.1
"""Seconds that nothing takes in a capture but a compiler."""


def capture_question(
    device: DeviceProfile,
) -> tuple[Callable[[int], int], int, Callable[[], bool]]:
    """Give (stream, index, asked): ``stream(index) and asked()`` tells whether a call is captured.

    It stands in every call. The second question takes 0.3 µs (H200's host, 2026-11-21) and is for
    streams that a program made: the default stream, 0, is never captured. Both functions are those
    below torch.cuda's public ones, of torch 2.4 to 2.13.
    """
    if not device.is_cuda:
        return bool, 0, bool  # the cheapest functions that say no
    raw: Any = torch._C  # noqa: SLF001 - the public ones put an object around the answer
    return raw._cuda_getCurrentRawStream, device.index or 0, raw._cuda_isCurrentStreamCapturing  # noqa: SLF001


def not_warmed(
    what: str,
    found: str,
    *,
    m: int | None = None,
    hint: str | None = None,
    facts: Iterable[str] = (),
) -> LaunchError:
    """Give the error for a call in a capture that was not made ready.

    Args:
        what: The layer by its name, or the op.
        found: What is not done yet.
        m: Rows of the call; None where they are not known.
        hint: What to do; None names ``warmup``.
        facts: More that was found.
    """
    rows = "" if m is None else f" with M = {m}"
    return LaunchError(
        f"{what} is called{rows} while a CUDA graph is captured, and is not warmed up for it",
        facts=[f"found: {found}", *facts],
        hint=hint
        or f"call warmup([{'…' if m is None else m}]) of the layer, or "
        f"quantmux.warmup(model, ms=[{'…' if m is None else m}]), before the capture",
        code="not_warmed",
    )


def refuse_to_bind(what: str, *, is_linear: bool) -> None:
    """Raise within a capture, before anything is prepared or bound.

    Args:
        what: The layer by its name, or the op.
        is_linear: It has a ``warmup``; a producer is called instead.

    Raises:
        LaunchError: The current stream is being captured.
    """
    if is_capturing():
        hint = None if is_linear else "call it once before the capture, with as many rows"
        raise not_warmed(what, "it is not bound yet", hint=hint)


def refuse_to_warm(what: str) -> None:
    """Raise within a capture, before anything is compiled.

    Raises:
        LaunchError: The current stream is being captured.
    """
    if is_capturing():
        raise LaunchError(
            f"{what} was to be warmed up while a CUDA graph is captured",
            facts=["found: a capture records what it is given, and compiles nothing"],
            hint="warm up before the capture",
            code="not_warmed",
        )


def needs_rows(built: Built) -> bool:
    """Tell whether the rows of a call must have been seen: a kernel may compile and not tell."""
    pairs = zip(built.pipeline.steps, built.kernels, strict=True)
    return any(_may_compile_unseen(step.kernel, kernel) for step, kernel in pairs)


def _may_compile_unseen(spec: KernelSpec, kernel: Any) -> bool:
    if callable(getattr(kernel, "compiled_variants", None)):
        return False
    # what needs nothing beyond torch has no compiler to call
    return any(need.name != "torch" for need in spec.capability.needs)


class WouldCompile(Exception):  # noqa: N818 - it is caught inside this room, never shown
    """Triton was about to compile in a capture."""


class _Asked(threading.local):
    """What this thread asked for."""

    depth = 0
    seen: list[int] | None = None


_asked: Final = _Asked()
_lock: Final = threading.Lock()
_users = 0


class _Refusal:
    """Stands in Triton's hook before compilation, for the threads that asked for something.

    Triton first looks whether the hook is true, and only then writes what it is about to compile
    as JSON for it, which fails for constants that are layouts (Gluon): the answer is given there.
    """

    def __init__(self, before: Any) -> None:
        self.before = before

    def __bool__(self) -> bool:
        if _asked.depth:
            raise WouldCompile
        if _asked.seen is not None:
            _asked.seen.append(1)
        return bool(self.before)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.before(*args, **kwargs)


@contextmanager
def nothing_compiles() -> Iterator[None]:
    """Have Triton raise where it would compile, or fetch compiled code from its cache on disk.

    For this thread; others compile as before. What is compiled in this process runs.

    Raises:
        WouldCompile: From inside, where it would.
    """
    with _in_hook():
        _asked.depth += 1
        try:
            yield
        finally:
            _asked.depth -= 1


@contextmanager
def compiles_aloud(what: str, m: int) -> Iterator[None]:
    """Log a warning if something is compiled inside, or takes as long as a compiler does.

    Args:
        what: The layer by its name, or the op.
        m: Rows of the call.
    """
    begun = time.perf_counter()
    with _in_hook():
        before, _asked.seen = _asked.seen, []
        try:
            yield
        finally:
            count, _asked.seen = len(_asked.seen), before
    seconds = time.perf_counter() - begun
    if count or seconds > _LONG:
        made = {0: "something", 1: "a kernel"}.get(count, f"{count} kernels")
        text = "%s compiled %s while a CUDA graph was captured, %.1f s; warmup([%d]) takes it out"
        _log.warning(text, what, made, seconds, m)


@contextmanager
def _in_hook() -> Iterator[None]:
    """Stand in Triton's hook before compilation."""
    global _users  # noqa: PLW0603 - one hook per process, behind a lock
    knobs: Any = getattr(sys.modules.get("triton"), "knobs", None)
    place: Any = getattr(knobs, "runtime", None)
    if not hasattr(place, "jit_cache_hook"):
        yield
        return
    with _lock:
        _users += 1
        if not isinstance(place.jit_cache_hook, _Refusal):
            place.jit_cache_hook = _Refusal(place.jit_cache_hook)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            hook = place.jit_cache_hook
            if _users == 0 and isinstance(hook, _Refusal):
                place.jit_cache_hook = hook.before


__all__ = [
    "WouldCompile",
    "capture_question",
    "compiles_aloud",
    "needs_rows",
    "not_warmed",
    "nothing_compiles",
    "refuse_to_bind",
    "refuse_to_warm",
]
