"""A worker as its parent sees it: started, fed, listened to, and ended for good."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quantmux.testing.worker_wire import MARK, decode, encode, pack

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from quantmux.testing.cell import Cell

_TAIL: Final = 16_384
_READ: Final = 65_536
_READS: Final = 64
"""Reads in a row: of a worker that writes without end, the rest is read at the next turn."""

_LINE: Final = 16 << 20
"""No message is longer, bytes."""

_RUBBISH: Final = "something wrote rubbish into the channel of the sweep"
_GRACE: Final = 10.0
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(slots=True, eq=False)
class WorkerProcess:
    """One worker process with its own process group.

    Attributes:
        slot: Which place of the pool it fills.
        kind: What it was started for; cells of another kind need another process.
        chunk: Cells that it was given and has not begun.
        current: The cell it is at.
        began: When it began that, or was started (monotonic seconds).
        answered: Cells it has answered.
        is_ready: It has set up and said so.
        is_idle: It waits for cells.
        was_asked: It was asked where it is, being late.
        broken: What it said when it could not set up, or the channel carried rubbish.
    """

    slot: int
    kind: str
    process: subprocess.Popen[bytes]
    channel: socket.socket
    chunk: deque[Cell] = field(default_factory=deque)
    current: Cell | None = None
    began: float = field(default_factory=time.monotonic)
    answered: int = 0
    is_ready: bool = False
    is_idle: bool = False
    was_asked: bool = False
    broken: str = ""
    _outgoing: bytearray = field(default_factory=bytearray)
    _incoming: bytearray = field(default_factory=bytearray)
    _tail: bytearray = field(default_factory=bytearray)

    @classmethod
    def start(
        cls, slot: int, kind: str, hello: Mapping[str, Any], environment: Mapping[str, str]
    ) -> WorkerProcess:
        """Start a worker: a new interpreter that shares nothing with this one but a socket."""
        ours, theirs = socket.socketpair()
        number = str(theirs.fileno())
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "quantmux.testing.worker", number, str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(theirs.fileno(),),
            env=dict(environment),
            start_new_session=True,
        )
        theirs.close()
        ours.setblocking(False)
        made = cls(slot, kind, process, ours)
        os.set_blocking(made.output, False)
        made._outgoing += encode(hello)
        return made

    @property
    def output(self) -> int:
        """File descriptor of what it prints."""
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def register(self, selector: selectors.BaseSelector) -> None:
        """Have a selector tell when it says or prints something."""
        selector.register(self.channel, selectors.EVENT_READ, self)
        selector.register(self.output, selectors.EVENT_READ, self)

    def unregister(self, selector: selectors.BaseSelector) -> None:
        """Take back `register`."""
        for source in (self.channel, self.output):
            with contextlib.suppress(KeyError, ValueError):
                selector.unregister(source)

    def give(self, cells: Sequence[Cell]) -> None:
        """Give it a chunk of cells."""
        self.chunk = deque(cells)
        self.is_idle = False
        self._outgoing += encode({"cells": pack(tuple(cells))})

    def flush(self) -> None:
        """Send what it can take; a worker that died is found out elsewhere."""
        while self._outgoing:
            try:
                sent = self.channel.send(self._outgoing)
            except BlockingIOError:
                return
            except OSError:
                self._outgoing.clear()
                return
            del self._outgoing[:sent]

    def messages(self) -> list[dict[str, Any]]:
        """Give what it has said since; `broken` is set when that is no message."""
        for _ in range(_READS):
            try:
                data = self.channel.recv(_READ)
            except (BlockingIOError, ConnectionError):
                break
            if not data:
                break
            self._incoming += data
        *lines, rest = bytes(self._incoming).split(b"\n")
        self._incoming = bytearray(rest)
        found = []
        for line in lines:
            try:
                found.append(decode(line))
            except ValueError:
                self.broken = _RUBBISH
                break
        if len(rest) > _LINE:
            self.broken = _RUBBISH
        return found

    def listen(self, selector: selectors.BaseSelector) -> None:
        """Keep the end of what it prints, so that a crash can be told with its last words."""
        for _ in range(_READS):
            try:
                data = os.read(self.output, _READ)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                with contextlib.suppress(KeyError, ValueError):
                    selector.unregister(self.output)
                return
            self._tail = (self._tail + data)[-_TAIL:]

    def forget_output(self) -> None:
        """Begin to listen anew."""
        self._tail.clear()

    @property
    def last_words(self) -> list[str]:
        """The last lines it printed in the cell it is at."""
        # not cleared when a cell is announced: that arrives by another way, sooner or later
        text = self._tail.rpartition(MARK)[2].decode(errors="replace")
        return [line.rstrip() for line in text.splitlines() if line.strip()]

    @property
    def has_ended(self) -> bool:
        """Tell whether its process has ended; its group may hold others that have not."""
        if self.process.returncode is not None:
            return True
        # looked at without reaping: until then its number, which is its group's, is not given away
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        try:
            return os.waitid(os.P_PID, self.process.pid, flags) is not None
        except ChildProcessError:
            return True

    @property
    def resident(self) -> int:
        """Bytes of memory it holds, 0 where that cannot be told."""
        try:
            fields = Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()
            return int(fields[1]) * _PAGE
        except (OSError, ValueError, IndexError):
            return 0

    def ask_where(self) -> None:
        """Have it print where its main thread is."""
        with contextlib.suppress(OSError):
            self.process.send_signal(signal.SIGUSR1)

    def end(self) -> int | None:
        """End it and everything it started; gives the exit code, None when it cannot be ended."""
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        try:
            return self.process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            return None  # stuck in the kernel, as a process that waits for a dead GPU can be

    def close(self) -> None:
        """Give its descriptors back."""
        self.channel.close()
        if self.process.stdout is not None:
            self.process.stdout.close()
