"""Rounds and their statistics: contenders take turns, A, B, A, B, so that drift hits all alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any, Protocol


class Timed(Protocol):
    """Something that can be timed again and again."""

    def round(self) -> float:
        """Give µs per call, measured over one round of calls."""
        ...


class Watch(Timed, Protocol):
    """Something timed whose results can be looked at afterwards."""

    def again(self, spoil: Callable[[Any], None]) -> list[Any]:
        """Run every copy once, as in a round, and give the results in the order of the copies.

        Args:
            spoil: Called with every result of the last round first, to overwrite it.
        """
        ...


@dataclass(frozen=True, slots=True)
class Timing:
    """Times of one contender over all rounds, µs per call.

    Attributes:
        samples: One per round, in order.
    """

    samples: tuple[float, ...]

    @property
    def us(self) -> float:
        """Median."""
        return median(self.samples)

    @property
    def us_min(self) -> float:
        """Fastest round."""
        return min(self.samples)

    @property
    def us_max(self) -> float:
        """Slowest round."""
        return max(self.samples)

    @property
    def noise(self) -> float:
        """Half the spread of the middle half of the rounds over the median.

        One round that another process has held up does not count; `us_max` keeps it.
        """
        if len(self.samples) < 2 or not self.us:
            return 0.0
        low, _, high = quantiles(self.samples, n=4, method="inclusive")
        return (high - low) / 2 / self.us


def interleave(
    watches: Mapping[str, Timed],
    rounds: int,
    failed: Callable[[str, Exception], None] | None = None,
    *,
    to_and_fro: bool = False,
) -> dict[str, Timing]:
    """Time all, each once a round; a first turn of each is not counted.

    Args:
        watches: By name, in the order of their turns.
        rounds: Rounds that count, at least 1.
        failed: Told of one that raises, which then has no time; None lets it raise.
        to_and_fro: Every second round goes backward, so that nobody always follows the same
            neighbour: a heavy one leaves a slower clock to whoever comes next.
    """
    samples: dict[str, list[float]] = {name: [] for name in watches}
    for i in range(1 + rounds):
        turns = tuple(samples)
        for name in reversed(turns) if to_and_fro and i % 2 else turns:
            try:
                samples[name].append(watches[name].round())
            # a plugin's or a peer's code may raise anything; it costs that contender only
            except Exception as error:
                if failed is None:
                    raise
                del samples[name]
                failed(name, error)
    return {name: Timing(tuple(found[1:])) for name, found in samples.items()}
