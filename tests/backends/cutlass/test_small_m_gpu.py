"""The linears for few tokens on a Hopper GPU: every tile, every way to share, the same bits."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from quantmux.capability.detect import device_here
from quantmux.config import LinearConfig, QuantizeConfig
from quantmux.ops.linear.spec import make_inputs
from quantmux.ops.quantize.reference import quantize
from quantmux.ops.spec import Case
from quantmux_cutlass.build.making import make
from quantmux_cutlass.linear.bound import call_of
from quantmux_cutlass.linear.choice import Choice
from quantmux_cutlass.linear.consumer import CutlassLinear
from quantmux_cutlass.linear.fp8_small_m_cut import FORMS, MOST_SHARED, Cut
from quantmux_cutlass.linear.layer import Layer
from quantmux_cutlass.linear.padding import padded_k16
from quantmux_cutlass.linear.self_test import disagreement
from quantmux_cutlass.linear.units_small_m import BLOCK, ROW
from quantmux_cutlass.native import opened

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0),
        reason="needs a Hopper GPU",
    ),
]

SCHEMES = {ROW: "fp8_channel_token", BLOCK: "fp8_block128"}


@pytest.fixture(scope="module", params=[ROW, BLOCK], ids=["row", "block"])
def library(request):
    unit = request.param
    make(unit, "90a")
    return opened((unit,), here())[unit]


def here():
    return device_here(torch.device("cuda", torch.cuda.current_device()))


def ways(tokens, rows, teams, k, *, block):
    """Give options for a tile: few and many splits, shared x or not, short rings and long ones."""
    k_blocks = -(-k // 128)
    for splits, share in ((1, 1), (2, 2), (3, 1), (5, 1), (2, 4), (8, 2)):
        for stages in (2, 4, 12):
            cut = Cut(tokens, rows, splits, stages, teams, share)
            possible = splits <= k_blocks and tokens % (8 * share) == 0
            fits = cut.shared_bytes(block=block) <= MOST_SHARED and cut.holds(stages, k_blocks)
            if possible and fits:
                for mode in (0,) if block else (0, 1):
                    yield (tokens, rows, splits, stages, mode, teams, share)


@pytest.mark.parametrize("form", sorted(FORMS))
def test_every_tile_computes_right_in_every_way_to_share(library, form):
    k = 1360
    options = tuple(ways(*form, k, block=library.unit is BLOCK))
    assert options
    asked = SimpleNamespace(
        unit=replace(library.unit, test_options=options),
        plan_bytes=library.plan_bytes,
        plan=library.plan,
        run=library.run,
        run_at=library.run_at,
    )
    assert disagreement(asked, here(), SCHEMES[library.unit], k) is None


@pytest.mark.parametrize("cut", [(16, 64, 7, 4, 0), (64, 64, 3, 4, 0, 2, 2), (64, 112, 4, 3, 0)])
def test_two_hundred_calls_in_a_row_give_the_same_bits(library, cut):
    config = LinearConfig(in_features=7168, out_features=1000, scheme=SCHEMES[library.unit])
    x, weights = make_inputs(Case(config, 16), "cuda", seed=5).args
    layout = "col_major_aligned4" if library.unit is BLOCK else "row_major"
    operand = config.scheme.activation
    q = quantize(x, QuantizeConfig(operand=operand, n=7168, layout=layout))
    choice = Choice(library.unit, cut)
    kernel = CutlassLinear("test", lambda *_: choice)
    prepared = padded_k16(weights, config, here())
    call = call_of(Layer(kernel, config, prepared, here(), {library.unit: library}))
    first = call(q)
    for _ in range(200):
        assert torch.equal(call(q), first)
