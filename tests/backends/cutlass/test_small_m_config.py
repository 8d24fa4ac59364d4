"""How products for few tokens are cut up: every cut must be one that the libraries hold."""

import itertools

import pytest

from quantmux.capability.profiles import profile
from quantmux.config import LinearConfig
from quantmux_cutlass.linear.fp8_small_m_config import M_MAX, choose, cut_for, expected_us
from quantmux_cutlass.linear.fp8_small_m_cut import FORMS, MOST_SHARED
from quantmux_cutlass.linear.units_small_m import BLOCK, ROW

KINDS = ("row", "exact", "block")
NS = (1, 8, 63, 64, 65, 576, 1000, 2112, 4096, 18432, 28672, 152064)
KS = (16, 128, 144, 1024, 1376, 2048, 7168, 16384, 65536)
MS = (1, 7, 8, 9, 16, 17, 32, 33, 63, 64)


def config(scheme, n=576, k=7168, **changes):
    fields = {"in_features": k, "out_features": n, "scheme": scheme, **changes}
    return LinearConfig.model_validate(fields)


@pytest.mark.parametrize("kind", KINDS)
def test_every_cut_is_one_that_the_library_holds(kind):
    for n, k, m in itertools.product(NS, KS, MS):
        cut = cut_for(kind, n=n, k=k, m=m)
        what = (n, k, m, cut)
        assert (cut.tokens, cut.rows, cut.teams) in FORMS, what
        assert cut.tokens >= m, what
        assert 1 <= cut.splits <= -(-k // 128), what
        assert cut.splits * cut.share <= 16, what
        assert cut.tokens % (8 * cut.share) == 0, what
        assert cut.holds(cut.stages, -(-k // 128)), what
        assert cut.stages <= 64, what
        assert cut.shared_bytes(block=kind == "block") <= MOST_SHARED, what


@pytest.mark.parametrize("kind", KINDS)
def test_small_layers_are_spread_over_most_of_the_gpu(kind):
    for n in (576, 1536, 2112):
        cut = cut_for(kind, n=n, k=7168, m=16)
        assert -(-n // cut.rows) * cut.splits >= 66


def test_the_scheme_decides_the_library_and_the_way_to_add():
    h200 = profile("h200")
    row = choose(config("fp8_channel_token"), h200, 16)
    exact_scheme = config("fp8_channel_token").scheme.replace(accumulation="exact")
    exact = choose(config(exact_scheme), h200, 16)
    block = choose(config("fp8_block128"), h200, 16)
    assert (row.unit, row.options[4]) == (ROW, 0)
    assert (exact.unit, exact.options[4]) == (ROW, 1)
    assert (block.unit, block.options[4]) == (BLOCK, 0)


def test_more_tokens_than_the_widest_tile_are_not_expected_here():
    h200 = profile("h200")
    layer = config("fp8_channel_token")
    assert expected_us(layer, h200, M_MAX) < 1e3
    assert expected_us(layer, h200, M_MAX + 1) == float("inf")
