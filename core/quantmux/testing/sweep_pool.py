"""Cells onto worker processes: whatever a cell does, it is answered for, and the rest goes on."""

from __future__ import annotations

import os
import re
import selectors
import signal
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

from quantmux.errors import QuantmuxError
from quantmux.testing.cell import Outcome, Verdict
from quantmux.testing.compile_cells import CHECK as COMPILES
from quantmux.testing.worker import POISONED
from quantmux.testing.worker_process import WorkerProcess
from quantmux.testing.worker_wire import unpack_outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

    from quantmux.testing.cell import Cell

CRASH: Final = "crash"
TIMEOUT: Final = "timeout"
MEMORY: Final = "memory"
CHANNEL: Final = "channel"
GIVEN_UP: Final = "given_up"

START_TIMEOUT: Final = 300.0
"""Seconds a worker may take to import the plugins."""

_TICK: Final = 0.05
_ASK: Final = 0.5
_DEATHS: Final = 3
_CHUNK: Final = 32
_COMPILE_FACTOR: Final = 10  # a compiler takes minutes where a kernel takes seconds
_INTERPRET: Final = "TRITON_INTERPRET"
_FRAME: Final = re.compile(r'^\s*File "(.+)", line (\d+) in (\S+)')
_NOISE: Final = re.compile(r"^(Fatal Python error|Current thread|Thread 0x|Extension modules|$)")


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """How a pool works.

    Attributes:
        slots: Environment of each worker, over this process's own; one per worker.
        timeout: Seconds one cell may take.
        memory: Bytes one worker may hold; None is no limit.
        give_up: After so many cells of a kernel that took their process along, its other cells
            fail without being run: a kernel that always hangs would cost hours. 0 is never.
    """

    slots: tuple[Mapping[str, str], ...]
    timeout: float = 120.0
    memory: int | None = None
    give_up: int = 3


@dataclass(slots=True)
class Pool:
    """Worker processes that answer cells; a context that ends them all.

    Args:
        hello: What a worker sets up first.
        fingerprint: Of the registry that every worker must see as well.
        options: How many, and what a cell may take.
    """

    hello: Mapping[str, Any]
    fingerprint: str
    options: PoolOptions
    notes: list[str] = field(default_factory=list)
    _workers: list[WorkerProcess] = field(default_factory=list)
    _chunks: deque[tuple[Cell, ...]] = field(default_factory=deque)
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    _deaths: int = 0
    _fatal: dict[str, list[str]] = field(default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in list(self._workers):
            self._drop(worker)
        self._selector.close()

    def run(self, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Outcome]]:
        """Give every cell's outcome, each once, as they come.

        Raises:
            QuantmuxError: No worker can be set up (code ``sweep_worker``).
        """
        self._chunks.extend(_chunked(cells, len(self.options.slots)))
        while self._chunks or any(w.chunk or w.current for w in self._workers):
            self._feed()
            for key, _ in self._selector.select(_TICK):
                worker: WorkerProcess = key.data
                if worker in self._workers:
                    yield from self._hear(worker)
                if worker in self._workers:
                    worker.listen(self._selector)
            for worker in list(self._workers):
                yield from self._watch(worker)

    def _feed(self) -> None:
        taken = {worker.slot for worker in self._workers}
        for slot in range(len(self.options.slots)):
            if slot not in taken and self._chunks:
                self._start(slot, _kind(self._chunks[0]))
        for worker in list(self._workers):
            if worker.is_idle and self._chunks:
                place = next(
                    (i for i, c in enumerate(self._chunks) if _kind(c) == worker.kind), None
                )
                if place is None:
                    self._drop(worker)  # only cells of another kind are left
                    continue
                chunk = self._chunks[place]
                del self._chunks[place]
                worker.give(chunk)
            worker.flush()

    def _start(self, slot: int, kind: str) -> None:
        environment = {**os.environ, **self.options.slots[slot]}
        if kind == COMPILES:
            environment.pop(_INTERPRET, None)  # an interpreted kernel cannot be compiled
        worker = WorkerProcess.start(slot, kind, self.hello, environment)
        worker.register(self._selector)
        worker.flush()
        self._workers.append(worker)

    def _hear(self, worker: WorkerProcess) -> Iterator[tuple[Cell, Outcome]]:
        for message in worker.messages():
            if "broken" in message:
                worker.broken = str(message["broken"])
            elif "ready" in message:
                worker.is_ready = worker.is_idle = True
                if message["ready"] != self.fingerprint:
                    worker.broken = "it sees other plugins than the process that started it"
            elif "idle" in message:
                worker.is_idle = True
            elif "begin" in message and worker.chunk:
                worker.current = worker.chunk.popleft()
                worker.began = time.monotonic()
                worker.was_asked = False
            elif "end" in message and worker.current is not None:
                cell = worker.current
                if message["end"] != cell.id:
                    worker.broken = f"it answered {message['end']} when asked {cell.id}"
                    return
                try:
                    outcome = unpack_outcome(message.get("outcome", {}))
                except ValueError as error:
                    worker.broken = f"something wrote rubbish into the channel: {error}"
                    return
                worker.current = None
                worker.answered += 1
                self._deaths = 0
                yield cell, outcome
                if outcome.code == POISONED:
                    self._replace(worker)
                    yield from self._took_along(cell)
                    return

    def _watch(self, worker: WorkerProcess) -> Iterator[tuple[Cell, Outcome]]:
        if worker not in self._workers:
            return
        if worker.broken:
            yield from self._died(worker, CHANNEL, worker.broken)
        elif worker.has_ended:
            yield from self._hear(worker)
            if worker in self._workers:
                worker.listen(self._selector)
                words = worker.last_words
                yield from self._died(worker, CRASH, f"{_end_text(worker.end())}{_said(words)}")
        elif self.options.memory is not None and worker.resident > self.options.memory:
            held, limit = worker.resident / 2**30, self.options.memory / 2**30
            reason = f"the process grew to {held:.1f} GiB, the limit is {limit:.1f} GiB"
            yield from self._died(worker, MEMORY, reason)
        else:
            yield from self._watch_time(worker)

    def _watch_time(self, worker: WorkerProcess) -> Iterator[tuple[Cell, Outcome]]:
        is_waiting = worker.is_ready and worker.current is None
        if is_waiting:
            return
        limit = self.options.timeout if worker.is_ready else START_TIMEOUT
        if worker.current is not None and worker.current.check == COMPILES:
            limit *= _COMPILE_FACTOR
        late = time.monotonic() - worker.began - limit
        if late > 0 and worker.is_ready and not worker.was_asked:
            worker.was_asked = True
            worker.forget_output()
            worker.ask_where()
        if late > _ASK:
            where = _where(worker.last_words)
            yield from self._died(worker, TIMEOUT, f"no answer after {limit:g} s{where}")

    def _died(
        self, worker: WorkerProcess, code: str, reason: str
    ) -> Iterator[tuple[Cell, Outcome]]:
        cell, seconds = worker.current, time.monotonic() - worker.began
        if cell is not None:
            self._replace(worker)
            yield cell, Outcome(Verdict.FAILS, reason, code, seconds=seconds)
            yield from self._took_along(cell)
            return
        # no cell is to blame: tried again, but not for ever
        self._deaths += 1
        words = worker.last_words
        answered, is_ready = worker.answered, worker.is_ready
        self._replace(worker)
        if self._deaths >= _DEATHS:
            raise QuantmuxError(
                f"workers of the sweep end before they answer a cell, {_DEATHS} in a row",
                facts=[reason, *words[-6:]],
                hint="run one cell in this process: pytest --pyargs quantmux.testing.suite",
                code="sweep_worker",
            )
        if is_ready:
            self.notes.append(f"a worker ended between two cells, after {answered}: {reason}")

    def _took_along(self, cell: Cell) -> Iterator[tuple[Cell, Outcome]]:
        """Count a cell that ended its process; answer for the rest of its kernel when it is due."""
        fatal = self._fatal.setdefault(cell.kernel, [])
        fatal.append(f"{cell.check}[{cell.label}]")
        if not self.options.give_up or len(fatal) < self.options.give_up:
            return
        rest = [chunk for chunk in self._chunks if chunk[0].kernel == cell.kernel]
        self._chunks = deque(c for c in self._chunks if c[0].kernel != cell.kernel)
        reason = f"not run: {len(fatal)} cells of it took their process along, {fatal[0]} first"
        for chunk in rest:
            for other in chunk:
                yield other, Outcome(Verdict.FAILS, reason, GIVEN_UP)

    def _replace(self, worker: WorkerProcess) -> None:
        """End a worker and put back what it has not begun."""
        if worker.chunk:
            self._chunks.appendleft(tuple(worker.chunk))
        self._drop(worker)

    def _drop(self, worker: WorkerProcess) -> None:
        if worker in self._workers:
            self._workers.remove(worker)
        worker.unregister(self._selector)
        if worker.end() is None:
            self.notes.append(f"process {worker.process.pid} cannot be ended")
        worker.close()


def _chunked(cells: Sequence[Cell], slots: int) -> list[tuple[Cell, ...]]:
    """Cut the cells into chunks of one kernel and one kind, in their order."""
    size = max(1, min(_CHUNK, len(cells) // (4 * slots)))
    chunks: list[list[Cell]] = []
    for cell in cells:
        last = chunks[-1] if chunks else []
        same = last and (last[0].kernel, _kind(last)) == (cell.kernel, _kind([cell]))
        if same and len(last) < size:
            last.append(cell)
        else:
            chunks.append([cell])
    return [tuple(chunk) for chunk in chunks]


def _kind(cells: Sequence[Cell]) -> str:
    """Give what kind of process a chunk needs: interpreting and compiling exclude each other."""
    return COMPILES if _INTERPRET in os.environ and cells[0].check == COMPILES else ""


def _end_text(code: int | None) -> str:
    if code is None:
        return "the process cannot be ended"
    if code >= 0:
        return f"the process ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    if -code == signal.SIGKILL:
        name += " (by somebody, or for want of memory)"
    return f"the process died of {name}"


def _said(words: Sequence[str]) -> str:
    """Give its last words as the end of a sentence: the frames of a crash, else what it printed."""
    frames = _frames(words)
    if frames:
        return f" in {frames}"
    plain = [line.strip() for line in words if not _NOISE.match(line)]
    return f": {' | '.join(plain[-3:])[-300:]}" if plain else ""


def _where(words: Sequence[str]) -> str:
    frames = _frames(words)
    return f"; it was in {frames}" if frames else ""


def _frames(words: Sequence[str]) -> str:
    """Give the innermost frames that faulthandler printed, innermost first."""
    found = [match for line in words if (match := _FRAME.match(line))]
    return " < ".join(f"{m[3]} ({os.path.basename(m[1])}:{m[2]})" for m in found[:3])  # noqa: PTH119
