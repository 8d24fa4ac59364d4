"""Rounds and their statistics: contenders take turns, A, B, A, B, so that drift hits all alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Protocol


class Watch(Protocol):
    """Something that can be timed again and again."""

    def round(self) -> float:
        """Give µs per call, measured over one round of calls."""
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
        """Half the spread over the median."""
        return (self.us_max - self.us_min) / 2 / self.us if self.us else 0.0


def interleave(watches: Mapping[str, Watch], rounds: int) -> dict[str, Timing]:
    """Time all, each once a round; a first turn of each is not counted.

    Args:
        watches: By name, in the order of their turns.
        rounds: Rounds that count, at least 1.
    """
    for watch in watches.values():
        watch.round()
    samples: dict[str, list[float]] = {name: [] for name in watches}
    for _ in range(rounds):
        for name, watch in watches.items():
            samples[name].append(watch.round())
    return {name: Timing(tuple(found)) for name, found in samples.items()}
