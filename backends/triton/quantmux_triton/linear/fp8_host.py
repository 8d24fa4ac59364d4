"""The host's side of the large-M products: bind, prepare, warm up, compile ahead."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Final

import torch

from quantmux.capability.detect import device_here
from quantmux.errors import InputError, LayoutError
from quantmux.ops.quantized import DATA_DTYPES, DTYPES
from quantmux.registry.protocol import PreparedWeights
from quantmux_triton.interpreter import interpreting
from quantmux_triton.linear.fp8_config import BLOCK_K, M_CLASSES, Tile, best_tile, fitting, m_class
from quantmux_triton.linear.fp8_variant import (
    GemmLauncher,
    Numbers,
    Variant,
    Weight,
    arguments,
    compiled_variants,
    launcher_of,
)
from quantmux_triton.linear.outputs import checked_output

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux.capability.arch import Arch
    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LinearConfig
    from quantmux.ops.quantized import LinearWeights, QuantizedTensor
    from quantmux.registry.protocol import CompiledCode

_INTERPRETED: Final = Tile(64, 256, "pointer", subtiles=1)
"""Few programs, since the interpreter pays for each."""

_ALIGNMENT: Final = 16
"""Bytes that a TMA descriptor wants of a base and of a row stride."""


class LargeMLinear:
    """A consumer of 8-bit operands that reads canonical weights as they are.

    Args:
        stem: Name under which measured choices are kept.
        tiles: ``(compute capability, aligned, exact, divided)`` → candidates, the preferred first;
            see `quantmux_triton.linear.fp8_tiles.scaled_tiles`.
    """

    def __init__(
        self, stem: str, tiles: Callable[[int, bool, bool, bool], tuple[Tile, ...]]
    ) -> None:
        self.stem = stem
        self._tiles = tiles

    def prepare(
        self, weights: LinearWeights, config: LinearConfig, device: DeviceProfile
    ) -> PreparedWeights:
        """Share the canonical tensors; those on another kind of device are moved."""
        here = weights
        if device.is_present and weights.data.device.type != device.torch_name.partition(":")[0]:
            here = weights.to(device.torch_name)
        return PreparedWeights(
            tensors=here.named(),
            weight_layout="canonical",
            n=config.n,
            k=config.k,
            restore=lambda: here,
        )

    def bind(
        self, config: LinearConfig, prepared: PreparedWeights, device: DeviceProfile
    ) -> Callable[..., torch.Tensor]:
        """Give ``fn(q, *, out=None) -> y``, y [M, N] contiguous unless ``out`` is given.

        ``out`` may have rows farther apart; rows that do not begin at multiples of 16 bytes are
        stored without TMA, by a variant that is compiled at its first use.
        """
        return _Bound(self, config, prepared, device)

    def warmup(self, config: LinearConfig, ms: Sequence[int]) -> None:
        """Compile the variants of these M for the current GPU; without a GPU do nothing."""
        if interpreting() or not torch.cuda.is_available():
            return
        device = torch.device("cuda", torch.cuda.current_device())
        for variant in self.variants(config, device_here(device), ms):
            launcher_of(variant).compile_here(device)

    def compile_for(self, config: LinearConfig, arch: Arch) -> list[CompiledCode]:
        """Give the machine code of every variant that some M launches on ``arch``.

        Raises:
            BuildError: Triton refuses, or is not here.
        """
        from quantmux.capability.device import DeviceProfile

        there = DeviceProfile(name="there", title="named architecture", arch=arch)
        return [launcher_of(v).machine_code(arch) for v in self.variants(config, there, M_CLASSES)]

    def compiled_variants(self) -> int:
        """Give how many variants were compiled in this process, of all large-M products."""
        return compiled_variants()

    def declared_variants(self, config: LinearConfig) -> int:
        """Give how many variants a config may need on any device: one a tile size."""
        del config
        return 8

    def variants(
        self, config: LinearConfig, device: DeviceProfile, ms: Sequence[int]
    ) -> tuple[Variant, ...]:
        """Give the variants that calls with these M launch on tensors that are aligned."""
        numbers = numbers_of(config)
        y_aligned = config.n * numbers.out.itemsize % _ALIGNMENT == 0
        found = (self.variant(config, numbers, device, m, y_aligned=y_aligned) for m in ms if m > 0)
        return tuple(dict.fromkeys(found))

    def variant(
        self,
        config: LinearConfig,
        numbers: Numbers,
        device: DeviceProfile,
        m: int,
        *,
        aligned: bool = True,
        y_aligned: bool = True,
    ) -> Variant:
        """Give the variant of a call.

        Args:
            config: The layer.
            numbers: `numbers_of` it.
            device: Where it runs.
            m: Rows of x.
            aligned: x and W begin at multiples of 16 bytes, and rows of x are one.
            y_aligned: Rows of y begin at multiples of 16 bytes.
        """
        n, k = config.n, config.k
        aligned = aligned and k % _ALIGNMENT == 0
        sm = device.arch.sm or 0
        if interpreting():
            tile = _INTERPRETED
        else:
            candidates = self._tiles(sm, aligned, numbers.promote, has_gluon())
            kind = (self.stem, numbers.kind)
            tile = best_tile(candidates, kind=kind, m=m, n=n, k=k, device=device)
            tile = fitting(tile, sm, numbers.out.itemsize)
        return Variant(
            numbers,
            tile,
            tile.form != "pointer" and y_aligned,
            aligned=aligned,
            mask_k=tile.form == "pointer" and k % BLOCK_K != 0,
        )


@cache
def has_gluon() -> bool:
    """Tell whether this Triton has the language of the divided form, by the names used there."""
    try:
        import_module("quantmux_triton.linear.fp8_hopper_kernel")
    except (ImportError, AttributeError):
        return False
    return True


def numbers_of(config: LinearConfig) -> Numbers:
    """Give what the device code needs to know of a config."""
    scheme = config.scheme
    activation = scheme.activation
    if activation is None:
        raise InputError(f"scheme {scheme.name} does not quantize its input", code="scheme")
    is_block = scheme.weight.block.kind == "block"
    is_float = scheme.weight.element != "int8"
    element, out = DATA_DTYPES[scheme.weight.element], DTYPES[config.out_dtype]
    if interpreting():
        # its cast to bf16 cuts off, and it reads e4m3's NaN as 480 (3.6 and 3.9): it is given
        # fp16, which holds every e4m3 number, and torch rounds what it gives in fp32
        out = torch.float32
        element = torch.float16 if is_float else element
    return Numbers(
        element=element,
        out=out,
        has_bias=config.bias,
        is_block=is_block,
        per_token=not is_block and activation.block.kind != "tensor",
        per_channel=not is_block and scheme.weight.block.kind != "tensor",
        promote=is_float and not is_block and scheme.accumulation == "exact",
    )


class _Bound:
    """A layer bound to a kernel: ``fn(q, *, out=None) -> y``."""

    def __init__(
        self,
        kernel: LargeMLinear,
        config: LinearConfig,
        prepared: PreparedWeights,
        device: DeviceProfile,
    ) -> None:
        self._kernel, self._config, self._device = kernel, config, device
        self._numbers = numbers_of(config)
        self._out_dtype = DTYPES[config.out_dtype]
        data, scales = prepared.tensors["data"], prepared.tensors["scales"]
        if not data.is_contiguous():
            raise LayoutError(
                "weights need rows without gaps",
                facts={"found": f"strides {list(data.stride())}"},
                hint="make them contiguous before they are prepared",
            )
        scales = scales.contiguous()
        bias = prepared.tensors.get("bias") if config.bias else None
        # the variant must not depend on the checkpoint's dtype, which a warmup does not know
        bias = scales if bias is None else bias.to(torch.float32).contiguous()
        self._weight = Weight(data, config.n, config.k, scales, bias)
        self._weight_fits = _fits(data)
        self._sms = device.sm_count or _sm_count(data.device)
        self._launchers: dict[tuple[int, bool, bool], GemmLauncher] = {}

    def __call__(self, q: QuantizedTensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        """Give y [M, N] for x [M, K].

        Raises:
            InputError: x is not where the weights are, or ``out`` is not where x is.
            ShapeError: ``out`` has another shape.
            DtypeError: ``out`` has another dtype.
            LayoutError: Elements of a row of ``out`` lie apart.
        """
        x, m, n = q.data, q.logical_shape[0], self._config.n
        home = self._weight.data.device
        if x.device != home:
            raise InputError(f"x is on {x.device}, the weights are on {home}", code="device")
        if out is None:
            y = torch.empty((m, n), dtype=self._out_dtype, device=x.device)
        else:
            y = checked_output(out, m, n, self._out_dtype, x.device)
        if m == 0:
            return y
        if self._numbers.out == self._out_dtype:
            self._launch(q, y)
            return y
        wide = torch.empty((m, n), dtype=self._numbers.out, device=x.device)
        self._launch(q, wide)
        return y.copy_(wide)

    def _launch(self, q: QuantizedTensor, y: torch.Tensor) -> None:
        """Launch the variant for these tensors."""
        x, weight, (m, n) = q.data, self._weight, y.shape
        element = self._numbers.element
        if element != x.dtype:
            x, weight = x.to(element), replace(weight, data=weight.data.to(element))
        x_row = q.layout.padded_n
        y_row = y.stride(0) if m > 1 else n
        aligned = self._weight_fits and x_row % _ALIGNMENT == 0 and _fits(x)
        launcher = self._launcher(m, aligned, y_row, y_aligned=_fits(y))
        variant = launcher.variant
        tile = variant.tile
        programs = -(-m // tile.block_m) * -(-n // tile.block_n)
        if tile.form != "pointer":
            programs = min(programs, self._sms * tile.per_sm)
        given = arguments(variant, x, x_row, q.scales, weight, y, y_row)
        launcher((programs,), *given)

    def _launcher(self, m: int, aligned: bool, y_row: int, *, y_aligned: bool) -> GemmLauncher:
        y_aligned = y_aligned and y_row * self._numbers.out.itemsize % _ALIGNMENT == 0
        key = (m_class(m), aligned, y_aligned)
        found = self._launchers.get(key)
        if found is None:
            variant = self._kernel.variant(
                self._config,
                self._numbers,
                self._device,
                m,
                aligned=aligned,
                y_aligned=y_aligned,
            )
            found = self._launchers[key] = launcher_of(variant)
        return found


def _fits(tensor: torch.Tensor) -> bool:
    return tensor.data_ptr() % _ALIGNMENT == 0


def _sm_count(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
