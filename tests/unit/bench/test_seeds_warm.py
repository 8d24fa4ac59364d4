"""Which cases of the seeds are warm, and how many copies those have."""

from dataclasses import replace

import pytest

from quantmux.bench.effort import Effort
from quantmux.bench.seeds.rows import SeedRow
from quantmux.bench.seeds.silu_mul_ahead import WARM_COPIES, copies_for
from quantmux.bench.seeds.stage import Stage
from quantmux.bench.seeds.warm import warm_line
from quantmux.capability.detect import HERE_CPU
from quantmux.runtime.context import default_context

MB = 1 << 20


@pytest.fixture
def stage():
    device = HERE_CPU.model_copy(update={"l2_mib": 60})
    return Stage(default_context(), device, Effort(rotate_bytes=300 * MB), "full")


def row(case, rotated_mb, *, cold=False, copies=256, us=1.0):
    return SeedRow("silu_mul", case, "ours", "ours", us=us, copies=copies, cold=cold,
                   rotated_mb=rotated_mb)  # fmt: skip


def test_copies_are_cut_only_where_all_of_them_fit_in_the_cache(stage):
    assert copies_for(stage, 10 * MB) == 30
    assert copies_for(stage, 60 * MB / 256) == 256
    assert copies_for(stage, 59 * MB / 256) == WARM_COPIES


def test_a_device_that_tells_no_cache_cuts_all_that_is_not_cold(stage):
    blind = replace(stage, device=stage.device.model_copy(update={"l2_mib": None}))
    assert copies_for(blind, 299 * MB / 256) == WARM_COPIES
    assert copies_for(blind, 300 * MB / 256) == 256


def test_a_quick_look_rotates_no_more_than_it_is_asked(stage):
    quick = replace(stage, effort=Effort(rotate_bytes=60 * MB))
    assert quick.cache_bytes == 60 * MB


def test_warm_cases_are_counted_once_and_told_by_what_the_cache_holds():
    rows = [row("a", 300.0, cold=True), row("b", 100.0), row("b", 100.0), row("c", 3.0, copies=32)]
    text = warm_line([*rows, row("d", 3.0, us=None)], 300.0, 60.0)
    assert text.startswith("2 of 3 cases are warm: 256 copies of so little are less than 300 MB")
    assert text.endswith("1 fit in the cache of 60 MB, 1 are more than it holds")
    assert warm_line(rows[:1], 300.0, 60.0) == ""
    assert warm_line([rows[0], rows[3]], 300.0, 60.0).endswith("and fit in the cache")
