"""The library of the FP8 linear for many tokens, on the host: what it has and what it refuses."""

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from quantmux_cutlass import abi
from quantmux_cutlass.linear.fp8_forms import TILES, Form
from quantmux_cutlass.linear.units_fp8 import TILES_LIBRARY

from .conftest import CSRC

I32 = 2**31 - 1
NULL, ALIGNMENT, STRIDE, SHAPE, OPTION, VERSION = 1, 2, 3, 4, 5, 6
PLAIN = (128, 128, 0, 1, 8, 0, 0)
DIVIDED = (96, 128, 3, 0, 8, 0, 4)
GOOD = {
    "w": 4096,
    "w_scales": 8196,
    "w_row": 1008,
    "x_row": 1024,
    "y_row": 101,
    "n": 100,
    "k": 1000,
    "w_by_row": 1,
    "x_by_row": 1,
    "sms": 132,
    "pdl": 1,
    "option": PLAIN,
}


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    made = tmp_path_factory.mktemp("rows") / "rows.so"
    source = Path(__file__).with_name("row_on_host.cpp")
    command = [compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([*command, f"-I{CSRC}", str(source), "-o", str(made)], check=True)
    opened = ctypes.CDLL(str(made))
    opened.check_problem.argtypes = opened.find_tile.argtypes = (ctypes.c_void_p,)
    opened.check_call.argtypes = (ctypes.c_void_p,) * 3
    opened.check_strides.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
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


def changed(place, value, base=PLAIN):
    return {"option": (*base[:place], value, *base[place + 1 :])}


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, 0),
        ({"bias": 4}, 0),
        ({"out": 1}, 0),
        ({"w_by_row": 0, "x_by_row": 0}, 0),
        ({"n": 1, "y_row": 1}, 0),
        ({"k": 1}, 0),
        ({"option": DIVIDED}, 0),
        (changed(3, 2), 0),
        (changed(4, 1000), 0),
        (changed(5, 1), 0),
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
        ({"sms": 0}, SHAPE),
        ({"device": -1}, SHAPE),
        ({"n": I32, "y_row": I32}, SHAPE),
        ({"k": I32, "w_row": I32 + 1, "x_row": I32 + 1}, SHAPE),
        ({"w_row": 992}, STRIDE),
        ({"w_row": 1000}, STRIDE),
        ({"x_row": 992}, STRIDE),
        ({"x_row": 1030}, STRIDE),
        ({"y_row": 99}, STRIDE),
        ({"out": 2}, OPTION),
        (changed(0, 24), OPTION),
        (changed(1, 256), OPTION),
        (changed(2, 5), OPTION),
        (changed(3, 3), OPTION),
        (changed(4, 0), OPTION),
        (changed(5, 2), OPTION),
        (changed(6, 2), OPTION),
        ({"sms": 1}, OPTION),
        (changed(6, 0, DIVIDED), OPTION),
        (changed(6, 1, DIVIDED), OPTION),
        (changed(6, 8, DIVIDED), 0),
        (changed(6, 9, DIVIDED), OPTION),
        (changed(3, 1, DIVIDED), OPTION),
        # four blocks of K are no work for five CTAs
        ({"k": 500, **changed(6, 5, DIVIDED)}, OPTION),
        ({"k": 500, **changed(6, 4, DIVIDED)}, 0),
    ],
    ids=str,
)
def test_a_problem_is_refused_with_the_status_of_its_fault(library, changes, status):
    assert library.check_problem(ctypes.addressof(problem(**changes))) == status


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ((4096, 4, 2), 0),
        ((0, 4, 2), NULL),
        ((4096, 0, 2), NULL),
        ((4096, 4, 0), NULL),
        ((4104, 4, 2), ALIGNMENT),
        ((4096, 6, 2), ALIGNMENT),
        ((4096, 4, 3), ALIGNMENT),
    ],
)
def test_a_call_is_refused_with_the_status_of_its_fault(library, arguments, status):
    assert library.check_call(*arguments) == status


@pytest.mark.parametrize(
    ("x_row", "y_row", "status"),
    [(1008, 100, 0), (1008, 107, 0), (992, 100, STRIDE), (1000, 100, STRIDE), (1008, 99, STRIDE)],
)
def test_strides_of_a_call_are_checked_like_those_of_a_plan(library, x_row, y_row, status):
    assert library.check_strides(100, 1000, x_row, y_row) == status


def test_the_tiles_that_are_chosen_from_are_those_that_are_compiled(library):
    compiled = []
    for place in range(library.tile_count()):
        tile = (ctypes.c_int * 3)()
        library.tile_at(place, tile)
        compiled.append(tuple(tile))
        asked = problem(option=(*tile, 0, 1, 0, 0))
        assert library.find_tile(ctypes.addressof(asked)) == place
    assert len(set(compiled)) == len(compiled)
    assert set(compiled) == {(tile.columns, tile.rows, int(tile.form)) for tile in TILES}


def test_the_options_of_the_self_test_are_legal_and_prove_every_form(library):
    for options in TILES_LIBRARY.test_options:
        asked = problem(n=200, y_row=200, k=272, option=options)
        assert library.check_problem(ctypes.addressof(asked)) == 0
    assert {options[2] for options in TILES_LIBRARY.test_options} == set(Form)


@pytest.mark.parametrize("cluster", range(2, 9))
@pytest.mark.parametrize("groups", range(1, 6))
def test_every_chunk_of_a_divided_tile_has_one_owner_and_a_place_of_its_own(
    library, groups, cluster
):
    where = (ctypes.c_int * (16 * groups))()
    places = library.chunks_of(groups, cluster, where)
    pairs = {(where[2 * c], where[2 * c + 1]) for c in range(8 * groups)}
    assert len(pairs) == 8 * groups
    assert {owner for owner, _ in pairs} == set(range(cluster))
    assert max(place for _, place in pairs) < places
    # what row_split.cuh holds memory for, and how many chunks it lets one of 8 warps finish
    assert places * cluster <= 8 * groups + 7
    assert places <= 8 * ((4 * groups + 7) // 8)
