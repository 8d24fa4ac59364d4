"""Quarantine: kernels that failed to build on a device and are not tried again there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from threading import RLock
from typing import Any, Final, Protocol

from quantmux.capability.rejection import Rejection, RejectionCode


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One kernel that is kept away from one device.

    Attributes:
        kernel: Kernel id.
        device: Name of the device.
        reason: What went wrong, one line.
        digest: Digest of the kernel that failed; "" holds for every version of it.
        since: When it was put here, seconds since the epoch.
        expires: When it is tried again; None means never in this process.
    """

    kernel: str
    device: str
    reason: str
    digest: str = ""
    since: float = 0.0
    expires: float | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """What identifies it: kernel, digest, device."""
        return self.kernel, self.digest, self.device

    def to_dict(self) -> dict[str, Any]:
        """Give the entry as JSON-ready data."""
        return asdict(self)

    def rejection(self) -> Rejection:
        """Give it as a rejection."""
        return Rejection(
            code=RejectionCode.QUARANTINED,
            field="quarantine",
            required="a kernel that builds",
            actual=self.reason,
            hint="it is tried again after a repair, in a new process",
        )


class Store(Protocol):
    """What may stand behind a quarantine to keep it between processes."""

    def read(self) -> Iterable[Quarantined]:
        """Give what is kept."""
        ...

    def write(self, entries: Iterable[Quarantined]) -> None:
        """Keep exactly these."""
        ...


class Quarantine:
    """Entries by (kernel, digest, device); safe to share between threads.

    Args:
        store: Keeps entries between processes; None keeps them in memory only.
        clock: Gives the time, seconds since the epoch.
    """

    def __init__(self, store: Store | None = None, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._lock = RLock()
        self._version = 0
        self._entries: dict[tuple[str, str, str], Quarantined] = {}
        self._next_expiry: float | None = None
        if store is not None:
            for entry in store.read():
                self._entries[entry.key] = entry
            self._plan_expiry()

    @property
    def version(self) -> int:
        """A number that changes with the entries, expiry included; a part of cache keys."""
        if self._next_expiry is not None and self._clock() >= self._next_expiry:
            self._expire()
        return self._version

    def add(
        self,
        kernel: str,
        device: str,
        reason: str,
        *,
        digest: str = "",
        expires_in: float | None = None,
    ) -> Quarantined:
        """Keep a kernel away from a device.

        Args:
            kernel: Kernel id.
            device: Name of the device.
            reason: What went wrong, one line.
            digest: Digest of the kernel that failed; "" holds for every version of it.
            expires_in: Seconds until it is tried again, None for never.
        """
        now = self._clock()
        expires = None if expires_in is None else now + expires_in
        entry = Quarantined(kernel, device, reason, digest, now, expires)
        with self._lock:
            self._entries[entry.key] = entry
            self._changed()
        return entry

    def lift(self, kernel: str, device: str | None = None) -> tuple[Quarantined, ...]:
        """Let a kernel be tried again, on one device or on all; gives what was removed."""
        with self._lock:
            gone = tuple(
                e
                for e in self._entries.values()
                if e.kernel == kernel and device in (None, e.device)
            )
            self._remove(gone)
        return gone

    def clear(self) -> None:
        """Let every kernel be tried again."""
        with self._lock:
            self._remove(tuple(self._entries.values()))

    def entries(self) -> tuple[Quarantined, ...]:
        """Give all entries that hold, in the order of their arrival."""
        with self._lock:
            self._drop_expired()
            return tuple(self._entries.values())

    def find(self, kernel: str, device: str, digest: str = "") -> Quarantined | None:
        """Give the entry that keeps this kernel away, or None."""
        for entry in self.entries():
            if entry.kernel == kernel and entry.device == device and _same(entry.digest, digest):
                return entry
        return None

    def rejections(
        self, device: str, digests: Callable[[str], str] | None = None
    ) -> dict[str, Rejection]:
        """Give a rejection per kernel that is kept away from the device.

        Args:
            device: Name of the device.
            digests: Gives today's digest of a kernel id; entries of other digests do not hold.
        """
        return {
            entry.kernel: entry.rejection()
            for entry in self.entries()
            if entry.device == device
            and (digests is None or _same(entry.digest, digests(entry.kernel)))
        }

    def _expire(self) -> None:
        with self._lock:
            self._drop_expired()

    def _drop_expired(self) -> None:
        if self._next_expiry is None:
            return
        now = self._clock()
        gone = tuple(
            e for e in self._entries.values() if e.expires is not None and e.expires <= now
        )
        self._remove(gone)

    def _remove(self, gone: tuple[Quarantined, ...]) -> None:
        if not gone:
            return
        for entry in gone:
            del self._entries[entry.key]
        self._changed()

    def _changed(self) -> None:
        self._version += 1
        self._plan_expiry()
        if self._store is not None:
            self._store.write(tuple(self._entries.values()))

    def _plan_expiry(self) -> None:
        times = [e.expires for e in self._entries.values() if e.expires is not None]
        self._next_expiry = min(times, default=None)


def _same(kept: str, today: str) -> bool:
    return not kept or not today or kept == today


_DEFAULT: Final = Quarantine()


def default_quarantine() -> Quarantine:
    """Give the quarantine of this process."""
    return _DEFAULT
