"""How much is measured: rounds, and how many bytes a rotation touches before one is used again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile

L2_TIMES: Final = 5
"""A rotation touches at least so many times the L2 cache, so that every call finds it cold."""

LAST_CACHE_TIMES: Final = 2
"""The same for a host's last cache."""

MAX_COPIES: Final = 256
"""Copies of the buffers at most; tiny cases cannot be made cold and are marked so."""

ROUNDS: Final = 7
"""Turns of every contender on a GPU."""

HOST_ROUNDS: Final = 21
"""The same on a host, which others use at the same time: their turns may fall in with ours."""

_QUICK_ROUNDS: Final = 3
_HOST_LIMIT: Final = 512 << 20
_USUAL_L2_MIB: Final = 64.0


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured.

    Attributes:
        rounds: Turns of every contender.
        rotate_bytes: Least bytes of all copies of a case's buffers together.
        max_copies: Copies at most.
        round_us: Least time of a turn on the host, µs.
        warm: Also time over one copy, which stays in the cache.
        gemm: Also time the consumer of a pipeline alone.
        seed: Of weights and inputs.
    """

    rounds: int = 7
    rotate_bytes: int = 0
    max_copies: int = MAX_COPIES
    round_us: float = 10_000.0
    warm: bool = False
    gemm: bool = False
    seed: int = 0

    def copies(self, bytes_per_call: float) -> int:
        """Give how many copies reach `rotate_bytes`, one at least, `max_copies` at most."""
        wanted = math.ceil(self.rotate_bytes / max(bytes_per_call, 1.0))
        return max(1, min(self.max_copies, wanted))


def effort_for(
    device: DeviceProfile,
    *,
    quick: bool = False,
    warm: bool = False,
    gemm: bool = False,
    seed: int = 0,
) -> Effort:
    """Give the effort for a device: the protocol's, or a quick look that proves no number."""
    if device.is_cuda:
        cache = int((device.l2_mib or _USUAL_L2_MIB) * (1 << 20))
        rotate, copies = (cache if quick else L2_TIMES * cache), MAX_COPIES
    else:
        from quantmux.bench.watch_host import last_cache_bytes

        cache = last_cache_bytes()
        rotate = 1 << 20 if quick else min(LAST_CACHE_TIMES * cache, _HOST_LIMIT)
        copies = 4 if quick else MAX_COPIES
    return Effort(
        rounds=_QUICK_ROUNDS if quick else ROUNDS if device.is_cuda else HOST_ROUNDS,
        rotate_bytes=rotate,
        max_copies=copies,
        round_us=500.0 if quick else 10_000.0,
        warm=warm,
        gemm=gemm,
        seed=seed,
    )
