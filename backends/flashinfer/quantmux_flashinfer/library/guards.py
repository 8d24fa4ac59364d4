"""What FlashInfer shares between calls, kept apart: by thread, by stream, by captured graph.

Its matrix products share one scratch buffer of 32 MiB per device, ``flashinfer.utils._cache_buf``,
whatever the stream; cuDNN's handle and the stream set on it are one per device as well. Two streams
would write the same bytes at the same time, and the library does nothing about it (0.6.8 to
0.7.2). So:

- Calls on one device go one after the other through the library's Python code (a lock).
- Every stream has a buffer of its own: when a call comes on another stream than the last one, the
  buffers are exchanged in the library's table. While one stream is used nothing is exchanged.
- A call that is captured gets a fresh buffer out of the graph's own memory, which is given back to
  that memory at once, so that the next captured call takes the same bytes, in the order of the
  stream. Two graphs never share one, nor does a graph with a stream; graphs that were told to share
  a memory pool must not be replayed at once, as torch says of them anyway.

``fp8_blockscale_gemm_sm90`` has one runner per process, which is told its scratch buffer before it
runs, and compiles and caches kernels without a lock of its own: each call is one step, for all
devices. Four threads without that lock lost the CUDA context, 964 of 1200 calls raised (H200,
0.7.2, 2026-11-21). The buffer itself is allocated per call on the current stream, which keeps
streams and graphs apart.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.errors import BuildError
from quantmux_flashinfer.library import loading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, MutableMapping

    Table = MutableMapping[tuple[str, torch.device], Any]

NAMES: Final = (
    "bmm_fp8_workspace",
    "mm_fp8_low_latency_workspace",
    "trllm_low_latency_gemm",
    "mm_fp4_workspace",
    "gemm_fp8_nt_groupwise_workspace",
    "mm_bf16_fp4_workspace",
    "mm_bf16_fp4_split_k_partial",
    "mm_bf16_fp4_split_k_partial_dummy",
)
"""What the functions of `SHARING` call their buffers in the library's table."""

SHARING: Final = frozenset({"bmm_fp8", "mm_fp8", "mm_fp4", "gemm_fp8_nt_groupwise", "mm_bf16_fp4"})
"""Functions that take their scratch buffer from the library's table."""

ONE_RUNNER: Final = frozenset({"fp8_blockscale_gemm_sm90"})
"""Functions of one runner per process."""

MOST_STREAMS: Final = 16
"""Streams of a device whose buffers are kept, 32 MiB each; the one used longest ago goes first."""


class Workspaces:
    """The scratch buffers of one device: those of the current stream lie in the library's table.

    Attributes:
        lock: Held during every call of a function of `SHARING` on the device.
        stream: The stream, as a number, whose buffers lie in the table; None before the first call.
    """

    __slots__ = ("_device", "_kept", "_names", "_table", "lock", "stream")

    def __init__(self, table: Table, device: torch.device, names: Iterable[str] = NAMES) -> None:
        """Begin with what the table holds: that is nobody's, and stays allocated."""
        self.lock = threading.RLock()
        self.stream: int | None = None
        self._table = table
        self._device = device
        self._names = tuple(names)
        self._kept: OrderedDict[int | None, dict[str, Any]] = OrderedDict()

    def turn_to(self, stream: int) -> None:
        """Lay the buffers of a stream into the table, and keep those of the last one.

        A buffer that is let go was allocated on its own stream, so torch's allocator hands it on
        in the order of that stream.
        """
        self._kept[self.stream] = self._take()
        self._lay(self._kept.pop(stream, {}))
        self.stream = stream
        streams = [kept for kept in self._kept if kept is not None]  # a program's own may stay
        for oldest in streams[: max(0, len(streams) - MOST_STREAMS + 1)]:
            del self._kept[oldest]

    def apart(self, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Call with empty places in the table, and leave it as it was: for a capture."""
        held = self._take()
        try:
            return call(*args, **kwargs)
        finally:
            self._take()
            self._lay(held)

    def _take(self) -> dict[str, Any]:
        found = {}
        for name in self._names:
            buffer = self._table.pop((name, self._device), None)
            if buffer is not None:
                found[name] = buffer
        return found

    def _lay(self, buffers: dict[str, Any]) -> None:
        for name, buffer in buffers.items():
            self._table[name, self._device] = buffer


def guarded(call: Callable[..., Any], name: str, index: int) -> Callable[..., Any]:
    """Give a function of the library behind the guard that it needs, itself where it needs none.

    Args:
        call: The function.
        name: Its name.
        index: Ordinal of the device it will be called on.

    Raises:
        BuildError: The installed release keeps its scratch buffers where this backend does not
            know to keep them apart (code ``unsupported``).
    """
    if name in SHARING:
        return by_stream(call, workspaces(index), index)
    if name in ONE_RUNNER:
        return one_by_one(call)
    return call


def by_stream(
    call: Callable[..., Any],
    room: Workspaces,
    index: int,
    *,
    stream_of: Callable[[int], int] | None = None,
    is_capturing: Callable[[], bool] | None = None,
) -> Callable[..., Any]:
    """Give a function that is called with the scratch buffers of the current stream.

    Args:
        call: The function.
        room: Buffers of the device.
        index: Ordinal of the device.
        stream_of: Gives a device's current stream as a number; None takes torch's.
        is_capturing: Tells whether the current stream is being captured; None takes torch's.
    """
    # none of the two is public in a form without an object around it; both are of torch 2.4 to 2.13
    number: Any = stream_of or torch._C._cuda_getCurrentRawStream  # noqa: SLF001
    captured: Any = is_capturing or torch._C._cuda_isCurrentStreamCapturing  # noqa: SLF001
    take, give = room.lock.acquire, room.lock.release  # 0.1 us less than ``with`` on Python 3.11
    apart, turn_to = room.apart, room.turn_to

    def on_its_stream(*args: Any, **kwargs: Any) -> Any:
        take()
        try:
            if captured():
                return apart(call, args, kwargs)
            stream = number(index)
            if stream != room.stream:
                turn_to(stream)
            return call(*args, **kwargs)
        finally:
            give()

    return on_its_stream


_one_runner: Final = threading.RLock()


def one_by_one(call: Callable[..., Any]) -> Callable[..., Any]:
    """Give a function that one thread of the process calls at a time."""
    take, give = _one_runner.acquire, _one_runner.release

    def alone(*args: Any, **kwargs: Any) -> Any:
        take()
        try:
            return call(*args, **kwargs)
        finally:
            give()

    return alone


_rooms: Final[dict[int, Workspaces]] = {}
_rooms_lock: Final = threading.Lock()


def workspaces(index: int) -> Workspaces:
    """Give the scratch buffers of a device; the same object for every function.

    Raises:
        BuildError: The library has no such table.
    """
    with _rooms_lock:
        found = _rooms.get(index)
        if found is None:
            found = _rooms[index] = Workspaces(_table(), torch.device("cuda", index))
        return found


def _table() -> Table:
    table = getattr(loading.module("flashinfer.utils"), "_cache_buf", None)
    if not isinstance(table, dict):
        raise BuildError(
            "the installed FlashInfer keeps its scratch buffers in another place",
            facts={
                "needs": "flashinfer.utils._cache_buf, a dict",
                "found": type(table).__name__,
                "version": loading.version(),
            },
            hint="install a release from 0.6.8 to 0.7",
            code="unsupported",
        )
    return table
