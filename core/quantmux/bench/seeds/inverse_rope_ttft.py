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


@dataclass(frozen=True, slots=True)
class Stalls:
    """The stalls of all ways over the token counts, seconds.

    Attributes:
        before: With nothing pinned.
        seed: With the number of tokens pinned.
        ours: With quantmux's kernel.
        warmed: The same after ``warmup``.
    """

    before: float
    seed: float
    ours: float
    warmed: float

    def gained_ms(self, served: Served) -> tuple[float, float, float]:
        """Give what seed, ours and ours after ``warmup`` take off the mean TTFT, ms."""
        seed, ours, warmed = (
            modelled_ms(self.before - after, served.at_once, served)
            for after in (self.seed, self.ours, self.warmed)
        )
        return seed, ours, warmed


def model_lines(whole: Stalls, later: Stalls, served: Served = REPORTED) -> tuple[str, ...]:
    """Say what the measured stalls would be of the report's figure.

    Args:
        whole: Over all token counts.
        later: Without the first one, whose call also loads the compiler.
        served: The report's load.
    """
    n = served.at_once
    by_seed, by_ours, by_warmed = whole.gained_ms(served)
    later_seed, later_ours, later_warmed = later.gained_ms(served)
    what = (
        "A model, not a measurement: a compilation holds up every request in the server, at most "
        f"{n}, once; {served.requests} requests share that."
    )
    seed = (
        f"Pinning num_tokens removes {whole.before - whole.seed:.2f} s of {whole.before:.2f} s: "
        f"{by_seed:.1f} ms of mean TTFT, where the report saw {served.gained_ms:.0f} ms "
        f"({served.before_ms:.0f} to {served.after_ms:.0f}). For all of these, "
        f"{needed_s(served):.1f} s of stall would have to go."
    )
    after = (
        "After the first T, where the compiler is loaded in all ways: pinning num_tokens removes "
        f"{later.before - later.seed:.2f} s of {later.before:.2f} s, {later_seed:.1f} ms of mean "
        f"TTFT; ours {later_ours:.1f} ms, and {later_warmed:.1f} ms after warmup()."
    )
    ours = (
        f"With the first T ours is {by_ours:.1f} ms. After warmup() it is {by_warmed:.1f} ms, "
        f"which leaves {whole.warmed * 1e3:.1f} ms of stall in traffic; but "
        f"{by_warmed - later_warmed:.1f} ms of that is the first T, where most is loading the "
        "compiler: before and seed would be rid of it by any warm-up, too."
    )
    return what, seed, after, ours
