"""What the table of the Triton backend measures: the cases of every line, and who else runs."""

from __future__ import annotations

from functools import partial

from speed_sections import Section, linears
from triton_twins import OneWarpPerHead, QuantizeThenPad

from quantmux.bench.peers.deepgemm import DeepGemm
from quantmux.bench.peers.torch_bf16 import TorchBf16
from quantmux.bench.peers.torch_scaled_mm import TorchScaledMm
from quantmux.bench.peers.vllm_ops import VllmScaledMm
from quantmux.bench.peers.vllm_producers import VllmGroupQuant, VllmSiluMulQuant
from quantmux.bench.rows import BenchCase
from quantmux.config import (
    InverseRopeQuantizeConfig,
    LayerConfig,
    QuantizeConfig,
    SiluMulQuantizeConfig,
)

DECODE = ((576, 7168), (1536, 7168), (2112, 7168), (4096, 7168), (7168, 2048), (4096, 4096))
PREFILL = ((2112, 7168), (4096, 7168), (7168, 2048), (4096, 4096), (24576, 1536), (7168, 16384))
WEIGHTS = ((28672, 4096), (57344, 8192), (8192, 28672))
DECODE_M = (1, 16, 64)


def sections() -> tuple[Section, ...]:
    """Give the lines in the order of their importance: a budget that ends cuts the last."""
    slow, fast = (lambda: TorchScaledMm(fast=False)), (lambda: TorchScaledMm(fast=True))
    deepgemm = (DeepGemm, lambda: DeepGemm(pdl=True))
    return (
        Section(
            "block",
            ("triton/linear_*block*",),
            linears("fp8_block128", DECODE, DECODE_M),
            (*deepgemm, fast),
        ),
        Section(
            "row",
            ("triton/linear_fp8*",),
            linears("fp8_channel_token", DECODE, DECODE_M),
            (VllmScaledMm, slow),
        ),
        Section(
            "w4a16",
            ("triton/linear_nvfp4*",),
            linears("nvfp4_w4a16", WEIGHTS, (1, 16)),
            (TorchBf16,),
        ),
        Section(
            "group",
            ("triton/*",),
            tuple(
                BenchCase(QuantizeConfig(operand="fp8_group128", n=n, layout=layout), m)
                for layout in ("row_major", "col_major_aligned4")
                for m, n in ((16, 7168), (4096, 7168), (8192, 7168), (16384, 8192))
            ),
            (VllmGroupQuant,),
        ),
        Section(
            "silu",
            ("triton/*",),
            tuple(
                BenchCase(SiluMulQuantizeConfig(operand="fp8_group128", n=n), m)
                for m, n in ((16, 4096), (2048, 4096), (2048, 14336), (8192, 14336))
            ),
            tuple(partial(VllmSiluMulQuant, way) for way in ("fused", "two", "torch")),
        ),
        Section(
            "rope",
            ("triton/*",),
            tuple(
                BenchCase(rope(heads, layout), m)
                for layout in ("col_major_aligned4", "packed_pow2")
                for m, heads in ((512, 128), (1024, 64), (4096, 16), (4096, 64), (4096, 128))
            ),
            (OneWarpPerHead,),
        ),
        Section("nvfp4", ("triton/*",), nvfp4_cases(), (QuantizeThenPad,)),
        Section(
            "row-large",
            ("triton/linear_fp8",),
            linears("fp8_channel_token", PREFILL, (2048, 4096)),
            (VllmScaledMm, fast),
        ),
        Section(
            "block-large",
            ("triton/linear_fp8_block",),
            linears("fp8_block128", PREFILL, (2048, 4096)),
            (*deepgemm, fast),
        ),
    )


def rope(heads: int, layout: str) -> LayerConfig:
    """Give the inverse RoPE of DeepSeek V4's attention output with so many heads."""
    return InverseRopeQuantizeConfig(
        heads=heads, head_dim=512, rope_dim=64, groups=8, layout=layout
    )


def nvfp4_cases() -> tuple[BenchCase, ...]:
    """Give NVFP4 quantization: large, large with padding beside without, small with padding.

    By a given global scale, in one launch, and once by one found on the way, in two.
    """

    def case(
        n: int,
        padded_n: int,
        m: int,
        layout: str = "swizzled_128x4",
        operand: str = "nvfp4_static",
    ) -> BenchCase:
        config = QuantizeConfig(operand=operand, n=n, padded_n=padded_n, layout=layout)
        return BenchCase(config, m)

    layouts = ("swizzled_128x4", "row_major")
    large = [case(7168, 7168, m, layout) for layout in layouts for m in (4096, 8192)]
    padded = [case(7152, 7168, m) for m in (1, 8, 32, 128, 4096, 8192)]
    return (*large, *padded, case(7168, 7168, 4096, operand="nvfp4"))
