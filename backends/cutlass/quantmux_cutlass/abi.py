"""The C ABI of the compiled libraries, as ctypes sees it: the mirror of ``csrc/abi.cuh``."""

from __future__ import annotations

import ctypes
from typing import Final

VERSION: Final = 1
"""``QM_ABI_VERSION``: a library of another version is not loaded."""


class Problem(ctypes.Structure):
    """``QmProblem``: what one layer gives to ``qm_plan``; fields are explained in ``abi.cuh``."""

    _fields_ = (
        ("bytes", ctypes.c_uint32),
        ("abi", ctypes.c_uint32),
        ("w", ctypes.c_void_p),
        ("w_scales", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("alpha", ctypes.c_void_p),
        ("w_row", ctypes.c_int64),
        ("w_scales_row", ctypes.c_int64),
        ("x_row", ctypes.c_int64),
        ("y_row", ctypes.c_int64),
        ("n", ctypes.c_int32),
        ("k", ctypes.c_int32),
        ("w_by_row", ctypes.c_int32),
        ("x_by_row", ctypes.c_int32),
        ("x_columns", ctypes.c_int32),
        ("out", ctypes.c_int32),
        ("device", ctypes.c_int32),
        ("sms", ctypes.c_int32),
        ("pdl", ctypes.c_int32),
        ("option", ctypes.c_int32 * 7),
    )


COLUMNS: Final = {"row_major": 0, "col_major": 1, "col_major_aligned4": 4}
"""``QmColumns`` by the name of the scale layout; other layouts need no number."""

OUT: Final = {"bf16": 0, "fp16": 1}
"""``QmProblem.out`` by the format of y."""

STATUS: Final = {
    1: "a pointer that must be given is null",
    2: "an address breaks the rule of the TMA unit (multiples of 16 bytes)",
    3: "a row stride is too short, or no multiple of what the TMA unit needs",
    4: "N or K is not positive, M is negative, or one is too large",
    5: "an option or a combination that the library does not have",
    6: "the problem is of another version",
    7: "CUTLASS refused the arguments",
    8: "the driver refused a TMA descriptor",
}
"""What the status codes of ``qm_plan`` and ``qm_run`` say."""

CUDA: Final = 1000
"""From here on a status is this plus the CUDA runtime's error number."""
