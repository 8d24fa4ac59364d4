"""The libraries of the linears for few tokens: what ``qm_plan`` refuses. Needs nvcc, but no GPU.

All checks come before the first question to CUDA, so on a host without a GPU a plan that is right
ends with an error of the CUDA runtime, and one that is wrong with a status of its own.
"""

import ctypes
import itertools
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from quantmux_cutlass import abi
from quantmux_cutlass.interfaces import ALWAYS, INTERFACES
from quantmux_cutlass.linear.fp8_small_m_cut import FORMS, MOST_SHARED, Cut
from quantmux_cutlass.linear.units_small_m import BLOCK, ROW
from quantmux_cutlass.native import __file__ as package_file

pytestmark = [pytest.mark.nvcc, pytest.mark.slow]

NULL, ALIGNMENT, STRIDE, SHAPE, OPTION, VERSION = 1, 2, 3, 4, 5, 6
W, SCALES, BIAS = 0x10000, 0x20000, 0x30000
"""Addresses that are never read: a plan holds them only."""


@pytest.fixture(scope="module", params=[ROW, BLOCK], ids=["row", "block"])
def library(request, tmp_path_factory):
    nvcc = shutil.which(os.environ.get("CUDACXX", "nvcc"))
    if nvcc is None:
        pytest.skip("no nvcc")
    unit, package = request.param, Path(package_file).parent
    made = tmp_path_factory.mktemp("stream") / f"{unit.name}.so"
    about = [f'-DQM_{n}="{v}"' for n, v in (("NAME", unit.name), ("TARGETS", "90a"))]
    command = [nvcc, "-std=c++17", "-O1", "-shared", "-Xcompiler=-fPIC", "-cudart=static"]
    command += ["-gencode=arch=compute_90a,code=sm_90a", "--expt-relaxed-constexpr", *about]
    command += ['-DQM_DIGEST="test"', f"-I{package}/csrc", "-o", str(made)]
    subprocess.run([*command, str(package / unit.source)], check=True, capture_output=True)
    found = ctypes.CDLL(str(made))
    for name, (result, arguments) in {**ALWAYS, **INTERFACES["linear"]}.items():
        getattr(found, name).restype, getattr(found, name).argtypes = result, list(arguments)
    found.block = unit is BLOCK
    return found


def status(library, cut=(16, 64, 2, 4, 0), **changes):
    """Give what ``qm_plan`` answers to a problem that is right but for ``changes``."""
    fields = {
        "bytes": ctypes.sizeof(abi.Problem), "abi": abi.VERSION, "w": W, "w_scales": SCALES,
        "bias": BIAS, "w_row": 1024, "w_scales_row": 8, "x_row": 1024, "y_row": 512, "n": 512,
        "k": 1024, "w_by_row": 1, "x_by_row": 1, "sms": 132, "pdl": 1, **changes,
    }  # fmt: skip
    problem = abi.Problem(**fields)
    for i, value in enumerate(cut):
        problem.option[i] = value
    memory = ctypes.create_string_buffer(library.qm_plan_bytes() + 64)
    address = -(-ctypes.addressof(memory) // 64) * 64
    return library.qm_plan(ctypes.addressof(problem), address)


def passes(answer):
    return answer == 0 or answer >= abi.CUDA or answer == 8


def test_a_right_problem_gets_as_far_as_the_gpu(library):
    assert passes(status(library))
    assert passes(status(library, bias=None))


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"w": None}, NULL),
        ({"w_scales": None}, NULL),
        ({"n": 0}, SHAPE),
        ({"k": 0}, SHAPE),
        ({"n": -512}, SHAPE),
        ({"w": W + 8}, ALIGNMENT),
        ({"w_scales": SCALES + 2}, ALIGNMENT),
        ({"bias": BIAS + 1}, ALIGNMENT),
        ({"w_row": 1008}, STRIDE),
        ({"w_row": 1032}, STRIDE),
        ({"x_row": 1016}, STRIDE),
        ({"x_row": 1032}, STRIDE),
        ({"y_row": 511}, STRIDE),
        ({"out": 2}, OPTION),
        ({"x_columns": 3}, OPTION),
        ({"abi": abi.VERSION + 1}, VERSION),
        ({"bytes": 8}, VERSION),
    ],
)
def test_a_wrong_problem_is_refused_by_its_own_status(library, changes, wanted):
    assert status(library, **changes) == wanted


def test_a_short_row_of_block_scales_is_refused(library):
    answer = status(library, w_scales_row=7)
    assert answer == STRIDE if library.block else passes(answer)


@pytest.mark.parametrize(
    "cut",
    [
        (24, 64, 1, 4, 0),
        (128, 64, 1, 4, 0),
        (16, 128, 1, 4, 0, 2),  # no such teams
        (16, 64, 0, 4, 0),
        (16, 64, 17, 4, 0),
        (16, 64, 9, 4, 0),  # more splits than blocks of K
        (64, 64, 8, 3, 0, 1, 4),  # a cluster of 32
        (16, 64, 2, 4, 0, 1, 4),  # four tokens each
        (64, 64, 2, 4, 0, 1, 3),
        (16, 64, 2, 0, 0),
        (16, 64, 2, 1, 0, 2),  # fewer stages than teams
        (16, 64, 1, 5, 0, 2),  # stages would change teams
        (16, 64, 1, 2, 0, 2),  # a team holds its only stage and waits for it
        (16, 64, 1, 1, 0, 1),
        (32, 112, 1, 3, 0),  # upright tiles have 64 tokens
        (64, 64, 1, 1, 0, 2),  # no room for the sums of the teams
        (16, 64, 2, 65, 0),
        (64, 128, 1, 10, 0),  # more than the shared memory
    ],
)
def test_options_that_no_tile_has_are_refused(library, cut):
    assert status(library, cut) == OPTION


def test_python_and_the_kernel_agree_on_what_fits(library):
    for (tokens, rows, teams), splits in itertools.product(sorted(FORMS), (1, 2, 3, 5, 8)):
        for stages in range(1, 26):
            cut = Cut(tokens, rows, splits, stages, teams)
            fits = cut.shared_bytes(block=library.block) <= MOST_SHARED and cut.holds(stages, 8)
            answer = status(library, (tokens, rows, splits, stages, 0, teams))
            assert passes(answer) if fits else answer == OPTION, cut


def test_a_call_without_rows_or_with_null_pointers_is_answered_before_the_gpu_is_asked(library):
    memory = ctypes.create_string_buffer(library.qm_plan_bytes() + 64)
    plan = -(-ctypes.addressof(memory) // 64) * 64
    assert library.qm_run(plan, None, None, None, 0, None) == 0
    assert library.qm_run(plan, None, SCALES, W, 4, None) == NULL
    assert library.qm_run(plan, W, SCALES, None, 4, None) == NULL
    assert library.qm_run(plan, W + 4, SCALES, W, 4, None) == ALIGNMENT
    assert library.qm_run(plan, W, SCALES, W, -1, None) == SHAPE
    assert library.qm_run(None, W, SCALES, W, 4, None) == NULL
