"""What an NVFP4 library refuses before the driver sees it: its checks, compiled for the host."""

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from quantmux_cutlass import abi

from .conftest import CSRC

I32 = 2**31 - 1
NULL, ALIGNMENT, STRIDE, SHAPE, OPTION, VERSION = 1, 2, 3, 4, 5, 6
GOOD = {
    "w": 4096,
    "w_scales": 8192,
    "alpha": 12288,
    "w_row": 1024,
    "w_scales_row": 64,
    "x_row": 1024,
    "y_row": 104,
    "n": 100,
    "k": 1000,
    "sms": 148,
    "pdl": 1,
}


@pytest.fixture(scope="module")
def checks(tmp_path_factory):
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    made = tmp_path_factory.mktemp("checks") / "checks.so"
    source = Path(__file__).with_name("nvfp4_checks.cpp")
    command = [compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([*command, f"-I{CSRC}", str(source), "-o", str(made)], check=True)
    library = ctypes.CDLL(str(made))
    pointer, wide = ctypes.c_void_p, ctypes.c_int64
    library.check_problem.argtypes = (pointer,)
    library.check_call.argtypes = (pointer, pointer, wide, pointer, pointer, pointer, wide, wide)
    return library


def problem(**changes):
    made = abi.Problem(bytes=ctypes.sizeof(abi.Problem), abi=abi.VERSION)
    for name, value in {**GOOD, **changes}.items():
        if name == "option":
            made.option[value] = 1
        else:
            setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, 0),
        ({"bias": 4}, 0),
        ({"n": 1, "y_row": 8}, 0),
        ({"n": 97}, 0),
        ({"out": 1}, 0),
        ({"k": 1}, 0),
        ({"k": 1024}, 0),
        ({"x_row": 4096}, 0),
        ({"bytes": 8}, VERSION),
        ({"abi": abi.VERSION + 1}, VERSION),
        ({"w": 0}, NULL),
        ({"w_scales": 0}, NULL),
        ({"alpha": 0}, NULL),
        ({"w": 4104}, ALIGNMENT),
        ({"w_scales": 8200}, ALIGNMENT),
        ({"alpha": 12290}, ALIGNMENT),
        ({"bias": 6}, ALIGNMENT),
        ({"n": 0}, SHAPE),
        ({"k": 0}, SHAPE),
        ({"n": -1}, SHAPE),
        ({"k": -32}, SHAPE),
        ({"n": I32}, SHAPE),
        ({"k": I32}, SHAPE),
        ({"n": I32 - 4096, "y_row": 2**32}, SHAPE),
        ({"w_row": 992}, STRIDE),
        ({"w_row": 1008}, STRIDE),
        ({"x_row": 992}, STRIDE),
        ({"x_row": 1040}, STRIDE),
        ({"x_row": -1024}, STRIDE),
        ({"y_row": 96}, STRIDE),
        ({"y_row": 100}, STRIDE),
        ({"w_scales_row": 63}, STRIDE),
        ({"w_scales_row": 0}, STRIDE),
        ({"w_row": 1056}, STRIDE),
        ({"out": 2}, OPTION),
        ({"out": -1}, OPTION),
        ({"pdl": 2}, OPTION),
        ({"sms": 0}, OPTION),
        ({"device": -1}, OPTION),
        ({"option": 0}, OPTION),
        ({"option": 6}, OPTION),
    ],
)
def test_a_plan_is_refused_for_what_is_wrong_with_it(checks, changes, status):
    assert checks.check_problem(ctypes.addressof(problem(**changes))) == status


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, 0),
        ({"x_row": 2048}, 0),
        ({"y_row": 4096}, 0),
        ({"x": 0}, NULL),
        ({"x_scales": 0}, NULL),
        ({"x_global": 0}, NULL),
        ({"y": 0}, NULL),
        ({"x": 4104}, ALIGNMENT),
        ({"x_scales": 4104}, ALIGNMENT),
        ({"x_global": 4098}, ALIGNMENT),
        ({"y": 4098}, ALIGNMENT),
        ({"x_row": 992}, STRIDE),
        ({"x_row": 1008}, STRIDE),
        ({"y_row": 100}, STRIDE),
        ({"y_row": 96}, STRIDE),
        ({"m": -1}, SHAPE),
        ({"m": 2**31}, SHAPE),
        ({"m": 2**40}, SHAPE),
        ({"m": 2**25}, SHAPE),
        ({"x_row": 2**45}, SHAPE),
    ],
)
def test_a_call_is_refused_for_what_is_wrong_with_it(checks, changes, status):
    given = {"x": 4096, "x_row": 1024, "x_scales": 4096, "x_global": 4096, "y": 4096}
    given |= {"y_row": 104, "m": 5, **changes}
    order = ("x", "x_row", "x_scales", "x_global", "y", "y_row", "m")
    arguments = [given[name] for name in order]
    assert checks.check_call(ctypes.addressof(problem()), *arguments) == status
