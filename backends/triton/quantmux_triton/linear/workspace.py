"""Workspace of a split K: fp32 partial sums, and counters that are 0 between launches.

A call gets memory that no other call can be using at the time:

- Calls on one stream run one after the other, so a stream has one buffer and one row of counters.
  The buffer grows; the one before goes back to torch's allocator, which is ordered by stream too.
- A captured graph may be replayed on any stream, beside anything. What is captured therefore never
  uses the memory of a stream: its partial sums are allocated in the capture, from the graph's own
  pool, and its counters come from a supply that gives each of them away once. The supply is zeroed
  outside of captures (`reserve`), so that a capture holds no launch for it. Should it run dry
  within a capture, the counters are zeroed there: one launch more, as right as before.

A kernel leaves its counters at 0. What breaks off in the middle, by a fault of the device, leaves a
CUDA context that is of no use any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import Final

import torch

SUPPLY: Final = 1 << 20
"""Counters of one supply: 4 MiB, enough for 16 k captured calls of 64 tiles."""

_LINE: Final = 32
"""Counters in 128 bytes: two calls share no line."""

_BUFFER_MULTIPLE: Final = 1 << 18
"""Floats that a stream's buffer is rounded up to: 1 MiB."""


@dataclass(slots=True)
class _Stream:
    partial: torch.Tensor
    counters: torch.Tensor


class _Supply:
    """Zeroed counters of one device, each of them given away once."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._zeros: torch.Tensor | None = None
        self._used = 0
        # graphs know addresses in these, and nobody knows when the last of them is gone
        self._given: list[torch.Tensor] = []

    def refill(self) -> None:
        """Make sure that at least half a supply is left; waits for the device when it is not."""
        if self._zeros is not None and self._used <= SUPPLY // 2:
            return
        self._zeros = torch.zeros(SUPPLY, dtype=torch.int32, device=self._device)
        self._given.append(self._zeros)
        # other streams will use them, and none of those waits for this one
        torch.cuda.current_stream(self._device).synchronize()
        self._used = 0

    def take(self, count: int) -> torch.Tensor:
        """Give counters that are 0 when the current stream comes to use them."""
        size = -(-count // _LINE) * _LINE
        if self._zeros is None or self._used + size > SUPPLY:
            return torch.zeros(size, dtype=torch.int32, device=self._device)
        self._used += size
        return self._zeros[self._used - size : self._used]


_lock: Final = Lock()
_supplies: Final[dict[int, _Supply]] = {}
_streams: Final[dict[tuple[int, int], _Stream]] = {}


def reserve(device: torch.device) -> None:
    """Have zeroed counters ready for calls and captures to come; for ``bind`` and ``warmup``.

    Does nothing on a host and within a capture.
    """
    if device.type != "cuda" or torch.cuda.is_current_stream_capturing():
        return
    with _lock:
        _supply_of(device).refill()


def split_workspace(
    device: torch.device, floats: int, counters: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Give partial sums, fp32, and counters, int32 and 0, for one launch on the current stream.

    Args:
        device: Where it launches; the current one, if a GPU.
        floats: Partial sums needed.
        counters: Counters needed; the kernel must leave them at 0.
    """
    if device.type != "cuda":
        return (
            torch.empty(floats, dtype=torch.float32, device=device),
            torch.zeros(counters, dtype=torch.int32, device=device),
        )
    if torch.cuda.is_current_stream_capturing():
        with _lock:
            mine = _supply_of(device).take(counters)
        return torch.empty(floats, dtype=torch.float32, device=device), mine
    index = device.index or 0
    # what torch.cuda.current_stream asks too, without the object around it
    key = (index, int(torch._C._cuda_getCurrentRawStream(index)))  # noqa: SLF001
    held = _streams.get(key)
    if held is None or held.partial.numel() < floats or held.counters.numel() < counters:
        held = _grown(key, held, floats, counters, device)
    return held.partial, held.counters


def _supply_of(device: torch.device) -> _Supply:
    index = device.index or 0
    found = _supplies.get(index)
    if found is None:
        found = _supplies[index] = _Supply(torch.device("cuda", index))
    return found


def _grown(
    key: tuple[int, int], held: _Stream | None, floats: int, counters: int, device: torch.device
) -> _Stream:
    """Give the current stream a larger buffer or more counters; only its own calls use them."""
    with _lock:
        if held is None or held.counters.numel() < counters:
            own = _supply_of(device).take(max(counters, 512))
        else:
            own = held.counters
        if held is None or held.partial.numel() < floats:
            size = -(-floats // _BUFFER_MULTIPLE) * _BUFFER_MULTIPLE
            partial = torch.empty(size, dtype=torch.float32, device=device)
        else:
            partial = held.partial
        made = _streams[key] = _Stream(partial, own)
    return made
