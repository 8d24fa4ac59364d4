"""Fallback events: one record, one log line per distinct event, one hook, one counter.

A fallback is never silent: whatever the policy prints, `stats` counts it and plugins hear of it.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import asdict, dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, Literal

from quantmux.errors import BuildError, LaunchError, NoKernelError, PluginError, QuantmuxError

if TYPE_CHECKING:
    from quantmux.config.policy import OnFallback
    from quantmux.registry.manager import Registry

Stage = Literal["load", "select", "build", "run"]

STAGES: Final[tuple[Stage, ...]] = ("load", "select", "build", "run")
ROOT: Final = "quantmux"
_KEPT: Final = 4096
"""Distinct events that are kept, and warned of, in one process; all are counted."""

# A library must not print by itself, nor meet Python's "no handlers" fallback.
logging.getLogger(ROOT).addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True)
class FallbackEvent:
    """Something else was taken than what was wanted.

    Attributes:
        wanted: Kernel, pipeline (``a -> b``) or plugin that was to serve.
        taken: What serves in its place; None when nothing does.
        stage: ``load``, ``select``, ``build`` or ``run``.
        reason: What went wrong, one line.
        device: Name of the device.
        config: Digest of the layer config, "" where there is none.
        layer: Name of the layer in its model, None when it has none.
    """

    wanted: str
    taken: str | None
    stage: Stage
    reason: str
    device: str
    config: str = ""
    layer: str | None = None

    @property
    def text(self) -> str:
        """One sentence."""
        where = f" for {self.layer}" if self.layer else ""
        taken = f"{self.taken} is taken" if self.taken else "nothing is taken in its place"
        return f"{self.wanted} cannot serve{where} on {self.device}: {self.reason}; {taken}"

    def to_dict(self) -> dict[str, Any]:
        """Give the event as JSON-ready data."""
        return asdict(self)


class _Ledger:
    """Counts of this process."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts: Counter[str] = Counter()
        self._events: Counter[FallbackEvent] = Counter()
        self._warned: set[FallbackEvent] = set()

    def add(self, event: FallbackEvent) -> None:
        with self._lock:
            self._counts[event.stage] += 1
            # reasons may hold addresses or sizes: a long process must not collect them for ever
            if event in self._events or len(self._events) < _KEPT:
                self._events[event] += 1

    def is_new(self, event: FallbackEvent) -> bool:
        """Tell, once, that an event was not warned of before; layers alike share one warning."""
        key = FallbackEvent(
            event.wanted, event.taken, event.stage, event.reason, event.device, event.config
        )
        with self._lock:
            if key in self._warned or len(self._warned) >= _KEPT:
                return False
            self._warned.add(key)
            return True

    def stats(self) -> dict[str, Any]:
        with self._lock:
            events = list(self._events.items())
            counts: dict[str, Any] = {stage: self._counts[stage] for stage in STAGES}
        return {**counts, "events": [{**e.to_dict(), "count": n} for e, n in events]}

    def reset(self) -> None:
        with self._lock:
            self._counts.clear()
            self._events.clear()
            self._warned.clear()


_ledger: Final = _Ledger()


def report(
    event: FallbackEvent,
    mode: OnFallback,
    registry: Registry | None = None,
    cause: BaseException | None = None,
) -> None:
    """Count an event, tell plugins, and do what the policy says.

    Args:
        event: What happened.
        mode: ``warn`` logs one WARNING per distinct event on the logger ``quantmux.<stage>``,
            ``silent`` logs nothing, ``error`` raises in place of falling back.
        registry: Its plugins hear of the event (`quantmux_event`).
        cause: The exception that led to it, chained to the error that ``error`` raises.

    Raises:
        PluginError: Mode ``error`` at stage ``load``.
        NoKernelError: Mode ``error`` at stage ``select``.
        BuildError: Mode ``error`` at stage ``build``.
        LaunchError: Mode ``error`` at stage ``run``.
    """
    if mode == "error":
        event = FallbackEvent(**{**event.to_dict(), "taken": None})
    _ledger.add(event)
    if registry is not None:
        registry.emit(event)
    if mode == "error":
        raise _error(event) from cause
    if mode == "warn" and _ledger.is_new(event):
        logging.getLogger(f"{ROOT}.{event.stage}").warning("%s", event.text)


def stats() -> dict[str, Any]:
    """Give ``{"load", "select", "build", "run"}`` counts and ``"events"`` with a count each."""
    return _ledger.stats()


def reset_stats() -> None:
    """Forget all counts, and that warnings were logged."""
    _ledger.reset()


def one_line(error: BaseException) -> str:
    """Give an exception as one line: a typed error's headline and facts, else type and message."""
    if isinstance(error, QuantmuxError):
        text = "; ".join((error.headline, *error.facts))
    else:
        text = str(error)
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return " ".join(text.split())


_ERRORS: Final[dict[str, type[QuantmuxError]]] = {
    "select": NoKernelError,
    "build": BuildError,
    "run": LaunchError,
}


def _error(event: FallbackEvent) -> QuantmuxError:
    headline = f"{event.wanted} cannot serve on {event.device}"
    facts = [event.reason]
    if event.layer:
        facts.append(f"layer {event.layer}")
    hint = f'policy fallback.{event.stage} = "warn" would take the next candidate'
    if event.stage == "load":
        return PluginError(headline, plugin=event.wanted, facts=facts, hint=hint)
    kind: type[QuantmuxError] = _ERRORS[event.stage]
    return kind(headline, facts=facts, hint=hint)
