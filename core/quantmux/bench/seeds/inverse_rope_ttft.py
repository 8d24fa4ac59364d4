"""What a measured stall would be of a server's time to first token: a model, not a measurement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Served:
    """The load under which the report saw its figure.

    Attributes:
        requests: In the benchmark.
        at_once: Requests in the server at most.
        before_ms: Mean time to first token before.
        after_ms: And after.
    """

    requests: int
    at_once: int
    before_ms: float
    after_ms: float

    @property
    def gained_ms(self) -> float:
        """What the report gained in the mean."""
        return self.before_ms - self.after_ms


REPORTED: Final = Served(requests=480, at_once=8, before_ms=370.0, after_ms=338.0)
"""vllm#42849: DeepSeek-V4 Flash on 8 H200 (TP8), ``--num-prompts 480 --max-concurrency 8``."""


def modelled_ms(removed_s: float, waiting: float, served: Served = REPORTED) -> float:
    """Give by how much mean TTFT falls if a stall is removed while so many requests wait, ms."""
    return removed_s * 1e3 * waiting / served.requests


def needed_s(served: Served = REPORTED) -> float:
    """Give the stall, in seconds, that explains the report if all requests in the server wait."""
    return served.gained_ms * 1e-3 * served.requests / served.at_once


def model_lines(
    before_s: float, seed_s: float, ours_s: float, warmed_s: float, served: Served = REPORTED
) -> tuple[str, ...]:
    """Say what the measured stalls would be of the report's figure.

    Args:
        before_s: Stall over the token counts with nothing pinned, seconds.
        seed_s: With the number of tokens pinned.
        ours_s: With quantmux's kernel.
        warmed_s: The same after ``warmup``.
        served: The report's load.
    """
    n = served.at_once
    by_seed, by_ours, by_warmed = (
        modelled_ms(before_s - after, n, served) for after in (seed_s, ours_s, warmed_s)
    )
    what = (
        "A model, not a measurement: a compilation holds up every request in the server, at most "
        f"{n}, once; {served.requests} requests share that."
    )
    seed = (
        f"Pinning num_tokens removes {before_s - seed_s:.2f} s of {before_s:.2f} s: "
        f"{by_seed:.1f} ms of mean TTFT, where the report saw {served.gained_ms:.0f} ms "
        f"({served.before_ms:.0f} to {served.after_ms:.0f}). For all of these, "
        f"{needed_s(served):.1f} s of stall would have to go."
    )
    ours = (
        f"Ours: {by_ours:.1f} ms; {by_warmed:.1f} ms after warmup(), which leaves "
        f"{warmed_s * 1e3:.1f} ms of stall in traffic."
    )
    return what, seed, ours
