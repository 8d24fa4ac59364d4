"""The host's side of the products for few tokens: bind, prepare, warm up, compile ahead."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.errors import InputError, LayoutError
from quantmux.ops.quantized import DTYPES
from quantmux.registry.protocol import PreparedWeights
from quantmux_triton.interpreter import interpreting
from quantmux_triton.launcher import Launcher, compiled_count
from quantmux_triton.linear.fp8_block_small_m_kernel import fp8_block_small_m
from quantmux_triton.linear.fp8_small_m_config import M_CLASSES, cut_for, m_class
from quantmux_triton.linear.fp8_small_m_kernel import fp8_small_m
from quantmux_triton.linear.outputs import checked_output
from quantmux_triton.linear.workspace import reserve, split_workspace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux.capability.arch import Arch
    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LinearConfig
    from quantmux.ops.quantized import LinearWeights, QuantizedTensor
    from quantmux.registry.protocol import CompiledCode
    from quantmux_triton.linear.fp8_small_m_config import Cut

_ALIGNMENT: Final = 16
"""Bytes of an asynchronous copy; rows that are no multiple of it are loaded byte by byte."""


class SmallMLinear:
    """A consumer of FP8 for few tokens, which reads canonical weights as they are."""

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

        Rows of ``out`` may lie farther apart. More tokens than `M_CLASSES` are served by more
        tiles, slowly.

        Raises:
            LayoutError: The weights have gaps between rows.
        """
        return _Bound(config, prepared, device)

    def warmup(self, config: LinearConfig, ms: Sequence[int]) -> None:
        """Compile the variants of these M for the current GPU, and reserve counters there."""
        device = _current_gpu()
        if device is None:
            return
        reserve(torch.device(device.torch_name))
        for m in {m_class(m) for m in ms if m > 0}:
            plan = _plan(config, device, m)
            plan.launcher.warm(*plan.stand_ins)

    def compile_for(self, config: LinearConfig, arch: Arch) -> list[CompiledCode]:
        """Give the machine code of every variant that some M launches on ``arch``.

        Raises:
            BuildError: Triton refuses, or is not here.
        """
        from quantmux.capability.device import DeviceProfile

        there = DeviceProfile(name="there", title="named architecture", arch=arch)
        plans = {_plan(config, there, m).launcher: _plan(config, there, m) for m in M_CLASSES}
        return [launcher.compile_for(arch, *plan.stand_ins) for launcher, plan in plans.items()]

    def compiled_variants(self) -> int:
        """Give how many variants were compiled in this process, of both products."""
        return compiled_count(fp8_small_m, fp8_block_small_m)

    def declared_variants(self, config: LinearConfig) -> int:
        """Give how many variants a config may need: one a class of M."""
        del config
        return len(M_CLASSES)


@dataclass(frozen=True, slots=True)
class _Plan:
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


class _Bound:
    """A layer bound to the kernel: ``fn(q, *, out=None) -> y``."""

    def __init__(
        self, config: LinearConfig, prepared: PreparedWeights, device: DeviceProfile
    ) -> None:
        self._config, self._device = config, device
        self._n, self._k = config.n, config.k
        self._out_dtype = DTYPES[config.out_dtype]
        self._is_block = kind_of(config) == "block"
        self._weight = prepared.tensors["data"]
        if not self._weight.is_contiguous():
            raise LayoutError(
                "weights need rows without gaps",
                facts={"found": f"strides {list(self._weight.stride())}"},
                hint="make them contiguous before they are prepared",
            )
        self._home = self._weight.device
        self._scales = prepared.tensors["scales"].contiguous()
        bias = prepared.tensors.get("bias") if config.bias else None
        # fp32 of any: a variant must not depend on what a warmup does not know
        self._bias = self._scales if bias is None else bias.to(torch.float32).contiguous()
        self._codes = self._weight.to(torch.float32) if interpreting() else self._weight
        self._plans: dict[int, _Plan] = {}
        reserve(self._home)

    def __call__(self, q: QuantizedTensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        """Give y [M, N] for x [M, K].

        Raises:
            InputError: x is not where the weights are, or ``out`` is not where x is.
            ShapeError: ``out`` has another shape.
            DtypeError: ``out`` has another dtype.
            LayoutError: ``out`` has elements of a row apart.
        """
        x, m = q.data, q.logical_shape[0]
        if x.device != self._home:
            raise InputError(f"x is on {x.device}, the weights are on {self._home}", code="device")
        if out is None:
            y = torch.empty((m, self._n), dtype=self._out_dtype, device=self._home)
        else:
            y = checked_output(out, m, self._n, self._out_dtype, self._home)
        if m == 0:
            return y
        row = 16 if m <= 16 else m_class(m)
        plan = self._plans.get(row)
        if plan is None:
            plan = self._plans[row] = _plan(self._config, self._device, row)
        if plan.out is self._out_dtype:
            self._launch(plan, q, x, y, m)
            return y
        wide = torch.empty((m, self._n), dtype=plan.out, device=self._home)
        self._launch(plan, q, x, wide, m)
        return y.copy_(wide)

    def _launch(
        self, plan: _Plan, q: QuantizedTensor, x: torch.Tensor, y: torch.Tensor, m: int
    ) -> None:
        """Launch for a y whose rows have no gaps inside."""
        cut, scales = plan.cut, q.scales
        tiles = plan.tiles_n * -(-m // cut.block_m)
        splits = cut.splits
        if splits > 1:
            partial, counters = split_workspace(
                self._home, tiles * splits * cut.block_n * cut.block_m, tiles
            )
        else:
            partial = counters = self._scales  # not touched
        sizes = (m, self._n, self._k, x.stride(0), y.stride(0))
        if self._is_block:
            sizes += (scales.stride(0), scales.stride(1))  # type: ignore[assignment]
        plan.launcher(
            (tiles * splits, 1, 1),
            self._codes,
            x.to(torch.float32) if interpreting() else x,
            self._scales,
            scales,
            self._bias,
            y,
            partial,
            counters,
            *sizes,
            splits,
        )


def kind_of(config: LinearConfig) -> str:
    """Give the product's name in the measured choices: ``row``, ``row_exact`` or ``block``."""
    if config.scheme.weight.block.kind == "block":
        return "block"
    return "row_exact" if config.scheme.accumulation == "exact" else "row"


def _plan(config: LinearConfig, device: DeviceProfile, m: int) -> _Plan:
    """Give what calls with M in the class of ``m`` launch on a device."""
    kind, n, k = kind_of(config), config.n, config.k
    cut = cut_for(device, kind, n=n, k=k, m=m)
    is_block = kind == "block"
    activation = config.scheme.activation
    is_split = cut.splits > 1
    constexprs: dict[str, Any] = {
        "ROWS_ARE_16": k % _ALIGNMENT == 0,
        "EVEN_K": k % cut.block_k == 0,
        "BN": cut.block_n,
        "BM": cut.block_m,
        "HAS_BIAS": config.bias,
        "IS_SPLIT": is_split,
        "PDL": cut.pdl,
        "PREFETCH": cut.prefetch,
        "IS_WIDE": interpreting(),
        "AT_ONCE": cut.at_once,
    }
    if is_block:
        constexprs["BLOCKS"] = cut.block_k // 128
    else:
        constexprs |= {
            "BK": cut.block_k,
            "BY_TOKEN": activation is not None and activation.block.kind != "tensor",
            "BY_CHANNEL": config.scheme.weight.block.kind != "tensor",
            "EXACT": kind == "row_exact",
        }
    options = (
        ("enable_fp_fusion", True),
        ("launch_pdl", cut.pdl),
        ("num_stages", cut.stages),
        ("num_warps", cut.warps),
    )
    # the interpreter's cast to bf16 cuts off; torch rounds what it gives in fp32
    out = torch.float32 if interpreting() else DTYPES[config.out_dtype]
    fp32 = torch.float32
    code = fp32 if interpreting() else torch.float8_e4m3fn
    counters = torch.int32 if is_split else fp32
    pointers = (code, code, fp32, fp32, fp32, out, fp32, counters)
    integers = 8 if is_block else 6
    return _Plan(
        cut=cut,
        launcher=_launcher(is_block, tuple(sorted(constexprs.items())), options),
        tiles_n=-(-n // cut.block_n),
        out=out,
        stand_ins=(*pointers, *(2 for _ in range(integers))),
    )


@cache
def _launcher(
    is_block: bool, constexprs: tuple[tuple[str, Any], ...], options: tuple[tuple[str, Any], ...]
) -> Launcher:
    """Give the one launcher of a variant in this process."""
    function = fp8_block_small_m if is_block else fp8_small_m
    return Launcher(function, dict(constexprs), dict(options))


def _current_gpu() -> DeviceProfile | None:
    """Give a profile of the current GPU; of the host in the interpreter; None without either."""
    from quantmux.capability.arch import Arch
    from quantmux.capability.device import DeviceProfile

    if interpreting():
        return DeviceProfile(name="cpu", title="the interpreter", arch=Arch.parse("cpu"))
    if not torch.cuda.is_available():
        return None
    from quantmux.capability.detect import device_here

    return device_here(torch.device("cuda", torch.cuda.current_device()))
