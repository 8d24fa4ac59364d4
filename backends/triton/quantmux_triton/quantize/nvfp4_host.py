"""What the kernels that make NVFP4 have in common on the host: plans, checks, one launch or two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch

from quantmux.errors import ConfigError
from quantmux.ops.checks import check_matrix, check_scalar, check_scales_given
from quantmux.ops.quantized import DTYPES
from quantmux_triton.arithmetic import converts_fp8
from quantmux_triton.interpreter import interpreting
from quantmux_triton.quantize.nvfp4_config import (
    AMAX_PROGRAMS,
    AMAX_WARPS,
    Tile,
    amax_tile,
    tile_ranges,
)
from quantmux_triton.quantize.nvfp4_kernel import nvfp4_amax_kernel, nvfp4_kernel
from quantmux_triton.quantize.nvfp4_outputs import Outputs
from quantmux_triton.quantize.outputs import require_on
from quantmux_triton.quantize.variants import Variants, current_device, has_pdl
from quantmux_triton.tuned import NO_END

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


class _Variant(NamedTuple):
    """A launcher and what its grid comes from.

    Attributes:
        launcher: The launcher.
        rows: Rows of scales that a row of tiles takes; 0 where tiles are blocks in sequence.
        across: Tiles of a row; where ``rows`` is 0, blocks of a tile.
    """

    launcher: Launcher
    rows: int
    across: int


class _Search(NamedTuple):
    """The launch before, where the global scale is computed.

    Attributes:
        aligned: For rows that can be read 16 bytes at a time.
        any_strides: For others.
        rows: Rows of a tile.
        columns: Columns of a tile.
    """

    aligned: Launcher
    any_strides: Launcher
    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class _Plan:
    """A config on an architecture.

    Attributes:
        outputs: Makes outputs.
        ranges: Variants as (last M, variant), ascending.
        any_strides: The variant for an x that cannot be read 16 bytes at a time.
        search: The launch before them; None where the global scale is always given.
    """

    outputs: Outputs
    ranges: tuple[tuple[int, _Variant], ...]
    any_strides: _Variant
    search: _Search | None


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
        plan = self.plan(config, device.arch, device.name)
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
            made, g = plan.outputs.take(out, m, where)
            if m:
                launch(plan, x, made, g, given)
            elif given is None:
                g.fill_(1.0)
            else:
                g.copy_(given)
            return made

        return run

    def warmup(self, config: ProducerConfig, ms: Sequence[int]) -> None:
        """Compile every variant of a config: none depends on M."""
        del ms
        device = current_device()
        if device is not None:
            plan = self.plan(config, device.arch, device.name)
            for launcher, kinds in launchers(plan, config):
                launcher.warm(*kinds)

    def compile_for(self, config: ProducerConfig, arch: Arch) -> list[CompiledCode]:
        """Give the machine code of every variant of a config."""
        made = launchers(self.plan(config, arch), config)
        return [launcher.compile_for(arch, *kinds) for launcher, kinds in made]

    def compiled_variants(self) -> int:
        """Count the variants of this process."""
        return self._variants.compiled() + self._amax_variants.compiled()

    def declared_variants(self, config: ProducerConfig) -> int:
        """Give how many variants a config has on the device of this process.

        One for each range of M and one for any strides, and two searches for the largest magnitude
        where the global scale is computed.
        """
        device = current_device()
        if device is None:
            return 0
        return len(launchers(self.plan(config, device.arch, device.name), config))

    def plan(
        self,
        config: ProducerConfig,
        arch: Arch,
        device: str = "",
        *,
        pdl: bool | None = None,
        tile: Tile | None = None,
    ) -> _Plan:
        """Choose tiles and variants for a config.

        Args:
            config: Of the kernel's op.
            arch: Architecture that the code is for.
            device: Name of the device's profile, for measured tiles.
            pdl: Whether launches depend on their predecessor programmatically; None where the
                architecture can.
            tile: The one tile to use, for measurements.

        Raises:
            ConfigError: The config is of another op.
        """
        if not isinstance(config, self._kind):
            raise ConfigError(f"a kernel of {self._op} was given {type(config).__name__}")
        layout, n = config.layout, config.n
        outputs = Outputs(config.operand, layout, n)
        if tile is not None:
            ranges: tuple[tuple[int, Tile], ...] = ((NO_END, tile),)
        else:
            ranges = tile_ranges(layout.padded_n, layout.scales, silu=self._silu, device=device)
        uses_pdl = has_pdl(arch) if pdl is None else pdl
        is_gpu = not interpreting() and arch.vendor == "nvidia"
        shared = {
            "N": n,
            "SILU": self._silu,
            "HW_SILU": self._silu and is_gpu,
            "PDL": uses_pdl,
        }

        is_dynamic = config.operand.global_scale == "dynamic"

        def variant(tile: Tile, *, aligned: bool) -> _Variant:
            constexprs = {
                **shared,
                "PADDED_N": layout.padded_n,
                "ROWS": tile.rows,
                "QUADS": tile.quads,
                "LAYOUT": LAYOUTS[layout.scales],
                "PARTS": AMAX_PROGRAMS if is_dynamic else 0,
                "HW8": converts_fp8(arch),
                "FORM": _form(arch, silu=self._silu),
                "ALIGNED": aligned,
            }
            launcher = self._variants.get(
                arch, config.in_dtype, constexprs, num_warps=tile.num_warps, pdl=uses_pdl
            )
            if layout.scales == "row_major":
                return _Variant(launcher, 0, 4 * tile.quads * tile.rows)
            return _Variant(launcher, tile.rows, -(-outputs.groups // (4 * tile.quads)))

        rows, columns = amax_tile(n)

        def search(*, aligned: bool) -> Launcher:
            constexprs = {**shared, "ROWS": rows, "BLOCK": columns, "ALIGNED": aligned}
            return self._amax_variants.get(
                arch, config.in_dtype, constexprs, num_warps=AMAX_WARPS, pdl=uses_pdl
            )

        return _Plan(
            outputs=outputs,
            ranges=tuple((m_max, variant(tile, aligned=True)) for m_max, tile in ranges),
            any_strides=variant(ranges[-1][1], aligned=False),
            search=_Search(search(aligned=True), search(aligned=False), rows, columns)
            if is_dynamic
            else None,
        )


def _form(arch: Arch, *, silu: bool) -> int:
    """Give ``FORM`` of the device functions: how e2m1 is made.

    SiLU takes many fp32 operations of its own: 2048 rows of 14336 products take 41.5 µs with the
    form that has fewer of them and 43.7 with the other, which is the faster one without SiLU (H200,
    2026-11-21, CUDA graph, cold L2).
    """
    if interpreting() or arch.sm is None:
        return 0
    if arch.sm >= _FIRST_WITH_E2M1:
        return 2
    return 3 if silu else 1


def launch(
    plan: _Plan,
    x: torch.Tensor,
    made: QuantizedTensor,
    g: torch.Tensor,
    given: torch.Tensor | None,
) -> None:
    """Quantize x of at least one row into ``made``, whose global scale is g.

    Args:
        plan: Of `NvFp4.plan`.
        x: Checked.
        made: Checked.
        g: fp32 [1], written.
        given: The global scale, fp32 [1], or None where the plan computes it.
    """
    m, width = x.shape
    row_stride, column_stride = x.stride()
    if m == 1:
        row_stride = 0  # a stride along one row says nothing
    size, n = x.element_size(), made.n
    address = x.data_ptr() | (row_stride * size)
    if width != n:
        address |= n * size  # where up begins
    is_aligned = column_stride == 1 and address % 16 == 0
    source, parts, search = given, 0, plan.search
    if search is not None:
        if given is not None:
            source = given.view(torch.int32)
        else:
            work = -(-m // search.rows) * -(-n // search.columns)
            parts = min(work, AMAX_PROGRAMS)
            source = torch.empty(parts, dtype=torch.int32, device=x.device)
            launcher = search.aligned if is_aligned else search.any_strides
            launcher((parts,), x, source, m, row_stride, column_stride)
    data, variant = made.data, plan.any_strides
    if is_aligned and data.data_ptr() % 8 == 0:
        for m_max, variant in plan.ranges:  # noqa: B007 - the one that the loop ends at
            if m <= m_max:
                break
    launcher, rows, across = variant
    padded_m, scale_rows, *_ = plan.outputs.extents(m)
    if rows:
        programs = -(-scale_rows // rows) * across
    else:
        programs = -(-padded_m * plan.outputs.groups // across)
    launcher(
        (programs,),
        x,
        data,
        made.scales.view(torch.uint8),
        source,
        g,
        m,
        padded_m,
        row_stride,
        column_stride,
        parts,
    )


def launchers(plan: _Plan, config: ProducerConfig) -> list[tuple[Launcher, tuple[Any, ...]]]:
    """Give every launcher of a plan, with arguments of the kinds of a launch's."""
    x, byte, search = DTYPES[config.in_dtype], torch.uint8, plan.search
    source = torch.float32 if search is None else torch.int32
    kinds = (x, byte, byte, source, torch.float32, 1, 1, 1, 1, 1)
    variants = (*(variant for _, variant in plan.ranges), plan.any_strides)
    made: dict[Launcher, tuple[Any, ...]] = {v.launcher: kinds for v in variants}
    if search is not None:
        made |= dict.fromkeys((search.aligned, search.any_strides), (x, torch.int32, 1, 1, 1))
    return list(made.items())
