"""What the functions of a compiled library take and give, for ctypes: one table per interface."""

from __future__ import annotations

from ctypes import c_char_p, c_int, c_int64, c_size_t, c_void_p
from typing import Any, Final

Signature = tuple[Any, tuple[Any, ...]]
"""Result and arguments of one function."""

ALWAYS: Final[dict[str, Signature]] = {"qm_abi": (c_int, ()), "qm_about": (c_char_p, ())}
"""What every library exports: the loader asks these two before anything else."""

_PLAN: Final[dict[str, Signature]] = {
    "qm_plan_bytes": (c_size_t, ()),
    "qm_plan": (c_int, (c_void_p, c_void_p)),
}

_P, _I = c_void_p, c_int64

INTERFACES: Final[dict[str, dict[str, Signature]]] = {
    # plan, x, x_scales, y, m, stream; qm_run_at has a row stride after x and one after y
    "linear": _PLAN
    | {
        "qm_run": (c_int, (_P, _P, _P, _P, _I, _P)),
        "qm_run_at": (c_int, (_P, _P, _I, _P, _P, _I, _I, _P)),
    },
    # the same with x_global after x_scales: NVFP4
    "linear_global": _PLAN
    | {
        "qm_run": (c_int, (_P, _P, _P, _P, _P, _I, _P)),
        "qm_run_at": (c_int, (_P, _P, _I, _P, _P, _P, _I, _I, _P)),
    },
    # NVFP4 quantizer; plan, x, its strides, data, scales, given g, written g, parts, m, stream
    "quantize": _PLAN
    | {
        "qm_search_parts": (c_int64, (_P,)),
        "qm_quantize": (c_int, (_P, _P, _I, _I, _P, _P, _P, _P, _P, _I, _P)),
    },
    # nothing more that the loader knows of: the user of the library declares it on ``.handle``
    "own": {},
}
"""Functions by name, for each name that `Unit.interface` may have."""
