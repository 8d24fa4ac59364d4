"""The rings of the block-scaled kernel: a stage comes back to the group of warps that had it."""

import subprocess

import pytest

from quantmux.testing.compile_cuda import find_nvcc

from .conftest import CSRC

# In tiles of 64 rows (0 in the table) two groups take turns at K blocks: with an odd number of
# stages nothing orders a group's wait for a stage behind the other group's round of it.
PROGRAM = """
#include "abi.cuh"
#include "block_checks.cuh"
#include "block_load.cuh"

#define HOLD(COLUMNS, ROWS, DEEP) \\
  static_assert(ROWS != 0 || qm::BlockShape<COLUMNS, 1, true>::kStages % 2 == 0, "odd ring");
QM_BLOCK_TILES(HOLD)
"""


@pytest.mark.nvcc
def test_a_stage_of_64_row_tiles_comes_back_to_the_group_that_had_it(tmp_path):
    nvcc = find_nvcc()
    if nvcc is None:
        pytest.skip("nvcc is not here")
    source = tmp_path / "ring.cu"
    source.write_text(PROGRAM)
    command = [str(nvcc), "-std=c++17", "-cubin", "-gencode=arch=compute_90a,code=sm_90a"]
    command += [f"-I{CSRC}", f"-I{CSRC / 'linear'}", "-o", str(tmp_path / "ring.cubin")]
    done = subprocess.run(
        [*command, str(source)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
