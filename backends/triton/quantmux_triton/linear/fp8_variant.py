"""Compiled variants of the large-M products: what is fixed at compile time, and what is passed."""

from __future__ import annotations

from dataclasses import dataclass, field
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

    @property
    def kind(self) -> str:
        """Under which kind measured choices are kept: what decides about the time of a step."""
        if self.is_block:
            return "block128"
        if self.element == torch.int8:
            return "int8"
        return "exact" if self.promote else "fast"


@dataclass(frozen=True, slots=True)
class Variant:
    """Everything that one compiled variant depends on.

    Attributes:
        numbers: What the product means.
        tile: How it is cut up, and in which form.
        store_tma: y is written through a TMA descriptor; else by pointers.
        aligned: Rows of x and W are multiples of 16 bytes (pointers only; TMA needs it).
        mask_k: K is no multiple of 128 (pointers only; TMA fills with zeros).
        pdl: Waits for the kernel before it in the device, not at its launch.
    """

    numbers: Numbers
    tile: Tile
    store_tma: bool
    aligned: bool = True
    mask_k: bool = False
    pdl: bool = False

    def function(self) -> Any:
        """Give the device function."""
        if self.tile.form == "divided":
            from quantmux_triton.linear.fp8_hopper_kernel import gemm_hopper

            return gemm_hopper
        if self.numbers.is_block:
            return block_gemm_tma if self.tile.form == "tma" else block_gemm_pointer
        return scaled_gemm_tma if self.tile.form == "tma" else scaled_gemm_pointer

    def constexprs(self) -> dict[str, Any]:
        """Give what is fixed at compile time, by the function's argument."""
        tile, numbers = self.tile, self.numbers
        found: dict[str, Any] = {
            "GROUP_M": tile.group_m,
            "HAS_BIAS": numbers.has_bias,
            "PDL": self.pdl,
        }
        if tile.form == "divided":
            from quantmux_triton.linear.fp8_hopper import constexprs

            return found | constexprs(self)
        found |= {
            "BLOCK_M": tile.block_m,
            "BLOCK_N": tile.block_n,
            "SUBTILES": tile.subtiles,
            "Y_DTYPE": _TL_DTYPES[numbers.out],
        }
        if tile.form == "tma":
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
        tile = self.tile
        # of the divided form the groups of the second four and the loading warp come on top
        found: dict[str, Any] = {"num_warps": 4 if tile.form == "divided" else tile.warps}
        if tile.form != "divided":
            found |= {"num_stages": tile.stages, "enable_fp_fusion": True}
        if tile.registers:
            found["maxnreg"] = tile.registers
        if self.pdl:
            found["launch_pdl"] = True
        return found


@dataclass(slots=True)
class Weight:
    """A weight [N, K] and the descriptors of it that were needed so far.

    Attributes:
        data: Codes, contiguous.
        n: Rows.
        k: Columns.
        scales: fp32 scales, contiguous.
        bias: fp32 [N]; the scales again where there is none.
        descriptors: (form, rows of a box) → descriptor.
    """

    data: torch.Tensor
    n: int
    k: int
    scales: torch.Tensor
    bias: torch.Tensor
    descriptors: dict[tuple[str, int], Any] = field(default_factory=dict)

    def descriptor(self, form: str, rows: int) -> Any:
        """Give the descriptor for loads of [rows, 128]."""
        found = self.descriptors.get((form, rows))
        if found is None:
            box = [rows, BLOCK_K]
            found = _descriptor(form, self.data, [self.n, self.k], self.k, box)
            self.descriptors[form, rows] = found
        return found


def arguments(
    variant: Variant,
    x: torch.Tensor,
    x_row: int,
    scale_a: torch.Tensor,
    weight: Weight,
    y: torch.Tensor,
    y_row: int,
) -> tuple[Any, ...]:
    """Give the runtime arguments of a launch.

    Args:
        variant: The variant.
        x: Codes; row i begins ``i · x_row`` elements behind the first.
        x_row: Elements between rows of x.
        scale_a: fp32 scales of x.
        weight: W.
        y: Output [M, N].
        y_row: Elements between rows of y.
    """
    tile, form = variant.tile, variant.tile.form
    (m, n), k = y.shape, weight.k
    scales: tuple[int, ...] = ()
    if variant.numbers.is_block:
        scales = (scale_a.stride(0), scale_a.stride(1))
    rest = (scale_a, weight.scales, weight.bias, m, n, k)
    if form == "pointer":
        return (x, weight.data, y, *rest, x_row, y_row, *scales)
    if form == "tma":
        y_box = [tile.block_m, tile.block_n // tile.parts // tile.subtiles]
        return (
            _descriptor(form, x, [m, k], x_row, [tile.block_m, BLOCK_K]),
            weight.descriptor(form, tile.block_n // tile.parts),
            _descriptor(form, y, [m, n], y_row, y_box) if variant.store_tma else y,
            *rest,
            y_row,
            *scales,
        )
    first = tile.block_n - tile.second
    return (
        _descriptor(form, x, [m, k], x_row, [64, BLOCK_K]),
        weight.descriptor(form, first),
        weight.descriptor(form, tile.second or first),
        _descriptor(form, y, [m, n], y_row, [64, 64]) if variant.store_tma else y,
        *rest,
        y_row,
        *(scales or (0, 0)),
    )


def _descriptor(form: str, base: torch.Tensor, shape: list[int], row: int, box: list[int]) -> Any:
    """Give a TMA descriptor of a matrix whose rows lie ``row`` elements apart.

    What Triton checks, of the box and of alignment, it has checked for the first descriptor of a
    kind, or `LargeMLinear` asks of every call: to check it again would take longer than the rest
    of a launch.
    """
    key = (form, base.dtype, box[0], box[1])
    pattern = _PATTERNS.get(key)
    if pattern is None:
        if form == "divided":
            from quantmux_triton.linear.fp8_hopper import descriptor

            first = descriptor(base, shape, row, box)
        else:
            first = TensorDescriptor(base, shape, [row, 1], box)
        # not the tensor itself, which is the caller's
        kept = {name: value for name, value in vars(first).items() if name != "base"}
        _PATTERNS[key] = (type(first), kept)
        return first
    kind, fields = pattern
    made: Any = object.__new__(kind)
    made.__dict__.update(fields, base=base, shape=shape, strides=[row, 1])
    return made


_PATTERNS: Final[dict[tuple[Any, ...], tuple[type, dict[str, Any]]]] = {}
"""Form, dtype and box → class of the descriptor and its fields."""


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
        """Give arguments of the right types, of a product of 16 by 16 by 16."""
        numbers = self.variant.numbers
        codes = torch.empty((16, 16), dtype=torch.uint8, device=device).view(numbers.element)
        y = torch.empty((16, 16), dtype=numbers.out, device=device)
        scales = torch.empty((16, 1), dtype=torch.float32, device=device)
        weight = Weight(codes, 16, 16, scales, scales)
        return arguments(self.variant, codes, 16, scales, weight, y, 16)


@cache
def launcher_of(variant: Variant) -> GemmLauncher:
    """Give the one launcher of a variant in this process."""
    made = GemmLauncher(variant)
    _FUNCTIONS.add(made.fn)
    return made


_FUNCTIONS: Final[set[Any]] = set()


def compiled_variants() -> int:
    """Give how many variants of these products were compiled in this process."""
    return compiled_count(*_FUNCTIONS)
