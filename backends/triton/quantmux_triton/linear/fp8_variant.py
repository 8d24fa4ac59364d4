"""Compiled variants of the large-M products: what is fixed at compile time, and what is passed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import torch
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from quantmux_triton.launcher import Launcher, compiled_count
from quantmux_triton.linear.fp8_block_kernel import block_gemm_pointer, block_gemm_tma
from quantmux_triton.linear.fp8_config import BLOCK_K, Tile
from quantmux_triton.linear.fp8_kernel import scaled_gemm_pointer, scaled_gemm_tma

if TYPE_CHECKING:
    from quantmux.capability.arch import Arch
    from quantmux.registry.protocol import CompiledCode

_TL_DTYPES: Final = {
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
    torch.float32: tl.float32,
}


@dataclass(frozen=True, slots=True)
class Numbers:
    """What the product means, as far as device code depends on it.

    Attributes:
        element: dtype of x and W.
        out: dtype of y.
        has_bias: A bias, fp32 [N], is added.
        is_block: Scales 1 x 128 and 128 x 128 inside the sum; else the next two count.
        per_token: One scale a row of x, else one in all.
        per_channel: One scale a row of W, else one in all.
        promote: Every 128 products are added to an fp32 sum.
    """

    element: torch.dtype
    out: torch.dtype
    has_bias: bool
    is_block: bool = False
    per_token: bool = False
    per_channel: bool = False
    promote: bool = False


@dataclass(frozen=True, slots=True)
class Variant:
    """Everything that one compiled variant depends on.

    Attributes:
        numbers: What the product means.
        tile: How it is cut up.
        tma: x and W are read through TMA descriptors; else by pointers.
        store_tma: y is written through one; else by pointers.
        aligned: Rows of x and W are multiples of 16 bytes (pointers only; TMA needs it).
        mask_k: K is no multiple of 128 (pointers only; TMA fills with zeros).
        pdl: Waits for the kernel before it in the device, not at its launch.
    """

    numbers: Numbers
    tile: Tile
    tma: bool
    store_tma: bool
    aligned: bool = True
    mask_k: bool = False
    pdl: bool = False

    def function(self) -> Any:
        """Give the device function."""
        if self.numbers.is_block:
            return block_gemm_tma if self.tma else block_gemm_pointer
        return scaled_gemm_tma if self.tma else scaled_gemm_pointer

    def constexprs(self) -> dict[str, Any]:
        """Give what is fixed at compile time, by the function's argument."""
        tile, numbers = self.tile, self.numbers
        found: dict[str, Any] = {
            "BLOCK_M": tile.block_m,
            "BLOCK_N": tile.block_n,
            "SUBTILES": tile.subtiles,
            "GROUP_M": tile.group_m,
            "HAS_BIAS": numbers.has_bias,
            "Y_DTYPE": _TL_DTYPES[numbers.out],
            "PDL": self.pdl,
        }
        if self.tma:
            found |= {
                "PARTS": tile.parts,
                "FLATTEN": tile.flatten,
                "SPECIALIZE": False,
                "STORE_TMA": self.store_tma,
            }
        else:
            found |= {"ALIGNED": self.aligned, "MASK_K": self.mask_k}
        if not numbers.is_block:
            found |= {
                "BLOCK_K": BLOCK_K,
                "PROMOTE": numbers.promote,
                "PER_TOKEN": numbers.per_token,
                "PER_CHANNEL": numbers.per_channel,
                "SUM_DTYPE": tl.int32 if numbers.element == torch.int8 else tl.float32,
            }
        return found

    def options(self) -> dict[str, Any]:
        """Give the options of the compiler and of the launch."""
        found: dict[str, Any] = {
            "num_warps": self.tile.warps,
            "num_stages": self.tile.stages,
            "enable_fp_fusion": True,
        }
        if self.tile.registers:
            found["maxnreg"] = self.tile.registers
        if self.pdl:
            found["launch_pdl"] = True
        return found

    @property
    def box_x(self) -> list[int]:
        """Rows and columns that one load of x brings."""
        return [self.tile.block_m, BLOCK_K]

    @property
    def box_w(self) -> list[int]:
        """Rows and columns that one load of W brings."""
        return [self.tile.block_n // self.tile.parts, BLOCK_K]

    @property
    def box_y(self) -> list[int]:
        """Rows and columns that one store writes."""
        tile = self.tile
        return [tile.block_m, tile.block_n // tile.parts // tile.subtiles]


class GemmLauncher(Launcher):
    """The launcher of a variant, which knows stand-ins for its arguments by itself."""

    def __init__(self, variant: Variant) -> None:
        super().__init__(variant.function(), variant.constexprs(), variant.options())
        self.variant = variant

    def compile_here(self, device: torch.device) -> None:
        """Compile and load for the current GPU, if that has not been done."""
        self.warm(*self._stand_ins(device))

    def machine_code(self, arch: Arch) -> CompiledCode:
        """Give the machine code for a GPU that need not be here.

        Raises:
            BuildError: As of `quantmux.testing.compile_triton`.
        """
        return self.compile_for(arch, *self._stand_ins(torch.device("cpu")))

    def _stand_ins(self, device: torch.device) -> tuple[Any, ...]:
        """Give arguments of the right types and of no use."""
        variant, numbers = self.variant, self.variant.numbers
        x: Any = numbers.element
        w: Any = numbers.element
        y: Any = numbers.out
        if variant.tma:
            made = torch.empty(16, dtype=torch.uint8, device=device)
            x = _descriptor(made.view(numbers.element), variant.box_x)
            w = _descriptor(made.view(numbers.element), variant.box_w)
            if variant.store_tma:
                y = _descriptor(made.view(numbers.out), variant.box_y)
        names = [name for name in self.fn.arg_names if name not in self.constexprs]
        fp32 = torch.float32
        return (x, w, y, fp32, fp32, fp32, *(16 for _ in names[6:]))


def _descriptor(base: torch.Tensor, box: list[int]) -> Any:
    """Give a descriptor of one box that begins at ``base``; nothing is read."""
    return TensorDescriptor(base, list(box), [box[1], 1], box)


@cache
def launcher_of(variant: Variant) -> GemmLauncher:
    """Give the one launcher of a variant in this process."""
    return GemmLauncher(variant)


def compiled_variants() -> int:
    """Give how many variants of these products were compiled in this process."""
    return compiled_count(scaled_gemm_tma, scaled_gemm_pointer, block_gemm_tma, block_gemm_pointer)
