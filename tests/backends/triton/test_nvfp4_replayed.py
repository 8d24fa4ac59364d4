"""What NVFP4's fast path does on GPUs only, replayed in numpy.

Its divisions, for every pair of significands that there is, and its rounding by additions.
"""

import re

import numpy as np
import pytest
import torch

from quantmux.ops.numerics import E2M1_VALUES, encode_e2m1
from quantmux_triton import e2m1_kernel
from quantmux_triton.quantize import nvfp4_block_kernel

F32 = np.float32


def _fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """RN(a * b + c) of fp32: the product is exact in fp64, the sum is rounded to odd there."""
    product, c = a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64)
    total = product + c
    part = total - product
    error = (product - (total - part)) + (c - part)
    bits = total.view(np.int64)
    is_rounded = (error != 0) & ((bits & 1) == 0)
    bits = np.where(is_rounded, bits + np.where((error > 0) == (total > 0), 1, -1), bits)
    return bits.view(np.float64).astype(F32)


def _corrected(a: np.ndarray, b: np.ndarray, y: np.ndarray) -> np.ndarray:
    q = a * y
    return _fma(_fma(-b, q, a), y, q)


def _significands() -> np.ndarray:
    return (np.arange(1 << 23, dtype=np.int32) | 0x3F800000).view(F32)


@pytest.mark.parametrize("units", [-1, 0, 1])
@pytest.mark.parametrize("eighths", range(8, 16))
def test_one_correction_divides_every_number_by_a_scale_of_four_bits(
    eighths: int, units: int
) -> None:
    a = _significands()
    s = F32(eighths / 8)
    y = F32(1) / s
    if units:
        y = np.nextafter(y, F32(2 if units > 0 else 0))
    got = _corrected(a, np.full_like(a, s), np.full_like(a, y))
    assert np.array_equal(got, a / s)


def test_six_and_its_inverse_are_among_them() -> None:
    sixth = nvfp4_block_kernel._SIXTH.value
    assert F32(sixth) == F32(1) / F32(6)
    assert F32(6) == F32(12 / 8) * 4


def test_the_replay_finds_an_inverse_that_is_too_far_off() -> None:
    a, s = _significands(), F32(13 / 8)
    y = F32(1) / s * F32(1 + 2**-12)
    got = _corrected(a, np.full_like(a, s), np.full_like(a, y))
    assert not np.array_equal(got, a / s)


def _constants() -> list[np.ndarray]:
    """Give the fp32 numbers that stand in the PTX of ``_added``, in their order."""
    found = re.findall(r"0f([0-9A-F]{8})", e2m1_kernel._added.src)
    return [np.array(int(text, 16), np.uint32).view(F32) for text in found]


def _added(v: np.ndarray) -> np.ndarray:
    most, steep, two, step, start, steep_too, four, last = _constants()
    a = np.minimum(np.abs(v), most)
    c = _fma(np.clip(_fma(a, steep, two), 0, 1), step, start)
    c = _fma(np.clip(_fma(a, steep_too, four), 0, 1), last, c)
    return (a + c).view(np.int32) & 7


def test_the_lowest_bits_of_the_sum_are_the_code() -> None:
    values = np.array(E2M1_VALUES, F32)
    points = np.concatenate(
        [values, (values[1:] + values[:-1]) / 2, [1e-45, 1e-30, 7, 1e9, np.inf]]
    )
    points = points.astype(F32)
    near = [np.nextafter(points, F32(end)) for end in (0, 100)]
    random = np.random.default_rng(0).uniform(0, 8, 1 << 20).astype(F32)
    for v in (points, *near, random):
        assert np.array_equal(_added(v), encode_e2m1(torch.from_numpy(v)).numpy())
