"""What the table of the CUTLASS backend measures: the cases of every line, and who else runs."""

from __future__ import annotations

from functools import partial
from typing import Final

import cutlass_quantizers
from cutlass_padded import PaddedByTorch
from speed_sections import Section, linears
from triton_twins import QuantizeThenPad

from quantmux.bench.peers.deepgemm import DeepGemm
from quantmux.bench.peers.torch_scaled_mm import TorchScaledMm
from quantmux.bench.peers.vllm_ops import VllmScaledMm

SHAPES: Final = (
    (576, 7168),
    (1536, 7168),
    (2112, 7168),
    (4096, 7168),
    (7168, 2048),
    (4096, 4096),
    (18432, 7168),
)
"""N×K of DeepSeek V3's layers, and one of 132 MB."""

PADDED: Final = ((2048, 1368), (1280, 3420), (1000, 1000))
"""N×K of which K, or both, is no multiple of 16: DeepSeek-Coder-V2-Lite on 8 GPUs, Qwen2.5-VL."""

ALIGNED: Final = ((2048, 1376), (1280, 3424), (1008, 1008))
"""The next multiples of 16, where nothing is padded."""

FEW: Final = (1, 16, 64)
MANY: Final = (1024, 4096)
LARGEST: Final = 8192

_ROW_FEW: Final = (
    "cutlass/linear_fp8_small_m",
    "cutlass/linear_fp8",
    "triton/linear_fp8_small_m",
)
_ROW_MANY: Final = ("cutlass/linear_fp8", "cutlass/linear_fp8_collective", "triton/linear_fp8")
_BLOCK_FEW: Final = (
    "cutlass/linear_fp8_block_small_m",
    "cutlass/linear_fp8_block",
    "triton/linear_fp8_block_small_m",
)
_BLOCK_MANY: Final = (
    "cutlass/linear_fp8_block",
    "cutlass/linear_fp8_block_collective",
    "triton/linear_fp8_block",
)


def sections() -> tuple[Section, ...]:
    """Give the lines in the order of their importance: a budget that ends cuts the last."""
    slow, fast = partial(TorchScaledMm, fast=False), partial(TorchScaledMm, fast=True)
    deepgemm = (DeepGemm, partial(DeepGemm, pdl=True))
    return (
        Section(
            "row",
            _ROW_FEW,
            linears("fp8_channel_token", SHAPES, FEW),
            (VllmScaledMm, slow, fast),
        ),
        Section(
            "row-128",
            _ROW_MANY,
            linears("fp8_channel_token", SHAPES, (128,)),
            (VllmScaledMm, slow, fast),
        ),
        Section("block", _BLOCK_FEW, linears("fp8_block128", SHAPES, FEW), (*deepgemm, fast)),
        Section(
            "row-large",
            _ROW_MANY,
            linears("fp8_channel_token", SHAPES, MANY),
            (VllmScaledMm, fast),
        ),
        Section(
            "padded",
            ("cutlass/linear_fp8_small_m", "cutlass/linear_fp8"),
            linears("fp8_channel_token", (*PADDED, *ALIGNED), (1, 16, 256)),
            (partial(PaddedByTorch, "call"), partial(PaddedByTorch, "load")),
            twins=False,
            whole=True,
        ),
        Section(
            "block-large", _BLOCK_MANY, linears("fp8_block128", SHAPES, MANY), (*deepgemm, fast)
        ),
        Section(
            "nvfp4-quantize",
            ("cutlass/quantize_nvfp4*", "triton/quantize_nvfp4*"),
            cutlass_quantizers.cases(),
            (QuantizeThenPad,),
        ),
        Section(
            "largest",
            (*_ROW_MANY, *_BLOCK_MANY),
            (
                *linears("fp8_channel_token", ((4096, 4096), (18432, 7168)), (LARGEST,)),
                *linears("fp8_block128", ((4096, 4096), (18432, 7168)), (LARGEST,)),
            ),
            (VllmScaledMm, *deepgemm, fast),
        ),
    )
