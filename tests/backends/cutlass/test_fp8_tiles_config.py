"""Tiles of the FP8 linear for many tokens: which are compiled, and which is chosen for a layer."""

import re
from pathlib import Path

import pytest

import quantmux_cutlass
from quantmux.capability.profiles import PROFILES
from quantmux.config import LinearConfig
from quantmux_cutlass.linear.fp8_config import _CLUSTERS, Cut, choose, cut_us, expected_us
from quantmux_cutlass.linear.fp8_forms import TILES, Form
from quantmux_cutlass.linear.specs_fp8 import specs
from quantmux_cutlass.linear.units_fp8 import TILES_LIBRARY

PACKAGE = Path(quantmux_cutlass.__file__).parent
H200 = PROFILES["h200"]
SMS = 132
SHAPES = [
    (576, 7168),
    (1536, 7168),
    (2112, 7168),
    (4096, 7168),
    (7168, 2048),
    (4096, 4096),
    (24576, 1536),
    (18432, 7168),
    (7168, 16384),
    (28672, 4096),
]
ODD = [(1, 1), (8, 16), (1000, 1000), (4099, 1368)]
MS = (1, 3, 64, 65, 96, 128, 200, 256, 512, 1000, 1024, 2048, 4096, 8192, 32768)


def config(n, k, scheme="fp8_channel_token"):
    return LinearConfig(in_features=k, out_features=n, scheme=scheme)


COMPILED = {(tile.columns, tile.rows, tile.form) for tile in TILES}


@pytest.mark.parametrize(("n", "k"), [*SHAPES, *ODD])
@pytest.mark.parametrize("scheme", ["fp8_tensor", "fp8_channel_token", "fp8_channel_token+exact"])
def test_every_m_has_a_tile_with_options_that_the_library_takes(n, k, scheme):
    for m in MS:
        chosen = choose(config(n, k, scheme), H200, m)
        columns, rows, form, sharing, band, along_m, splits = chosen.options
        assert chosen.unit is TILES_LIBRARY
        assert (columns, rows, form) in COMPILED
        assert sharing in (0, 1, 2)
        assert band >= 1
        assert along_m in (0, 1)
        if form in (Form.SPLIT, Form.SPLIT_EXACT):
            assert 2 <= splits <= min(8, -(-k // 128))
            assert sharing == 0
        else:
            assert splits == 0


def test_exact_accumulation_takes_the_tiles_that_promote():
    exact = {Form.EXACT, Form.SPLIT_EXACT}
    for n, k in SHAPES:
        for m in MS:
            assert choose(config(n, k, "fp8_channel_token+exact"), H200, m).options[2] in exact
            assert choose(config(n, k), H200, m).options[2] not in exact


def test_clusters_that_divide_k_run_all_at_once():
    for n, k in SHAPES:
        for m in MS:
            columns, rows, _, _, _, _, splits = choose(config(n, k), H200, m).options
            if splits:
                assert -(-n // columns) * -(-m // rows) <= _CLUSTERS[splits]


def test_a_tile_costs_what_its_waves_cost():
    tile = next(t for t in TILES if (t.columns, t.rows, t.form) == (128, 128, Form.PING_PONG))
    times = [cut_us(Cut(tile), n, 7168, 1536, SMS, 1e9) for n in (1408, 1536, 2816)]
    # 132 multiprocessors make 132 tiles at once: 12 × 11 of them, and not 12 × 12
    assert times[0] < times[1] == pytest.approx(times[2], rel=1e-6)


def test_few_rows_divide_k_and_many_do_not():
    assert choose(config(2112, 7168), H200, 128).options[6] >= 2
    assert choose(config(2112, 7168), H200, 8192).options[6] == 0


def test_more_work_is_never_expected_to_take_less_time():
    for n, k in SHAPES:
        times = [expected_us(config(n, k), H200, m) for m in MS]
        assert times == sorted(times)


def test_sums_of_a_tile_fit_into_the_registers_of_its_threads():
    for tile in TILES:
        threads = 128 if tile.form == Form.PING_PONG else 256
        sums = tile.rows * tile.columns // threads
        partial = tile.columns // 2 if tile.form in (Form.EXACT, Form.SPLIT_EXACT) else 0
        assert sums + partial <= 200, "of 240 registers"


SOURCES = {
    "cutlass/linear_fp8": TILES_LIBRARY.source,
    "cutlass/linear_fp8_direct": TILES_LIBRARY.source,
    "cutlass/linear_fp8_collective": "csrc/linear/fp8_collective.cu",
}


@pytest.mark.parametrize("spec", specs(), ids=lambda spec: spec.id)
def test_a_digest_covers_every_file_that_a_library_is_compiled_from(spec):
    wanted, seen = {PACKAGE / SOURCES[spec.id]}, set()
    while wanted - seen:
        file = (wanted - seen).pop()
        seen.add(file)
        for name in re.findall(r'#include "([\w./]+)"', file.read_text(encoding="utf-8")):
            if name.startswith(("cute/", "cutlass/")):
                continue  # a package's: its release stands with the evidence
            beside, above = file.parent / name, PACKAGE / "csrc" / name
            wanted.add(beside if beside.is_file() else above)
    listed = {PACKAGE / source for source in spec.sources}
    assert seen <= listed
    assert all(file.is_file() for file in listed)
