"""What self-checks have shown: remembered in the process, and in ``self_check.json``."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import RLock
from typing import TYPE_CHECKING, Any, Final

from quantmux.registry.user_folder import user_folder
from quantmux.runtime.kept_file import KeptFile, Row
from quantmux.runtime.quarantine_ground import Ground

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from quantmux.runtime.self_check_case import SmallCase

_log: Final = logging.getLogger("quantmux.build")
_KEPT: Final = 4096
"""Rows of the file; the oldest go first."""


@dataclass(frozen=True, slots=True)
class Passed:
    """A kernel that agreed: under which ground, on which device, for which class of configs.

    Attributes:
        kernel: Kernel id.
        device: Name of the device.
        ground: Digest, driver, versions.
        cases: Hash of the small cases: one for all layers that shrink to them.
    """

    kernel: str
    device: str
    ground: Ground
    cases: str

    @classmethod
    def of(
        cls, kernel: str, device: str, ground: Ground, cases: tuple[SmallCase, ...], more: str
    ) -> Passed:
        """Build it from the cases themselves; ``more`` is what else the result depends on."""
        text = " ".join([*(case.digest for case in cases), more])
        return cls(kernel, device, ground, hashlib.sha256(text.encode()).hexdigest()[:16])

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON-ready data."""
        where = {"kernel": self.kernel, "device": self.device}
        return {**where, **self.ground.to_dict(), "cases": self.cases}

    @classmethod
    def of_dict(cls, data: Row) -> Passed | None:
        """Build it from `to_dict`; None where the data is something else."""
        texts = [data.get(name) for name in ("kernel", "device", "cases")]
        if not all(isinstance(text, str) for text in texts):
            return None
        try:
            ground = Ground.of_dict(data)
        except TypeError:
            return None
        kernel, device, cases = map(str, texts)
        return cls(kernel, device, ground, cases)


def self_check_path() -> Path:
    """Give the file; it need not exist."""
    return user_folder() / "self_check.json"


class SelfChecks:
    """What agreed; safe to share between threads.

    A kernel whose digest says nothing of its code (no declared sources, no version) is remembered
    as the loaded object that it is, in this process only.

    Args:
        path: Gives the file.
    """

    def __init__(self, path: Callable[[], Path] = self_check_path) -> None:
        self._file = KeptFile(path, _log, "the record of self-checks")
        self._lock = RLock()
        self._stamp: object = None
        self._known: set[Passed] = set()
        self._unkept: dict[Path, set[Passed]] = {}
        self._objects: dict[tuple[Passed, int], Any] = {}

    def has(self, passed: Passed, loaded: Any = None) -> bool:
        """Tell whether it agreed before.

        Args:
            passed: What is asked.
            loaded: The loaded kernel where only that very object counts, else None.
        """
        with self._lock:
            if loaded is not None:
                return (passed, id(loaded)) in self._objects
            self._look()
            return passed in self._known

    def add(self, passed: Passed, error: float, ms: float, loaded: Any = None) -> None:
        """Remember that it agreed.

        Args:
            passed: What agreed.
            error: Greatest error, see `quantmux.ops.agreement.Agreement`.
            ms: Time it took, milliseconds.
            loaded: The loaded kernel where only that very object counts, else None.
        """
        with self._lock:
            if loaded is not None:
                self._objects[passed, id(loaded)] = loaded  # held, so that the id stays its own
                return
            self._known.add(passed)
            today = datetime.now(UTC).date().isoformat()
            row = {**passed.to_dict(), "error": error, "ms": round(ms, 3), "date": today}

            def with_row(rows: list[Row]) -> list[Row]:
                others = [r for r in rows if Passed.of_dict(r) not in (None, passed)]
                return [*others[1 - _KEPT :], row]

            if not self._file.update(with_row):
                self._unkept.setdefault(self._file.path, set()).add(passed)

    def _look(self) -> None:
        stamp = self._file.stamp()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        found = (Passed.of_dict(row) for row in self._file.read())
        self._known = {passed for passed in found if passed is not None}
        self._known |= self._unkept.get(self._file.path, set())
