"""The NVFP4 quantizer's machine code for every GPU it is for: which conversions are in it."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from tests.backends.cutlass.nvfp4_host import CSRC

from quantmux.testing.compile_cuda import compile_cuda
from quantmux_cutlass.instructions import disassembled, instructions
from quantmux_cutlass.quantize.units import NVFP4

if TYPE_CHECKING:
    from quantmux.registry.protocol import CompiledCode

FLAGS = ("-std=c++17", "-O3", "-w", "--expt-relaxed-constexpr")
NAMES = ('-DQM_NAME="x"', '-DQM_TARGETS="x"', '-DQM_DIGEST="x"')


def code_for(target: str) -> CompiledCode:
    return compile_cuda(CSRC.parent / NVFP4.source, target, [CSRC], [*FLAGS, *NAMES])


def count_of(pattern: str, names: list[str]) -> int:
    return sum(n for name, n in Counter(names).items() if re.match(pattern, name))


@pytest.mark.nvcc
@pytest.mark.slow
@pytest.mark.parametrize(("target", "is_an_instruction"), [("90a", False), ("120f", True)])
def test_e2m1_is_an_instruction_where_there_is_one(target: str, is_an_instruction: bool) -> None:
    text = disassembled(code_for(target))
    if text is None:
        pytest.skip("no nvdisasm")
    names = instructions(text)
    assert (count_of(r"F2FP\..*E2M1", names) > 0) is is_an_instruction
    assert count_of(r"F2FP\..*E4M3", names) > 0
    # the five operations a value have two that saturate; the slow form has them everywhere
    assert count_of(r"FFMA\.SAT", names) > 0
    # programs wait for the kernel before and release the next one
    assert count_of("ACQBULK", names) > 0
    assert count_of("PREEXIT", names) > 0
