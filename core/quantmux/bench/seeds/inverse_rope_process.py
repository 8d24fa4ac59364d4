"""Fresh processes, one per way and shape, each with an empty Triton cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from signal import SIGKILL
from threading import Timer
from typing import TYPE_CHECKING, Any, Final, Self

import quantmux
from quantmux.bench.seeds.inverse_rope_ways import READY

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from types import TracebackType

WORKER: Final = "quantmux.bench.seeds.inverse_rope_worker"
_TIMEOUT_S: Final = 120


@dataclass(frozen=True, slots=True)
class Order:
    """What one process shall measure.

    Attributes:
        way: ``before``, ``seed``, ``ours``, or ``warmed`` for ours after ``warmup``.
        heads: Heads.
        groups: Groups of heads.
        head_dim: Columns of a head.
        tokens: T, in the order of the calls.
        device: As torch spells it.
    """

    way: str
    heads: int
    groups: int
    head_dim: int
    tokens: tuple[int, ...]
    device: str


@dataclass(frozen=True, slots=True)
class Cold:
    """What a process with an empty cache found.

    Attributes:
        order: What it was asked.
        variants: Names of what Triton compiled during the calls, in order.
        first_s: T → seconds of the first call.
        stall_s: T → seconds of the first call beyond a later one with the same T.
        before_s: Seconds of binding, and of the warmup where there was one, before any call.
        before_variants: Names of what was compiled then.
        error: Why there is nothing, one line; "" when there is.
    """

    order: Order
    variants: tuple[str, ...] = ()
    first_s: dict[int, float] = field(default_factory=dict)
    stall_s: dict[int, float] = field(default_factory=dict)
    before_s: float = 0.0
    before_variants: tuple[str, ...] = ()
    error: str = ""

    @property
    def total_s(self) -> float:
        """Seconds that requests wait, over all numbers of tokens."""
        return sum(self.stall_s.values())

    @property
    def stalled(self) -> tuple[int, ...]:
        """T whose first call waited for a compilation: it took 10 ms more than a later one."""
        return tuple(t for t, seconds in self.stall_s.items() if seconds > 0.01)


def run_cold(orders: Sequence[Order]) -> Generator[Cold, None, None]:
    """Run each order in a fresh process; they start together and measure one after another.

    A process that fails gives its error, not an exception.
    """
    with tempfile.TemporaryDirectory(prefix="quantmux-seeds-") as folder:
        processes: list[_Process] = []
        try:
            for number, order in enumerate(orders):
                place = Path(folder, str(number))
                place.mkdir()
                processes.append(_Process(order, place))
            for process in processes:
                with process:
                    yield process.measured()
        finally:
            for process in processes:
                process.end()


class _Process:
    """One worker: started at once, measuring when told to."""

    def __init__(self, order: Order, place: Path) -> None:
        self._order = order
        self._answer = place / "answer.json"
        asked = place / "order.json"
        asked.write_text(json.dumps(asdict(order)), encoding="utf-8")
        self._said = (place / "errors.txt").open("w+", encoding="utf-8")
        own = str(Path(quantmux.__file__).parents[1])
        path = os.pathsep.join(part for part in (own, os.environ.get("PYTHONPATH", "")) if part)
        self._process = subprocess.Popen(
            [sys.executable, "-m", WORKER, str(asked), str(self._answer)],
            env={
                **os.environ,
                "PYTHONPATH": path,
                "TRITON_CACHE_DIR": str(place / "triton"),
                # nothing that an earlier run remembers may spare or add work
                "QUANTMUX_CACHE_DIR": str(place / "quantmux"),
                **({"TRITON_INTERPRET": "1"} if order.device == "cpu" else {}),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def measured(self) -> Cold:
        """Let it measure, and wait for its answer."""
        process = self._process
        late = Timer(_TIMEOUT_S, process.kill)
        late.start()
        try:
            said = "" if process.stdout is None else process.stdout.readline()
            process.communicate("go\n" if said.strip() == READY else None)
        finally:
            late.cancel()
        if process.returncode or not self._answer.exists():
            return Cold(self._order, error=self._last())
        return _read(self._order, json.loads(self._answer.read_text(encoding="utf-8")))

    def end(self) -> None:
        """End it, whatever it is at."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._said):
            if pipe is not None and not pipe.closed:
                pipe.close()

    def _last(self) -> str:
        self._said.seek(0)
        lines = self._said.read().strip().splitlines() or ["it said nothing"]
        if self._process.returncode == -SIGKILL:
            lines[-1] = f"it was ended, after {_TIMEOUT_S} s or from outside; last: {lines[-1]}"
        return f"exit code {self._process.returncode}: {lines[-1]}"


def _read(order: Order, data: dict[str, Any]) -> Cold:
    def by_tokens(name: str) -> dict[int, float]:
        return {int(t): float(seconds) for t, seconds in data[name].items()}

    return Cold(
        order,
        variants=tuple(data["variants"]),
        first_s=by_tokens("first_s"),
        stall_s=by_tokens("stall_s"),
        before_s=float(data["before_s"]),
        before_variants=tuple(data["before_variants"]),
    )
