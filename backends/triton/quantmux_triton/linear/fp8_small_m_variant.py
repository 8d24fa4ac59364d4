"""Compiled variants of the products for few tokens: what is fixed at compile time, and passed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.ops.quantized import DTYPES
from quantmux_triton.interpreter import interpreting
from quantmux_triton.launcher import Launcher, compiled_count
from quantmux_triton.linear.fp8_block_small_m_kernel import fp8_block_small_m
from quantmux_triton.linear.fp8_small_m_config import cut_for
from quantmux_triton.linear.fp8_small_m_kernel import fp8_small_m

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LinearConfig
    from quantmux_triton.linear.fp8_small_m_config import Cut

ALIGNMENT: Final = 16
"""Bytes of an asynchronous copy, and of what TMA wants of an address and of a row."""

_MODES: Final = {"row": 0, "row_exact": 1, "block": 2}
_BOX_K: Final = 128

_MOST_SCALES: Final = 64
"""Blocks of a split whose scales are kept in shared memory: 16 KiB for 64 tokens."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a class of M launches.

    Attributes:
        cut: How the product is cut up.
        launcher: The compiled variant.
        tiles_n: Tiles along N.
        out: dtype that is stored.
        stand_ins: Arguments of the right types and of no use.
    """

    cut: Cut
    launcher: Launcher
    tiles_n: int
    out: torch.dtype
    stand_ins: tuple[Any, ...]


def plan_for(config: LinearConfig, device: DeviceProfile, m: int, *, aligned: bool = True) -> Plan:
    """Give what calls with M in the class of ``m`` launch on a device.

    Args:
        config: The layer.
        device: Where it runs.
        m: Tokens.
        aligned: x and W begin at multiples of 16 bytes, as TMA wants it.
    """
    kind, n, k = kind_of(config), config.n, config.k
    cut = cut_for(device, kind, n=n, k=k, m=m)
    if cut.hopper and not (aligned and k % ALIGNMENT == 0 and cut.scales(k) <= _MOST_SCALES):
        cut = cut.without_tma()
    # the interpreter's cast to bf16 cuts off; torch rounds what it gives in fp32
    out = torch.float32 if interpreting() else DTYPES[config.out_dtype]
    launcher = _launcher(*_hopper(config, cut) if cut.hopper else _portable(config, cut))
    fp32 = torch.float32
    counters = torch.int32 if cut.splits > 1 else fp32
    given = (fp32, fp32, fp32, out, fp32, counters)
    code: tuple[Any, Any]
    if cut.hopper:
        code, integers = _boxes(cut), 7
    else:
        element = fp32 if interpreting() else torch.float8_e4m3fn
        code, integers = (element, element), 8 if kind == "block" else 6
    return Plan(cut, launcher, -(-n // cut.block_n), out, (*code, *given, *[2] * integers))


def kind_of(config: LinearConfig) -> str:
    """Give the product's name in the measured choices: ``row``, ``row_exact`` or ``block``."""
    if config.scheme.weight.block.kind == "block":
        return "block"
    return "row_exact" if config.scheme.accumulation == "exact" else "row"


def box_of(codes: torch.Tensor, rows: int, k: int, stride: int, box_rows: int) -> Any:
    """Give the TMA descriptor of a matrix of codes, read in boxes of 128 of K.

    Args:
        codes: e4m3, aligned to 16 bytes.
        rows: Its rows; what lies beyond is read as zeros.
        k: Its columns, likewise.
        stride: Elements from a row to the next, a multiple of 16.
        box_rows: Rows of a box.
    """
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

    layout = _box_layout(box_rows)
    return TensorDescriptor(codes, [rows, k], [stride, 1], [box_rows, _BOX_K], layout)


def compiled_variants() -> int:
    """Give how many variants of these products were compiled in this process."""
    return compiled_count(*_functions())


@cache
def _functions() -> tuple[Any, ...]:
    if interpreting():
        return (fp8_small_m, fp8_block_small_m)
    from quantmux_triton.linear.fp8_small_m_hopper_kernel import fp8_small_m_hopper

    return (fp8_small_m, fp8_block_small_m, fp8_small_m_hopper)


@cache
def _box_layout(rows: int) -> Any:
    from triton.experimental.gluon import language as gl

    return gl.NVMMASharedLayout.get_default_for([rows, _BOX_K], gl.float8e4nv)


def _boxes(cut: Cut) -> tuple[Any, Any]:
    """Give descriptors of nothing: what a variant is compiled for."""
    codes = torch.empty(1024, dtype=torch.uint8, device="cpu").view(torch.float8_e4m3fn)
    return (
        box_of(codes, cut.block_n, _BOX_K, _BOX_K, cut.block_n),
        box_of(codes, cut.block_m, _BOX_K, _BOX_K, cut.block_m),
    )


def _numbers(config: LinearConfig, cut: Cut) -> dict[str, Any]:
    """Give the compile-time values that all forms know."""
    activation = config.scheme.activation
    return {
        "BM": cut.block_m,
        "BY_TOKEN": activation is not None and activation.block.kind != "tensor",
        "BY_CHANNEL": config.scheme.weight.block.kind != "tensor",
        "HAS_BIAS": config.bias,
        "IS_SPLIT": cut.splits > 1,
        "PDL": cut.pdl,
        "AT_ONCE": cut.at_once,
    }


def _portable(config: LinearConfig, cut: Cut) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    kind, found = kind_of(config), _numbers(config, cut)
    found |= {
        "ROWS_ARE_16": config.k % ALIGNMENT == 0,
        "EVEN_K": config.k % cut.block_k == 0,
        "BN": cut.block_n,
        "PREFETCH": cut.prefetch,
        "IS_WIDE": interpreting(),
    }
    options = {"num_warps": cut.warps, "num_stages": cut.stages, "launch_pdl": cut.pdl}
    options["enable_fp_fusion"] = True
    if kind == "block":
        del found["BY_TOKEN"], found["BY_CHANNEL"]
        return fp8_block_small_m, found | {"BLOCKS": cut.block_k // 128}, options
    found |= {"BK": cut.block_k, "EXACT": kind == "row_exact"}
    return fp8_small_m, found, options


def _hopper(config: LinearConfig, cut: Cut) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    from quantmux_triton.linear.fp8_small_m_hopper_kernel import fp8_small_m_hopper

    kind = kind_of(config)
    found = _numbers(config, cut) | {
        "MODE": _MODES[kind],
        "STAGES": cut.stages,
        "BLOCKS": cut.block_k // _BOX_K,
        "SCALES": cut.scales(config.k) if kind == "block" else 1,
    }
    options = {"num_warps": cut.warps, "launch_pdl": cut.pdl, "enable_fp_fusion": True}
    return fp8_small_m_hopper, found, options


_launchers: Final[dict[Any, Launcher]] = {}


def _launcher(function: Any, constexprs: dict[str, Any], options: dict[str, Any]) -> Launcher:
    """Give the one launcher of a variant in this process."""
    key = (function, tuple(sorted(constexprs.items())), tuple(sorted(options.items())))
    found = _launchers.get(key)
    if found is None:
        found = _launchers.setdefault(key, Launcher(function, constexprs, options))
    return found
