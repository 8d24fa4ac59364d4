"""The inverse RoPE seed on a GPU: what fresh processes compile, and what the kernel writes."""

import pytest
import torch

from quantmux.bench.effort import Effort
from quantmux.bench.seeds.inverse_rope import InverseRope
from quantmux.bench.seeds.inverse_rope_process import Order, run_cold
from quantmux.bench.seeds.inverse_rope_ways import SHAPES
from quantmux.bench.seeds.measure import measure
from quantmux.bench.seeds.stage import Stage
from quantmux.capability.detect import resolve_device
from quantmux.runtime.context import default_context

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
]

TOKENS = (1, 2, 13, 16, 17, 500, 512)


def test_a_fresh_process_compiles_four_variants_before_two_with_the_seed_and_one_of_ours():
    heads, groups = SHAPES[1]
    ways = ("before", "seed", "ours", "warmed")
    orders = [Order(way, heads, groups, 512, TOKENS, "cuda:0") for way in ways]
    found = {cold.order.way: cold for cold in run_cold(orders)}
    assert {cold.error for cold in found.values()} == {""}
    assert {way: len(cold.variants) for way, cold in found.items()} == {
        "before": 4,
        "seed": 2,
        "ours": 1,
        "warmed": 0,
    }
    assert found["before"].stalled == (1, 2, 13, 16)
    assert found["seed"].stalled == (1, 13)
    assert found["ours"].stalled == (1,)
    assert found["warmed"].stalled == ()
    assert found["warmed"].before_variants


def test_every_way_agrees_with_the_definition_for_every_number_of_tokens():
    device = resolve_device("cuda")
    effort = Effort(rounds=1, rotate_bytes=1 << 20, max_copies=3)
    rows = measure(InverseRope(), Stage(default_context(), device, effort, "quick"))
    assert [(row.case, row.reason) for row in rows if row.status != "ok"] == []
    assert {row.kind for row in rows} == {"before", "seed", "ours", "aa"}
    counted = {row.launches for row in rows if row.launches is not None}
    assert counted == {1}
