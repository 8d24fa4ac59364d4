"""Specs of the FP8 linears with tensor or row scales that are made for many tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux.capability.capability import Capability, OperandOffer, SchemeOffer
from quantmux.config.formats import ElementFormat
from quantmux.config.operands import FULL, Block
from quantmux.registry.kernel_spec import KernelSpec
from quantmux_cutlass.linear import fp8_collective_config
from quantmux_cutlass.linear.fp8_collective_config import M_MIN
from quantmux_cutlass.linear.fp8_config import expected_us

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LayerConfig

_HOST: Final = (
    "abi.py",
    "native.py",
    "units.py",
    "linear/__init__.py",
    "linear/bound.py",
    "linear/choice.py",
    "linear/consumer.py",
    "linear/layer.py",
    "linear/outputs.py",
    "linear/padding.py",
    "csrc/abi.cuh",
    "csrc/linear/on_device.cuh",
)
_SHARED: Final = (
    *_HOST,
    "linear/fp8_config.py",
    "linear/fp8_forms.py",
    "linear/units_fp8.py",
    "linear/units_fp8_collective.py",
    "csrc/linear/block_order.cuh",
    "csrc/linear/block_store.cuh",
    "csrc/linear/fp8_tiles.cu",
    "csrc/linear/hopper.cuh",
    "csrc/linear/row_checks.cuh",
    "csrc/linear/row_split.cuh",
    "csrc/linear/row_store.cuh",
    "csrc/linear/row_tile.cuh",
    "csrc/linear/wgmma.cuh",
)
_COLLECTIVE_SOURCES: Final = (
    *_HOST,
    "linear/fp8_collective.py",
    "linear/fp8_collective_config.py",
    "linear/units_fp8_collective.py",
    "csrc/linear/collective_epilogue.cuh",
    "csrc/linear/collective_fp8.cuh",
    "csrc/linear/collective_launch.cuh",
    "csrc/linear/collective_pdl.cuh",
    "csrc/linear/fp8_collective.cu",
)


def _reads(block: Block, layout: str) -> OperandOffer:
    return OperandOffer(
        element=ElementFormat.FP8_E4M3,
        block=block,
        roundings=("none", "pow2"),
        scale_modes=("dynamic", "static"),
        layouts=(layout,),
    )


def _one_scale_a_row() -> tuple[SchemeOffer, ...]:
    """Give all pairs of one scale a row and one scale in all."""
    row = _reads(Block(rows=1, cols=FULL), "row_major")
    tensor = _reads(Block(rows=FULL, cols=FULL), "scalar")
    return tuple(SchemeOffer(weight=w, activation=x) for w in (row, tensor) for x in (row, tensor))


_FP8: Final = Capability(
    arch="90a",
    schemes=_one_scale_a_row(),
    takes_padded_n=True,
    takes_padded_m=True,
    pad_k_to=16,
    out_dtypes=("bf16", "fp16"),
    in_dtypes=("bf16", "fp16", "fp32"),
    takes_bias=True,
    accumulations=("fast", "exact"),
    output_row_multiple=8,
    weight_layout="cutlass:padded_k16",
    canonical_if_aligned=True,
    launches=1,
    tags={"cuda_graph", "deterministic"},
)
_DIRECT: Final = _FP8.replace(output_row_multiple=1)
_COLLECTIVE: Final = _FP8.replace(accumulations=("fast",), m_min=M_MIN)

_UNALIGNED: Final = 1.1
"""Stores of two bytes instead of sixteen, where N is no multiple of 8."""


def _direct_us(config: LayerConfig, device: DeviceProfile, m: int) -> float:
    return _UNALIGNED * expected_us(config, device, m)


def specs() -> tuple[KernelSpec, ...]:
    """Give the tiles of our own, with rows of y in 16 bytes and contiguous, and CUTLASS's."""
    return (
        KernelSpec(
            id="cutlass/linear_fp8",
            op="linear",
            capability=_FP8,
            load="quantmux_cutlass.linear.fp8:kernel",
            sources=("linear/fp8.py", *_SHARED),
            summary="FP8, one scale a tensor or a row, many tokens; persistent tiles by TMA",
            estimate=expected_us,
        ),
        KernelSpec(
            id="cutlass/linear_fp8_direct",
            op="linear",
            capability=_DIRECT,
            load="quantmux_cutlass.linear.fp8_direct:kernel",
            sources=("linear/fp8_direct.py", *_SHARED),
            summary="FP8, one scale a tensor or a row, many tokens; y contiguous for any N",
            estimate=_direct_us,
        ),
        KernelSpec(
            id="cutlass/linear_fp8_collective",
            op="linear",
            capability=_COLLECTIVE,
            load="quantmux_cutlass.linear.fp8_collective:kernel",
            sources=_COLLECTIVE_SOURCES,
            summary="FP8, one scale a tensor or a row, many tokens; CUTLASS's CollectiveBuilder",
            estimate=fp8_collective_config.expected_us,
        ),
    )
