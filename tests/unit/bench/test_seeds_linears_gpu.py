"""The two seeds of linears on a GPU: what each way launches, and that all of them agree."""

from dataclasses import replace

import pytest
import torch

from quantmux.bench.effort import Effort
from quantmux.bench.seeds.measure import measure
from quantmux.bench.seeds.padded_weights import AT_LOAD, EVERY_CALL, OURS, PaddedWeights
from quantmux.bench.seeds.placeholder import EMPTY, NONE, ONES, PlaceholderScale
from quantmux.bench.seeds.stage import Stage
from quantmux.capability.detect import resolve_device
from quantmux.runtime.context import default_context

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
]


@pytest.fixture
def stage():
    effort = Effort(rounds=2, rotate_bytes=1 << 20, max_copies=2)
    return Stage(default_context(), resolve_device("cuda"), effort, "full")


def only(experiment, stage, *names):
    """Give the rows of some cases: case → variant → row."""
    chosen = [case for case in experiment.cases(stage) if case.name in names]
    assert len(chosen) == len(names)
    experiment.cases = lambda _: [replace(case, is_counted=True) for case in chosen]
    rows = measure(experiment, stage)
    assert not [(row.kernel, row.reason) for row in rows if row.status == "failed"]
    return {
        case.name: {row.kernel: row for row in rows if row.case == case.name and row.kind != "aa"}
        for case in chosen
    }


def test_before_fills_a_number_in_every_linear_and_neither_the_seed_nor_ours_does(stage):
    (rows,) = only(PlaceholderScale(), stage, "5 linears M=8").values()
    assert {name: rows[name].extra["fills"] for name in (ONES, EMPTY, NONE)} == {
        ONES: 1,
        EMPTY: 0,
        NONE: 0,
    }
    assert rows[EMPTY].launches == rows[NONE].launches == rows[ONES].launches - 5


def test_a_padded_linear_of_ours_is_two_launches_and_the_ways_before_are_more(stage):
    names = ("2048×1376 M=16", "2048×1368 M=16", "3420×1280 bias M=256", "1000×1000 M=16")
    found = only(PaddedWeights(), stage, *names)
    launches = {
        name: tuple(rows[way].launches for way in (EVERY_CALL, AT_LOAD, OURS))
        for name, rows in found.items()
    }
    assert {name: ours for name, (_, _, ours) in launches.items()} == dict.fromkeys(names, 2)
    assert launches["2048×1376 M=16"][:2] == (2, 2)  # nothing to pad
    for name in names[1:]:
        every, load, ours = launches[name]
        assert every > load > ours
