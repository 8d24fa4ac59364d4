"""Which arithmetic of ``numerics_kernel.py`` an operand may use where; the host decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from quantmux_triton.interpreter import interpreting

if TYPE_CHECKING:
    from quantmux.capability.arch import Arch
    from quantmux.config import Operand

FORMATS: Final = {"fp8_e4m3": 0, "fp8_e5m2": 1, "int8": 2}
"""``FORMAT`` of the device functions, by element."""

INT8_BOUNDED: Final = 3
"""``FORMAT`` of int8 codes of values that their own scale bounds: nothing to saturate, no NaN whose
code counts."""

DIVIDE: Final = 0
RECIPROCAL: Final = 1
CORRECTED_ONCE: Final = 2
CORRECTED_TWICE: Final = 3
GUARDED_ONCE: Final = 4
GUARDED_TWICE: Final = 5

_LEAST_SCALE: Final = 2.0**-80
# sm_89 has the instruction, but Triton 3.6 rounds to fp16 towards zero before it
_FIRST_WITH_FP8: Final = 90
_ONCE: Final = 11
"""Significant bits up to which one correction decides about codes as a division does."""


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Compile-time choices of the device functions.

    Attributes:
        format: ``FORMAT``: what a code is.
        hw: ``HW``: fp32 becomes fp8 by the instruction.
        how: ``HOW``: how a value is divided by its scale.
    """

    format: int
    hw: bool
    how: int


def arithmetic(operand: Operand, arch: Arch, *, bits: int) -> Arithmetic:
    """Give the fastest arithmetic with the definition's bits.

    Args:
        operand: fp8 or int8.
        arch: Architecture that the code is for.
        bits: Significant bits of a value before the division: 8 of bf16, 11 of fp16, 24 of fp32
            and of everything that was computed.
    """
    return Arithmetic(
        format=_format(operand),
        hw=converts_fp8(arch),
        how=_how(operand, bits),
    )


def converts_fp8(arch: Arch) -> bool:
    """Tell whether the GPU has the instruction that makes fp8 of fp32; never in the interpreter."""
    return not interpreting() and arch.sm is not None and arch.sm >= _FIRST_WITH_FP8


def _format(operand: Operand) -> int:
    if operand.element == "int8" and _is_bounded(operand):
        return INT8_BOUNDED
    return FORMATS[operand.element]


def _is_bounded(operand: Operand) -> bool:
    """Tell whether no finite value is beyond the largest code times the scale."""
    return operand.dynamic and operand.scale_ub is None


def _how(operand: Operand, bits: int) -> int:
    if operand.dynamic and operand.scale_rounding == "pow2":
        return RECIPROCAL
    # the interpreter of some releases rounds a fused multiply-add twice
    if interpreting():
        return DIVIDE
    if not _is_bounded(operand):
        # a given scale may be of any size: `tensor_kernel` moves it to where this is right
        is_small = operand.dynamic and operand.eps / operand.max_value < _LEAST_SCALE
        guarded = GUARDED_ONCE if bits <= _ONCE else GUARDED_TWICE
        return DIVIDE if is_small else guarded
    if operand.eps / operand.max_value < _LEAST_SCALE:
        return DIVIDE
    return CORRECTED_ONCE if bits <= _ONCE else CORRECTED_TWICE
