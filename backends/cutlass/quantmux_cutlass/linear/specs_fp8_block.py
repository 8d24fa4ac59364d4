"""Specs of the block-scaled FP8 linears that are made for many tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux.capability.capability import Capability, OperandOffer, SchemeOffer
from quantmux.config.formats import ElementFormat
from quantmux.config.operands import Block
from quantmux.registry.kernel_spec import KernelSpec
from quantmux_cutlass.linear.fp8_block_collective_config import collective_us
from quantmux_cutlass.linear.fp8_block_config import expected_us

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
    "linear/fp8_block_config.py",
    "linear/fp8_block_measured.py",
    "linear/fp8_block_tile.py",
    "linear/units_fp8_block.py",
    "csrc/abi.cuh",
)
_BY_HAND: Final = (
    *_HOST,
    "linear/fp8_block.py",
    "csrc/linear/block_checks.cuh",
    "csrc/linear/block_load.cuh",
    "csrc/linear/block_order.cuh",
    "csrc/linear/block_store.cuh",
    "csrc/linear/block_sums.cuh",
    "csrc/linear/block_tile.cuh",
    "csrc/linear/fp8_block_tiles.cu",
    "csrc/linear/hopper.cuh",
    "csrc/linear/wgmma.cuh",
)
_FROM_CUTLASS: Final = (
    *_HOST,
    "linear/fp8_block_collective.py",
    "linear/fp8_block_collective_config.py",
    "csrc/linear/collective_epilogue.cuh",
    "csrc/linear/collective_launch.cuh",
    "csrc/linear/collective_pdl.cuh",
    "csrc/linear/fp8_block_collective.cu",
    "csrc/linear/on_device.cuh",
)


def _reads(block: Block, *layouts: str) -> OperandOffer:
    return OperandOffer(
        element=ElementFormat.FP8_E4M3,
        block=block,
        roundings=("none", "pow2"),
        scale_modes=("dynamic", "static"),
        layouts=layouts,
    )


_BLOCK: Final = Capability(
    arch="90a",
    schemes=(
        SchemeOffer(
            weight=_reads(Block(rows=128, cols=128), "row_major"),
            activation=_reads(
                Block(rows=1, cols=128), "col_major_aligned4", "col_major", "row_major"
            ),
        ),
    ),
    takes_padded_n=True,
    pad_k_to=16,
    in_dtypes=("bf16", "fp16", "fp32"),
    out_dtypes=("bf16", "fp16"),
    takes_bias=True,
    accumulations=("fast", "exact"),
    output_row_multiple=1,
    weight_layout="cutlass:padded_k16",
    canonical_if_aligned=True,
    launches=1,
    tags={"cuda_graph", "deterministic"},
)


_COLLECTIVE: Final = _BLOCK.replace(
    schemes=(
        SchemeOffer(
            weight=_reads(Block(rows=128, cols=128), "row_major"),
            activation=_reads(Block(rows=1, cols=128), "col_major_aligned4"),
        ),
    ),
    m_min=65,
    output_row_multiple=8,
)


def _us(config: LayerConfig, device: DeviceProfile, m: int) -> float:
    return expected_us(config, device, m)


def _collective_us(config: LayerConfig, device: DeviceProfile, m: int) -> float:
    return collective_us(config, device, m)


def specs() -> tuple[KernelSpec, ...]:
    """Give the spec of the tiles by hand and that of CUTLASS's."""
    return (
        KernelSpec(
            id="cutlass/linear_fp8_block",
            op="linear",
            capability=_BLOCK,
            load="quantmux_cutlass.linear.fp8_block:kernel",
            sources=_BY_HAND,
            summary="FP8 1x128 by 128x128 scales, promoted every 128 of K; hand-written tiles",
            estimate=_us,
        ),
        KernelSpec(
            id="cutlass/linear_fp8_block_collective",
            op="linear",
            capability=_COLLECTIVE,
            load="quantmux_cutlass.linear.fp8_block_collective:kernel",
            sources=_FROM_CUTLASS,
            summary="FP8 1x128 by 128x128 scales; CUTLASS's 128x128 tile, stored by TMA",
            estimate=_collective_us,
        ),
    )
