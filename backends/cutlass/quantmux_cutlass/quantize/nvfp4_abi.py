"""What the NVFP4 quantizer's library is told of a config: the mirror of ``QmQuantizeProblem``."""

from __future__ import annotations

import ctypes
from typing import Final


class Problem(ctypes.Structure):
    """``QmQuantizeProblem``; its fields are explained in ``csrc/quantize/nvfp4_call.cuh``."""

    _fields_ = (
        ("bytes", ctypes.c_uint32),
        ("abi", ctypes.c_uint32),
        ("n", ctypes.c_int32),
        ("padded_n", ctypes.c_int32),
        ("rows", ctypes.c_int32),
        ("in_dtype", ctypes.c_int32),
        ("layout", ctypes.c_int32),
        ("device", ctypes.c_int32),
        ("sms", ctypes.c_int32),
        ("pdl", ctypes.c_int32),
        ("option", ctypes.c_int32 * 2),
    )


IN_DTYPES: Final = {"bf16": 0, "fp16": 1, "fp32": 2}
"""``in_dtype`` of plain inputs."""

LAYOUTS: Final = {"row_major": 0, "swizzled_128x4": 1, "swizzled_8x4": 2}
"""``layout`` of scales."""
