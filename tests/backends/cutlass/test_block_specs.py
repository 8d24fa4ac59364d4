"""The two block-scaled linears for many tokens: what they offer, and which goes first where."""

import pytest

from quantmux.capability.profiles import PROFILES
from quantmux.config import LinearConfig
from quantmux_cutlass.catalog import offers
from quantmux_cutlass.linear.fp8_block_collective_config import choose, collective_us
from quantmux_cutlass.linear.units_fp8_block import COLLECTIVE, TILES, units

H200 = PROFILES["h200"]
BY_HAND, COLLECTED = "cutlass/linear_fp8_block", "cutlass/linear_fp8_block_collective"


def offer(kernel):
    return next(o for o in offers() if o.spec.id == kernel)


def config(n, k):
    return LinearConfig(in_features=k, out_features=n, scheme="fp8_block128")


def test_each_kernel_is_made_of_its_own_library():
    assert offer(BY_HAND).units == (TILES,)
    assert offer(COLLECTED).units == (COLLECTIVE,)
    assert set(units()) == {TILES, COLLECTIVE}


def test_only_the_tile_of_cutlass_needs_its_headers_and_a_padded_y():
    by_hand, collected = offer(BY_HAND).spec.capability, offer(COLLECTED).spec.capability
    assert (TILES.cutlass, by_hand.output_row_multiple, by_hand.m_min) == ("", 1, 1)
    assert COLLECTIVE.cutlass
    assert (collected.output_row_multiple, collected.m_min) == (8, 65)


@pytest.mark.parametrize("kernel", [BY_HAND, COLLECTED])
def test_both_promote_so_both_accumulations_are_offered(kernel):
    assert set(offer(kernel).spec.capability.accumulations) == {"fast", "exact"}


def test_the_tile_of_cutlass_gets_options_that_it_has():
    for m in (65, 128, 1000, 32768):
        raster, width = choose(config(4099, 1368), H200, m).options
        assert raster in (0, 1, 2)
        assert width in (1, 2, 4, 8)


def test_the_time_to_expect_of_the_tile_of_cutlass_grows_with_every_wave():
    times = [collective_us(config(4096, 4096), H200, m) for m in (128, 1024, 2048, 4096, 8192)]
    assert times == sorted(times)
    assert times[-1] > 6 * times[1]
