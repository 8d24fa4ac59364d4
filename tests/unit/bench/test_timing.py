"""Rounds, rotation and statistics, under a clock of the test's own."""

import pytest

from quantmux.bench.effort import MAX_COPIES, Effort, effort_for
from quantmux.bench.timing import Timing, interleave
from quantmux.bench.watch_cuda import graph_calls
from quantmux.bench.watch_host import HostWatch, last_cache_bytes
from quantmux.capability.detect import HERE_CPU
from quantmux.capability.profiles import PROFILES


class Told:
    """A watch that gives times from a list and writes down its turns."""

    def __init__(self, name, times, turns):
        self.name, self.times, self.turns = name, list(times), turns

    def round(self):
        self.turns.append(self.name)
        return self.times.pop(0)


class Clock:
    """Seconds that pass only where a call says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def spend(self, us):
        self.now += us * 1e-6


def test_contenders_take_turns():
    turns = []
    watches = {name: Told(name, [1.0] * 4, turns) for name in "ab"}
    interleave(watches, rounds=3)
    assert "".join(turns) == "ab" + "ababab"


def test_every_second_round_may_go_backward():
    turns = []
    watches = {name: Told(name, [1.0] * 4, turns) for name in "abc"}
    interleave(watches, rounds=3, to_and_fro=True)
    assert "".join(turns) == "abc" + "cba" + "abc" + "cba"


def test_the_first_turn_is_not_counted():
    found = interleave({"a": Told("a", [99.0, 1.0, 2.0, 3.0], [])}, rounds=3)["a"]
    assert found.samples == (1.0, 2.0, 3.0)
    assert (found.us, found.us_min, found.us_max) == (2.0, 1.0, 3.0)


def test_noise_is_half_the_spread_of_the_middle_half_over_the_median():
    assert Timing((9.0, 10.0, 13.0)).noise == pytest.approx(0.1)
    assert Timing((7.0, 8.0, 10.0, 11.0, 12.0)).noise == pytest.approx(1.5 / 10)
    assert Timing((10.0,)).noise == 0.0


def test_one_round_that_was_held_up_makes_no_noise_and_is_kept():
    quiet = (10.0, 10.1, 9.9, 10.0, 10.2, 9.8, 10.0)
    held_up = Timing((*quiet[:-1], 117.0))
    assert held_up.noise < 0.02
    assert held_up.us == pytest.approx(10.0)
    assert held_up.us_max == 117.0


def test_host_time_is_per_call_over_all_copies_in_turn():
    clock, seen = Clock(), []

    def call(i):
        def run():
            seen.append(i)
            clock.spend(10.0 * (i + 1))

        return run

    watch = HostWatch([call(i) for i in range(3)], round_us=60.0, clock=clock)
    seen.clear()
    times = [watch.round() for _ in range(3)]
    assert seen == [i % 3 for i in range(seen[0], seen[0] + len(seen))]
    assert len(seen) == 18  # six calls of 10 µs fill a round of 60 µs
    assert times == pytest.approx([20.0] * 3)


def test_outputs_are_held_until_the_next_turn_of_their_copy():
    given = []
    watch = HostWatch([lambda: given.append(object()) or given[-1]] * 2, round_us=1.0)
    watch.round()
    assert watch._held[0] is not None
    assert watch._held[0] is not watch._held[1]


@pytest.mark.parametrize("size", [1, 20_480, 4_000_000, 117_000_000, 10**9])
def test_a_rotation_touches_five_times_the_l2_cache_or_has_all_copies(size):
    effort = effort_for(PROFILES["h200"])
    copies = effort.copies(size)
    assert effort.rotate_bytes == 5 * 60 * 2**20
    assert copies * size >= effort.rotate_bytes or copies == MAX_COPIES
    assert copies == 1 or (copies - 1) * size < effort.rotate_bytes


def test_a_rotation_on_a_host_goes_beyond_its_last_cache():
    effort = effort_for(HERE_CPU)
    assert effort.rotate_bytes >= min(2 * last_cache_bytes(), 512 << 20)
    assert effort.rounds >= 3 * effort_for(PROFILES["h200"]).rounds


def test_the_protocol_takes_seven_rounds_and_a_quick_look_fewer():
    assert effort_for(PROFILES["h200"]).rounds == 7
    assert effort_for(PROFILES["h200"], quick=True).rounds < 7


@pytest.mark.parametrize("copies", [1, 3, 7, 20, 21, 256])
def test_a_graph_holds_twenty_calls_and_every_copy_alike(copies):
    calls = graph_calls(copies)
    assert calls >= 20
    assert calls % copies == 0


def test_one_copy_at_least():
    assert Effort(rotate_bytes=10).copies(1e12) == 1
