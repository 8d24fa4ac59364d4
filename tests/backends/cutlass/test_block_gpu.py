"""The block-scaled linear for many tokens on a Hopper GPU: every tile, every cluster, same bits."""

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
from quantmux_cutlass.linear.fp8_block_config import tiles
from quantmux_cutlass.linear.fp8_block_tile import ALONE, SHARE_W, SHARE_X, SPLIT_K, Tile
from quantmux_cutlass.linear.layer import Layer
from quantmux_cutlass.linear.padding import padded_k16
from quantmux_cutlass.linear.self_test import disagreement
from quantmux_cutlass.linear.units_fp8_block import TILES
from quantmux_cutlass.native import opened

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0),
        reason="needs a Hopper GPU",
    ),
]

CLUSTERS = ((ALONE, 1), (SHARE_W, 2), (SHARE_X, 2), (SPLIT_K, 2), (SPLIT_K, 3), (SPLIT_K, 8))


@pytest.fixture(scope="module")
def library():
    make(TILES, "90a")
    return opened((TILES,), here())[TILES]


def here():
    return device_here(torch.device("cuda", torch.cuda.current_device()))


@pytest.mark.parametrize("tile", list(tiles()), ids=str)
def test_every_tile_computes_right_in_every_cluster(library, tile):
    options = tuple(
        replace(tile, sharing=sharing, cluster=cluster).options(width=width, along_m=along_m)
        for sharing, cluster in CLUSTERS
        for width, along_m in ((8, False), (1, True))
    )
    asked = SimpleNamespace(
        unit=replace(TILES, test_options=options),
        plan_bytes=library.plan_bytes,
        plan=library.plan,
        run=library.run,
        run_at=library.run_at,
    )
    assert disagreement(asked, here(), "fp8_block128", 1360) is None


@pytest.mark.parametrize("m", [16, 128, 1000])
@pytest.mark.parametrize(
    "tile",
    [
        Tile(64, 32),
        Tile(64, 64, SPLIT_K, 4),
        Tile(128, 128),
        Tile(128, 144, SHARE_W, 2),
        Tile(128, 144, SPLIT_K, 3),
        Tile(256, 128, SHARE_X, 2),
    ],
    ids=str,
)
def test_fifty_calls_in_a_row_give_the_same_bits(library, tile, m):
    config = LinearConfig(in_features=7168, out_features=2112, scheme="fp8_block128")
    x, weights = make_inputs(Case(config, m), "cuda", seed=5).args
    operand = config.scheme.activation
    q = quantize(x, QuantizeConfig(operand=operand, n=7168, layout="col_major_aligned4"))
    choice = Choice(TILES, tile.options(width=8, along_m=False))
    kernel = CutlassLinear("test", lambda *_: choice)
    prepared = padded_k16(weights, config, here())
    call = call_of(Layer(kernel, config, prepared, here(), {TILES: library}))
    first = call(q)
    for _ in range(50):
        assert torch.equal(call(q), first)
