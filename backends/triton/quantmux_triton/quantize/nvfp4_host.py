"""What the kernels that make NVFP4 have in common on the host: plans, checks, one launch or two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.errors import ConfigError
from quantmux.ops.checks import check_matrix, check_scalar, check_scales_given
from quantmux.ops.quantized import DTYPES
from quantmux_triton.arithmetic import converts_fp8
from quantmux_triton.interpreter import interpreting
from quantmux_triton.quantize.nvfp4_config import (
    AMAX_ELEMENTS,
    AMAX_PROGRAMS,
    AMAX_WARPS,
    Tile,
    Tiles,
    tiles,
)
from quantmux_triton.quantize.nvfp4_kernel import nvfp4_amax_kernel, nvfp4_kernel
from quantmux_triton.quantize.nvfp4_outputs import Outputs
from quantmux_triton.quantize.outputs import require_on
from quantmux_triton.quantize.variants import Variants, arch_here, has_pdl

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux.capability.arch import Arch
    from quantmux.capability.device import DeviceProfile
    from quantmux.config.layers import ProducerConfig
    from quantmux.ops.quantized import QuantizedTensor
    from quantmux.registry.protocol import CompiledCode
    from quantmux_triton.launcher import Launcher

LAYOUTS: Final = {"row_major": 0, "swizzled_128x4": 1, "swizzled_8x4": 2}
"""Scale layout → ``LAYOUT`` of the device functions."""

_FIRST_WITH_E2M1: Final = 100


@dataclass(frozen=True, slots=True)
class _Set:
    """The launchers of one source of the global scale."""

    few: Launcher
    many: Launcher
    any_strides: Launcher

    def all(self) -> tuple[Launcher, ...]:
        return tuple(dict.fromkeys((self.few, self.many, self.any_strides)))


@dataclass(frozen=True, slots=True)
class _Plan:
    """A config on an architecture."""

    outputs: Outputs
    tiles: Tiles
    given: _Set
    found: _Set | None
    amax: Launcher
    amax_any: Launcher
    amax_tile: tuple[int, int]


class NvFp4:
    """A kernel that makes NVFP4; see `quantmux.registry.protocol.Producer`.

    Args:
        kind: The config class of its op.
        op: Name of the op, for messages.
        silu: Whether x is [M, 2n] = [gate | up] and silu(gate) · up is quantized.
    """

    def __init__(self, kind: type[Any], op: str, *, silu: bool) -> None:
        self._kind = kind
        self._op = op
        self._silu = silu
        self._variants = Variants(nvfp4_kernel)
        self._amax_variants = Variants(nvfp4_amax_kernel)

    def bind(self, config: ProducerConfig, device: DeviceProfile) -> Callable[..., QuantizedTensor]:
        """Give ``fn(x, *, scale=None, global_scale=None, out=None)`` for x of any strides.

        Rows that begin at multiples of 16 bytes and have no gaps between columns are read 16 bytes
        at a time, others element by element.

        Raises:
            ConfigError: The config is of another op.
        """
        plan = self._plan(config, device.arch)
        operand, in_dtype = config.operand, config.in_dtype
        width = 2 * config.n if self._silu else config.n
        home, dtype = "cuda" if device.is_cuda else "cpu", DTYPES[in_dtype]
        is_static = operand.global_scale == "static"

        def run(
            x: torch.Tensor,
            *,
            scale: torch.Tensor | None = None,
            global_scale: torch.Tensor | None = None,
            out: QuantizedTensor | None = None,
        ) -> QuantizedTensor:
            where, given = x.device, global_scale
            if where.type != home:
                require_on(x, device)
            if x.dim() != 2 or x.shape[1] != width or x.dtype is not dtype:
                check_matrix(x, width, in_dtype)
            if scale is not None or (is_static and given is None):
                check_scales_given(operand, scale, given)
            if given is not None and (
                given.shape != (1,) or given.dtype is not torch.float32 or given.device != where
            ):
                given = check_scalar(given, "global_scale", where)
            m = x.shape[0]
            made, g = plan.outputs.take(out, m, where, given)
            if m:
                _launch(plan, x, made, g, given)
            elif given is None:
                g.fill_(1.0)
            elif g is not given:
                g.copy_(given)
            return made

        return run

    def warmup(self, config: ProducerConfig, ms: Sequence[int]) -> None:
        """Compile every variant of a config: none depends on M."""
        del ms
        arch = arch_here()
        if arch is not None:
            for launcher, kinds in _launchers(self._plan(config, arch), config):
                launcher.warm(*kinds)

    def compile_for(self, config: ProducerConfig, arch: Arch) -> list[CompiledCode]:
        """Give the machine code of every variant of a config."""
        plan = self._plan(config, arch)
        return [launcher.compile_for(arch, *kinds) for launcher, kinds in _launchers(plan, config)]

    def compiled_variants(self) -> int:
        """Count the variants of this process."""
        return self._variants.compiled() + self._amax_variants.compiled()

    def declared_variants(self, config: ProducerConfig) -> int:
        """Give how many variants a config has at most.

        For few blocks, for many, and for any strides, with a given global scale; the same again and
        two searches for the largest magnitude where it is computed.
        """
        return 3 if config.operand.global_scale == "static" else 8

    def _plan(
        self,
        config: ProducerConfig,
        arch: Arch,
        *,
        pdl: bool | None = None,
        sizes: Tiles | None = None,
    ) -> _Plan:
        if not isinstance(config, self._kind):
            raise ConfigError(f"a kernel of {self._op} was given {type(config).__name__}")
        layout = config.layout
        outputs = Outputs(config.operand, layout, config.n)
        if sizes is None:
            sizes = tiles(layout.padded_n // 16, layout.scales)
        uses_pdl = has_pdl(arch) if pdl is None else pdl
        is_gpu = not interpreting() and arch.vendor == "nvidia"
        shared = {"N": config.n, "SILU": self._silu, "HW_SILU": self._silu and is_gpu}

        def variant(tile: Tile, parts: int, *, aligned: bool) -> Launcher:
            constexprs = {
                **shared,
                "PADDED_N": layout.padded_n,
                "ROWS": tile.rows,
                "QUADS": tile.quads,
                "LAYOUT": LAYOUTS[layout.scales],
                "PARTS": parts,
                "HW8": converts_fp8(arch),
                "FORM": _form(arch),
                "ALIGNED": aligned,
                "PDL": uses_pdl,
            }
            return self._variants.get(
                arch, config.in_dtype, constexprs, num_warps=tile.num_warps, pdl=uses_pdl
            )

        def all_of(parts: int) -> _Set:
            return _Set(
                few=variant(sizes.few, parts, aligned=True),
                many=variant(sizes.many, parts, aligned=True),
                any_strides=variant(sizes.many, parts, aligned=False),
            )

        block = min(1 << (config.n - 1).bit_length(), 1024 if not interpreting() else 8192)
        amax_tile = (AMAX_ELEMENTS // block if block < AMAX_ELEMENTS else 1, block)

        def search(*, aligned: bool) -> Launcher:
            constexprs = {
                **shared,
                "ROWS": amax_tile[0],
                "BLOCK": amax_tile[1],
                "ALIGNED": aligned,
                "PDL": uses_pdl,
            }
            return self._amax_variants.get(
                arch, config.in_dtype, constexprs, num_warps=AMAX_WARPS, pdl=uses_pdl
            )

        return _Plan(
            outputs=outputs,
            tiles=sizes,
            given=all_of(0),
            found=all_of(AMAX_PROGRAMS) if config.operand.global_scale == "dynamic" else None,
            amax=search(aligned=True),
            amax_any=search(aligned=False),
            amax_tile=amax_tile,
        )


def _form(arch: Arch) -> int:
    """Give ``FORM`` of the device functions: how e2m1 is made."""
    if interpreting() or arch.sm is None:
        return 0
    return 2 if arch.sm >= _FIRST_WITH_E2M1 else 1


def _launch(
    plan: _Plan,
    x: torch.Tensor,
    made: QuantizedTensor,
    g: torch.Tensor,
    given: torch.Tensor | None,
) -> None:
    m = x.shape[0]
    row_stride, column_stride = x.stride()
    if m == 1:
        row_stride = 0  # a stride along one row says nothing
    address = x.data_ptr() | (row_stride * x.element_size())
    is_aligned = column_stride == 1 and address % 16 == 0
    if x.shape[1] != made.n:  # gate and up
        is_aligned = is_aligned and made.n * x.element_size() % 16 == 0
    source, parts, variants = given, 0, plan.given
    if source is None and plan.found is not None:
        down, across = plan.amax_tile
        work = -(-m // down) * -(-made.n // across)
        parts = min(work, AMAX_PROGRAMS)
        source = torch.empty(parts, dtype=torch.int32, device=x.device)
        search = plan.amax if is_aligned else plan.amax_any
        search((parts,), x, source, m, row_stride, column_stride)
        variants = plan.found
    sizes = plan.outputs.extents(m)
    if not is_aligned or made.data.data_ptr() % 8:
        launcher, tile = variants.any_strides, plan.tiles.many
    elif m * plan.outputs.groups < plan.tiles.limit:
        launcher, tile = variants.few, plan.tiles.few
    else:
        launcher, tile = variants.many, plan.tiles.many
    across = -(-plan.outputs.groups // (4 * tile.quads))
    launcher(
        (-(-sizes.scale_rows // tile.rows) * across,),
        x,
        made.data,
        made.scales.view(torch.uint8),
        source,
        g,
        m,
        sizes.padded_m,
        row_stride,
        column_stride,
        parts,
    )


def _launchers(plan: _Plan, config: ProducerConfig) -> list[tuple[Launcher, tuple[Any, ...]]]:
    """Give every launcher of a plan, with arguments of the kinds of a launch's."""
    x, byte = DTYPES[config.in_dtype], torch.uint8

    def kinds(source: torch.dtype) -> tuple[Any, ...]:
        return (x, byte, byte, source, torch.float32, 1, 1, 1, 1, 1)

    made = [(launcher, kinds(torch.float32)) for launcher in plan.given.all()]
    if plan.found is not None:
        made += [(launcher, kinds(torch.int32)) for launcher in plan.found.all()]
        searches = dict.fromkeys((plan.amax, plan.amax_any))
        made += [(launcher, (x, torch.int32, 1, 1, 1)) for launcher in searches]
    return made
