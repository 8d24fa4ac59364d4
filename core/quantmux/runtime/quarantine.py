"""Quarantine: kernels that failed to build on a device and are not tried again there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import RLock
from typing import Any, Final, Protocol

from quantmux.capability.rejection import Rejection, RejectionCode
from quantmux.runtime.quarantine_ground import Ground

Key = tuple[str, str, Ground]

LOOK_S: Final = 1.0
"""Seconds between two looks at what other processes have added or lifted."""


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One kernel that is kept away from one device.

    Attributes:
        kernel: Kernel id.
        device: Name of the device.
        reason: What went wrong, one line.
        ground: Digest, driver and versions it failed under; it holds for these alone.
        since: When it was put here, seconds since the epoch.
        expires: When it is tried again, seconds since the epoch; None means never.
    """

    kernel: str
    device: str
    reason: str
    ground: Ground = field(default_factory=Ground)
    since: float = 0.0
    expires: float | None = None

    @property
    def key(self) -> Key:
        """What identifies it: kernel, device and ground."""
        return self.kernel, self.device, self.ground

    @property
    def since_text(self) -> str:
        """The day it was put here, ISO 8601."""
        return _day(self.since)

    @property
    def expires_text(self) -> str:
        """The day it is tried again, ISO 8601."""
        return "never" if self.expires is None else _day(self.expires)

    def to_dict(self) -> dict[str, Any]:
        """Give the entry as JSON-ready data."""
        return {
            "kernel": self.kernel,
            "device": self.device,
            "reason": self.reason,
            **self.ground.to_dict(),
            "since": self.since,
            "expires": self.expires,
        }

    @classmethod
    def of_dict(cls, data: dict[str, Any]) -> Quarantined:
        """Build it from `to_dict`.

        Raises:
            KeyError: A part is missing.
            TypeError: A part is of another form.
            ValueError: A time is none.
        """
        expires = data["expires"]
        texts = data["kernel"], data["device"], data["reason"]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("kernel, device and reason are texts")
        return cls(
            *texts,
            ground=Ground.of_dict(data),
            since=_time(data["since"]),
            expires=None if expires is None else _time(expires),
        )

    def rejection(self) -> Rejection:
        """Give it as a rejection."""
        return Rejection(
            code=RejectionCode.QUARANTINED,
            field="quarantine",
            required="a kernel that builds and agrees",
            actual=f"{self.reason} (since {self.since_text}, until {self.expires_text})",
            hint=f"quantmux quarantine clear {self.kernel}",
        )


class Store(Protocol):
    """What may stand behind a quarantine to keep it between processes."""

    def read(self) -> Iterable[Quarantined]:
        """Give what is kept."""
        ...

    def change(self, put: Iterable[Quarantined], drop: Iterable[Key]) -> bool:
        """Keep some more and others no longer, whatever else is kept; tell whether it is done."""
        ...

    def stamp(self) -> object:
        """Give what differs when something else is kept than before; cheap."""
        ...


class Quarantine:
    """Entries by kernel, device and ground; safe to share between threads.

    What other processes add or lift is seen within `LOOK_S`. What the store could not keep holds
    in this process.

    Args:
        store: Keeps entries between processes; None keeps them in memory only.
        clock: Gives the time, seconds since the epoch.
        ticks: Gives seconds from anywhere, for looking at the store now and then.
    """

    def __init__(
        self,
        store: Store | None = None,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._clock = clock
        self._ticks = ticks
        self._lock = RLock()
        self._version = 0
        self._entries: dict[Key, Quarantined] = {}
        self._unkept: dict[Key, Quarantined] = {}
        self._lifted: dict[Key, float] = {}
        self._next_expiry = _NEVER
        self._next_look = _NEVER
        self._stamp: object = None
        if store is not None:
            self.look()

    @property
    def version(self) -> int:
        """A number that changes with the entries, expiry included; a part of cache keys."""
        if self._ticks() >= self._next_look:
            self.look()
        if self._clock() >= self._next_expiry:
            self._expire()
        return self._version

    def look(self) -> None:
        """Take over what other processes have added or lifted."""
        store = self._store
        if store is None:
            return
        with self._lock:
            self._next_look = self._ticks() + LOOK_S
            stamp = store.stamp()
            if stamp == self._stamp:
                return
            self._stamp = stamp
            kept = {e.key: e for e in store.read() if not self._is_lifted(e)}
            kept.update(self._unkept)
            self._take(kept)
        self._expire()

    def add(
        self,
        kernel: str,
        device: str,
        reason: str,
        *,
        ground: Ground | None = None,
        expires_in: float | None = None,
    ) -> Quarantined:
        """Keep a kernel away from a device.

        Args:
            kernel: Kernel id.
            device: Name of the device.
            reason: What went wrong, one line.
            ground: What it failed under; None holds whatever changes.
            expires_in: Seconds until it is tried again, None for never.
        """
        now = self._clock()
        expires = None if expires_in is None else now + expires_in
        entry = Quarantined(kernel, device, reason, ground or Ground(), now, expires)
        with self._lock:
            self._lifted.pop(entry.key, None)
            self._unkept[entry.key] = entry
            self._take({**self._entries, entry.key: entry})
            self._keep()
        return entry

    def lift(self, kernel: str, device: str | None = None) -> tuple[Quarantined, ...]:
        """Let a kernel be tried again, on one device or on all; gives what was removed."""
        return self._remove(lambda e: e.kernel == kernel and device in (None, e.device))

    def clear(self, device: str | None = None) -> tuple[Quarantined, ...]:
        """Let every kernel be tried again, on one device or on all; gives what was removed."""
        return self._remove(lambda e: device in (None, e.device))

    def entries(self) -> tuple[Quarantined, ...]:
        """Give all entries that have not expired, whatever they stand on, the oldest first."""
        with self._lock:
            self._expire()
            return tuple(self._entries.values())

    def find(self, kernel: str, device: str, here: Ground | None = None) -> Quarantined | None:
        """Give the entry that keeps this kernel away, or None.

        Args:
            kernel: Kernel id.
            device: Name of the device.
            here: What the kernel stands on today; None asks for any entry of it.
        """
        for entry in self.entries():
            if entry.kernel == kernel and entry.device == device and _holds(entry, here):
                return entry
        return None

    def rejections(
        self, device: str, here: Callable[[str], Ground | None] = lambda _: None
    ) -> dict[str, Rejection]:
        """Give a rejection per kernel that is kept away from the device.

        Args:
            device: Name of the device.
            here: Gives what a kernel id stands on today; entries of another ground do not hold.
        """
        return {
            entry.kernel: entry.rejection()
            for entry in self.entries()
            if entry.device == device and _holds(entry, here(entry.kernel))
        }

    def _remove(self, goes: Callable[[Quarantined], bool]) -> tuple[Quarantined, ...]:
        self.look()
        with self._lock:
            self._expire()
            gone = tuple(entry for entry in self._entries.values() if goes(entry))
            if gone:
                for entry in gone:
                    self._unkept.pop(entry.key, None)
                    self._lifted[entry.key] = self._clock()
                left = {k: e for k, e in self._entries.items() if k not in self._lifted}
                self._take(left)
                self._keep()
        return gone

    def _keep(self) -> None:
        """Write what is not written yet; what cannot be written stays in memory."""
        store = self._store
        if store is None:
            self._unkept.clear()
            self._lifted.clear()
            return
        if store.change(tuple(self._unkept.values()), tuple(self._lifted)):
            self._unkept.clear()
            self._lifted.clear()

    def _take(self, entries: dict[Key, Quarantined]) -> None:
        if entries != self._entries:
            self._entries = entries
            self._version += 1
            times = [e.expires for e in entries.values() if e.expires is not None]
            self._next_expiry = min(times, default=_NEVER)

    def _expire(self) -> None:
        if self._clock() < self._next_expiry:
            return
        with self._lock:
            now = self._clock()
            held = {k: e for k, e in self._entries.items() if not e.expires or e.expires > now}
            self._unkept = {k: e for k, e in self._unkept.items() if k in held}
            self._take(held)

    def _is_lifted(self, entry: Quarantined) -> bool:
        return entry.since <= self._lifted.get(entry.key, -1.0)


_NEVER: Final = float("inf")
_LATEST: Final = 1e11
"""A time that datetime can still name: the year 5138."""


def _holds(entry: Quarantined, here: Ground | None) -> bool:
    return here is None or not entry.ground.change(here)


def _time(value: Any) -> float:
    seconds = float(value)
    if not 0.0 <= seconds <= _LATEST:  # NaN is not either
        raise ValueError("not a time")
    return seconds


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()
