"""threads: one bound kernel serves several threads at once, each on a stream of its own.

A workspace that is kept by shape, or on the kernel, is written by two calls at a time. On a GPU
the inputs are filled on the thread's stream just before the call: who works on another stream
reads what was there before.
"""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager, ExitStack
from threading import Barrier, Thread
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from quantmux.testing.answers import compared, difference, fails, served, stored_bytes
from quantmux.testing.cell import Cell, Outcome, Verdict
from quantmux.testing.checks.memory import copied, parts, refill, with_input
from quantmux.testing.derive import labelled, plain_cases

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux.testing.stage import Stage, Trial

ALWAYS: Final = False
THREADS: Final = 4
CALLS: Final = 6
"""Of each thread."""
_DELAY: Final = 1_000_000
"""Cycles for which a stream is busy before its input is there: half a millisecond."""


def cells(spec: KernelSpec, stage: Stage, small_only: bool) -> Iterator[Cell]:
    """Give one cell per scheme or operand."""
    del small_only
    for label, case, detail in labelled(plain_cases(spec, stage, (65,))):
        yield Cell(spec.id, "threads", label, case, tuple(detail.items()))


def run(cell: Cell, stage: Stage) -> Outcome:
    """Call from several threads, each with contents of its own, and look at every result."""
    asked = served(cell, stage)
    if isinstance(asked, Outcome):
        return asked
    spec, case = asked
    # the same function in all of them: every trial is bound for the same case
    trials = [stage.trial(spec, case, other=i) for i in range(THREADS)]
    alone = [trial() for trial in trials]
    outcome = compared(trials[0], alone[0])
    if outcome.verdict is Verdict.FAILS:
        return outcome
    found = together(trials, stage.home)
    is_same = "deterministic" in spec.capability.tags
    for trial, want, results in zip(trials, alone, found, strict=True):
        for result in results:
            if is_same and difference(want, result):
                return fails(f"{THREADS} threads at once: other bits than one thread's", "threads")
            judged = outcome if is_same else compared(trial, result)
            if judged.verdict is Verdict.FAILS:
                return fails(f"{THREADS} threads at once: {judged.reason}", "threads")
    return outcome


def together(trials: list[Trial], home: torch.device) -> list[list[Any]]:
    """Call each trial in a thread of its own, all at once; gives the results of each.

    Raises:
        BaseException: What the kernel raised in one of them.
    """
    start = Barrier(len(trials))
    found: list[list[Any]] = [[] for _ in trials]
    raised: list[BaseException] = []

    def work(place: int, trial: Trial) -> None:
        try:
            found[place] = _calls(trial, start, home)
        except BaseException as error:  # noqa: BLE001 - a thread's own end would look like silence
            raised.append(error)

    threads = [
        Thread(target=work, args=(i, trial), daemon=True, name=f"quantmux-suite-{i}")
        for i, trial in enumerate(trials)
    ]
    was = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # between any two operations, and not every 5 ms
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(was)
    if raised:
        raise raised[0]
    return found


def _calls(trial: Trial, start: Barrier, home: torch.device) -> list[Any]:
    results: list[Any] = []
    with ExitStack() as around:
        for context in (torch.no_grad(), *_around(home)):
            around.enter_context(context)
        start.wait(timeout=60)
        for _ in range(CALLS):
            own = with_input(trial, copied(trial.inputs[0]))
            for part in parts(own.inputs[0]):
                stored_bytes(part).fill_(0xFF)
            if home.type == "cuda":
                _keep_busy(_DELAY)
            refill(own.inputs[0], trial.inputs[0])
            results.append(own())
        if home.type == "cuda":
            torch.cuda.current_stream(home).synchronize()
    return results


def _around(home: torch.device) -> tuple[AbstractContextManager[Any], ...]:
    if home.type != "cuda":
        return (_Yielding(),)  # type: ignore[no-untyped-call]
    stream: Any = torch.cuda.Stream(home)  # type: ignore[no-untyped-call]
    return torch.cuda.device(home), torch.cuda.stream(stream)


class _Yielding(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Let another thread go on at every operation: the worst that a scheduler may do."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        time.sleep(0)
        return func(*args, **(kwargs or {}))


def _keep_busy(cycles: int) -> None:
    # there is no public way to it
    torch.cuda._sleep(cycles)  # type: ignore[no-untyped-call]  # noqa: SLF001
