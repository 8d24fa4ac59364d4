"""Machine code of the products for many tokens: what registers and shared memory it takes."""

import re
from dataclasses import fields
from weakref import ref

import pytest
import torch
import triton

from quantmux.capability.arch import Arch
from quantmux_triton.interpreter import interpreting
from quantmux_triton.linear.fp8_config import fitting, shared_bytes
from quantmux_triton.linear.fp8_tiles import block_tiles, int8_tiles, scaled_tiles
from quantmux_triton.linear.fp8_variant import Numbers, Variant, Weight, arguments, launcher_of

pytestmark = pytest.mark.skipif(interpreting(), reason="this process interprets")

HOPPER = Arch.parse("90")
E4M3, BF16 = torch.float8_e4m3fn, torch.bfloat16
NUMBERS = {
    "fast": Numbers(E4M3, BF16, has_bias=True, per_token=True, per_channel=True),
    "exact": Numbers(E4M3, BF16, has_bias=True, per_token=True, per_channel=True, promote=True),
    "block": Numbers(E4M3, BF16, has_bias=True, is_block=True),
    "int8": Numbers(torch.int8, BF16, has_bias=True, per_token=True, per_channel=True),
}
LISTS = {
    "fast": scaled_tiles(90, aligned=True, exact=False),
    "exact": scaled_tiles(90, aligned=True, exact=True),
    "block": block_tiles(90, aligned=True),
    "int8": int8_tiles(90, aligned=True),
}
DIVIDED = [
    (kind, tile) for kind, tiles in LISTS.items() for tile in tiles if tile.form == "divided"
]


@pytest.fixture
def compiled(monkeypatch):
    """Give a function: variant → what Triton made of it for sm_90."""
    made = []
    was = triton.compile

    def kept(*args, **kwargs):
        made.append(was(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(triton, "compile", kept)

    def of(variant, arch=HOPPER):
        launcher_of(variant).machine_code(arch)
        return made[-1]

    return of


def variant_of(kind, tile, **changes):
    return Variant(NUMBERS[kind], fitting(tile, 90, 2), store_tma=True, **changes)


@pytest.mark.parametrize(("kind", "tile"), DIVIDED[::3])
def test_a_divided_tile_takes_the_shared_memory_that_is_reckoned_with(compiled, kind, tile):
    found = compiled(variant_of(kind, tile))
    assert 0 <= found.metadata.shared - shared_bytes(tile, 2) <= 512
    assert found.metadata.shared <= 232448


def test_a_divided_product_loads_and_stores_by_tma_and_multiplies_the_widest_tiles(compiled):
    text = compiled(variant_of("fast", LISTS["fast"][0])).asm["ptx"]
    assert re.search(r"wgmma\.mma_async\S*m64n256k32\.f32\.e4m3\.e4m3", text)
    assert re.search(r"cp\.async\.bulk\.tensor\S*\.shared::\S+\.global", text)
    assert re.search(r"cp\.async\.bulk\.tensor\S*\.global\.shared", text)
    assert "setmaxnreg.dec" in text


def test_a_block_product_promotes_between_its_matrix_instructions(compiled):
    text = compiled(variant_of("block", LISTS["block"][0])).asm["ptx"]
    steps = re.findall(r"wgmma\.mma_async|wgmma\.wait_group|fma\.rn\.f32", text)
    runs = [steps[0]]
    for step in steps[1:]:
        if step != runs[-1]:
            runs.append(step)
    # of each group of warps: the first part is multiplied, awaited and promoted, then the second
    one = ["wgmma.mma_async", "wgmma.wait_group", "fma.rn.f32"]
    assert runs[:6] == [*one, *one]


@pytest.mark.parametrize("sm", ["89", "80"])
def test_aligned_rows_are_loaded_16_bytes_at_a_time_without_tma(compiled, sm):
    tile = int8_tiles(int(sm), aligned=True)[0]
    found = compiled(Variant(NUMBERS["int8"], tile, store_tma=False), Arch.parse(sm))
    assert re.search(r"cp\.async\.\S+ \[[^]]+\], \[[^]]+\], 0x10", found.asm["ptx"])
    assert not re.search(r"ld\.global\S*\.b8", found.asm["ptx"])


@pytest.mark.parametrize("form", ["divided", "tma"])
def test_a_later_descriptor_is_what_triton_would_have_made_and_nothing_is_kept(form):
    tile = next(t for t in LISTS["fast"] if t.form == form)
    variant = variant_of("fast", tile)

    def made(m):
        x = torch.empty(m, 64, dtype=torch.uint8).view(E4M3)
        scales = torch.ones(m, 1)
        w = torch.empty(48, 64, dtype=torch.uint8).view(E4M3)
        weight = Weight(w, 48, 64, torch.ones(48, 1), torch.ones(48, 1))
        y = torch.empty(m, 48, dtype=BF16)
        return x, arguments(variant, x, 64, scales, weight, y, 48)

    made(16)
    x, (later, *_) = made(32)
    first = type(later)(*(getattr(later, f.name) for f in fields(later)))
    assert later == first
    assert (later.base.data_ptr(), later.shape, later.strides) == (x.data_ptr(), [32, 64], [64, 1])
    gone = ref(x)
    del x, later, first, _
    assert gone() is None
