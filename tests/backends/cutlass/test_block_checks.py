"""The block-scaled FP8 library on the host: what it refuses, and the order it takes tiles in."""

import ctypes
import os
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from quantmux.capability.profiles import PROFILES
from quantmux.config import LinearConfig
from quantmux_cutlass import abi
from quantmux_cutlass.linear.fp8_block_config import best_tile, candidates, choose, expected_us
from quantmux_cutlass.linear.fp8_block_tile import SHARE_W, SHARE_X, SPLIT_K

from .conftest import CSRC

I32 = 2**31 - 1
NULL, ALIGNMENT, STRIDE, SHAPE, OPTION, VERSION = 1, 2, 3, 4, 5, 6
PLAIN = (128, 1, 0, 1, 8, 0, 0)
GOOD = {
    "w": 4096,
    "w_scales": 8196,
    "w_row": 1008,
    "w_scales_row": 8,
    "x_row": 1024,
    "y_row": 100,
    "n": 100,
    "k": 1000,
    "x_columns": 4,
    "sms": 132,
    "pdl": 1,
    "option": PLAIN,
}
H200 = PROFILES["h200"]
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
    (1, 1),
    (1000, 1000),
    (4099, 1368),
]
MS = (1, 3, 64, 65, 128, 200, 256, 512, 1000, 1024, 2048, 4096, 8192, 32768)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    made = tmp_path_factory.mktemp("block") / "block.so"
    source = Path(__file__).with_name("block_on_host.cpp")
    command = [compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([*command, f"-I{CSRC}", str(source), "-o", str(made)], check=True)
    opened = ctypes.CDLL(str(made))
    pointer, wide = ctypes.c_void_p, ctypes.c_int64
    opened.check_problem.argtypes = (pointer,)
    opened.check_call.argtypes = (pointer, pointer, wide, pointer, pointer, wide, wide)
    return opened


def problem(**changes):
    made = abi.Problem(bytes=ctypes.sizeof(abi.Problem), abi=abi.VERSION)
    for name, value in {**GOOD, **changes}.items():
        if name == "option":
            for place, option in enumerate(value):
                made.option[place] = option
        else:
            setattr(made, name, value)
    return made


def changed(place, value):
    return {"option": (*PLAIN[:place], value, *PLAIN[place + 1 :])}


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, 0),
        ({"bias": 4}, 0),
        ({"n": 1, "y_row": 1}, 0),
        ({"n": 97, "y_row": 97}, 0),
        ({"k": 1, "w_scales_row": 1}, 0),
        ({"x_columns": 0}, 0),
        ({"x_columns": 1}, 0),
        ({"out": 1}, 0),
        ({"bytes": 8}, VERSION),
        ({"abi": abi.VERSION + 1}, VERSION),
        ({"w": 0}, NULL),
        ({"w_scales": 0}, NULL),
        ({"w": 4104}, ALIGNMENT),
        ({"w_scales": 8194}, ALIGNMENT),
        ({"bias": 6}, ALIGNMENT),
        ({"n": 0}, SHAPE),
        ({"k": 0}, SHAPE),
        ({"n": -1}, SHAPE),
        ({"k": -16}, SHAPE),
        ({"n": I32, "y_row": I32}, SHAPE),
        ({"w_row": 992}, STRIDE),
        ({"w_row": 1000}, STRIDE),
        ({"x_row": 992}, STRIDE),
        ({"x_row": 1030}, STRIDE),
        ({"y_row": 99}, STRIDE),
        ({"w_scales_row": 7}, STRIDE),
        ({"out": 2}, OPTION),
        ({"x_columns": 2}, OPTION),
        ({"sms": 0}, OPTION),
        ({"device": -1}, OPTION),
        (changed(0, 24), OPTION),
        (changed(1, 3), OPTION),
        (changed(2, 4), OPTION),
        (changed(3, 2), OPTION),
        (changed(4, 0), OPTION),
        (changed(5, 2), OPTION),
        (changed(6, 2), OPTION),
        ({"option": (128, 1, SHARE_W, 2, 8, 0, 0)}, 0),
        ({"option": (128, 1, SHARE_W, 1, 8, 0, 0)}, OPTION),
        ({"option": (128, 1, SHARE_X, 4, 8, 0, 0)}, OPTION),
        ({"option": (128, 1, SPLIT_K, 8, 8, 0, 0)}, 0),
        ({"option": (128, 1, SPLIT_K, 9, 8, 0, 0)}, OPTION),
        ({"option": (128, 1, SPLIT_K, 1, 8, 0, 0)}, OPTION),
        # nine parts of eight blocks of K would leave a CTA without one
        ({"k": 500, "w_scales_row": 4, "option": (128, 1, SPLIT_K, 5, 8, 0, 0)}, OPTION),
        ({"k": 500, "w_scales_row": 4, "option": (128, 1, SPLIT_K, 4, 8, 0, 0)}, 0),
    ],
    ids=str,
)
def test_a_problem_is_refused_with_the_status_of_its_fault(library, changes, status):
    assert library.check_problem(ctypes.addressof(problem(**changes))) == status


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ((4096, 1024, 4, 2, 100, 5), 0),
        ((4096, 1024, 4, 2, 101, 5), 0),
        ((0, 1024, 0, 0, 100, 0), 0),
        ((4096, 1024, 4, 2, 100, -1), SHAPE),
        ((4096, 1024, 4, 2, 100, 2**31), SHAPE),
        ((0, 1024, 4, 2, 100, 5), NULL),
        ((4096, 1024, 0, 2, 100, 5), NULL),
        ((4096, 1024, 4, 0, 100, 5), NULL),
        ((4104, 1024, 4, 2, 100, 5), ALIGNMENT),
        ((4096, 1024, 6, 2, 100, 5), ALIGNMENT),
        ((4096, 1024, 4, 3, 100, 5), ALIGNMENT),
        ((4096, 992, 4, 2, 100, 5), STRIDE),
        ((4096, 1032, 4, 2, 100, 5), STRIDE),
        ((4096, 1024, 4, 2, 99, 5), STRIDE),
    ],
)
def test_a_call_is_refused_with_the_status_of_its_fault(library, arguments, status):
    assert library.check_call(ctypes.addressof(problem()), *arguments) == status


@pytest.mark.parametrize("sharing", [0, SHARE_W, SHARE_X, SPLIT_K])
@pytest.mark.parametrize("along_m", [0, 1])
@pytest.mark.parametrize("width", [1, 3, 8, 100])
def test_every_tile_is_taken_once_in_any_order(library, sharing, along_m, width):
    for m_units, n_units in ((1, 1), (7, 5), (5, 7), (16, 33)):
        seen = []
        for rank in range(2 if sharing in (SHARE_W, SHARE_X) else 1):
            to = (ctypes.c_int * (2 * m_units * n_units))()
            library.tiles_of(m_units, n_units, width, along_m, sharing, rank, to)
            seen += list(zip(to[::2], to[1::2], strict=True))
        rows = m_units * (2 if sharing == SHARE_W else 1)
        columns = n_units * (2 if sharing == SHARE_X else 1)
        assert sorted(seen) == [(m, n) for m in range(rows) for n in range(columns)]


@pytest.mark.parametrize("along_m", [0, 1])
def test_a_band_is_walked_before_the_next_one_begins(library, along_m):
    to = (ctypes.c_int * (2 * 6 * 6))()
    library.tiles_of(6, 6, 2, along_m, 0, 0, to)
    across = list(to[::2] if along_m else to[1::2])
    assert across == [band * 2 + i % 2 for band in range(3) for i in range(12)]


@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_every_m_gets_options_that_the_library_has(library, n, k):
    config = LinearConfig(in_features=k, out_features=n, scheme="fp8_block128")
    for m in MS:
        option = choose(config, H200, m).options
        asked = problem(
            n=n, k=k, y_row=n, x_row=k + -k % 16, w_row=k + -k % 16, w_scales_row=-(-k // 128)
        )
        for place, value in enumerate(option):
            asked.option[place] = value
        assert library.check_problem(ctypes.addressof(asked)) == 0, (m, option)


@pytest.mark.parametrize(("n", "k"), [(576, 7168), (4099, 1368), (1, 1)])
def test_every_candidate_is_a_tile_that_the_library_has(library, n, k):
    for m in (1, 128, 1024, 4096):
        for tile in candidates(n, k, m, 132):
            asked = problem(
                n=n, k=k, y_row=n, x_row=k + -k % 16, w_row=k + -k % 16, w_scales_row=-(-k // 128)
            )
            for place, value in enumerate(tile.options(width=8, along_m=False)):
                asked.option[place] = value
            assert library.check_problem(ctypes.addressof(asked)) == 0, (m, tile)


def test_more_rows_are_never_expected_to_take_much_less_time():
    for n, k in SHAPES:
        config = LinearConfig(in_features=k, out_features=n, scheme="fp8_block128")
        times = [expected_us(config, H200, m) for m in MS]
        assert all(later > 0.8 * before for before, later in pairwise(times))


def test_few_tiles_divide_k_and_many_do_not():
    assert best_tile(576, 7168, 128, 132).sharing == SPLIT_K
    assert best_tile(18432, 7168, 4096, 132).sharing != SPLIT_K
