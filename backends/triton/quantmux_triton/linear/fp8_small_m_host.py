"""The host's side of the products for few tokens: bind, prepare, warm up, compile ahead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from quantmux.errors import InputError, LayoutError
from quantmux.ops.quantized import DTYPES
from quantmux.registry.protocol import PreparedWeights
from quantmux_triton.interpreter import interpreting
from quantmux_triton.linear.fp8_small_m_config import M_CLASSES, m_class
from quantmux_triton.linear.fp8_small_m_variant import (
    ALIGNMENT,
    box_of,
    compiled_variants,
    kind_of,
    plan_for,
)
from quantmux_triton.linear.outputs import checked_output
from quantmux_triton.linear.workspace import reserve, split_workspace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux.capability.arch import Arch
    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LinearConfig
    from quantmux.ops.quantized import LinearWeights, QuantizedTensor
    from quantmux.registry.protocol import CompiledCode
    from quantmux_triton.linear.fp8_small_m_variant import Plan


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
            plan = plan_for(config, device, m)
            plan.launcher.warm(*plan.stand_ins)

    def compile_for(self, config: LinearConfig, arch: Arch) -> list[CompiledCode]:
        """Give the machine code of every variant that some M launches on ``arch``.

        Raises:
            BuildError: Triton refuses, or is not here.
        """
        from quantmux.capability.device import DeviceProfile

        there = DeviceProfile(name="there", title="named architecture", arch=arch)
        found = {plan.launcher: plan for plan in (plan_for(config, there, m) for m in M_CLASSES)}
        return [launcher.compile_for(arch, *plan.stand_ins) for launcher, plan in found.items()]

    def compiled_variants(self) -> int:
        """Give how many variants were compiled in this process, of both products."""
        return compiled_variants()

    def declared_variants(self, config: LinearConfig) -> int:
        """Give how many variants a config may need: one a class of M."""
        del config
        return len(M_CLASSES)


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
        self._fits = _fits(self._weight)
        self._boxes: dict[int, Any] = {}
        self._plans: dict[tuple[int, bool], Plan] = {}
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
        key = (m_class(m), self._fits and _fits(x))
        plan = self._plans.get(key)
        if plan is None:
            plan = plan_for(self._config, self._device, key[0], aligned=key[1])
            self._plans[key] = plan
        if plan.out is self._out_dtype:
            self._launch(plan, q, x, y, m)
            return y
        wide = torch.empty((m, self._n), dtype=plan.out, device=self._home)
        self._launch(plan, q, x, wide, m)
        return y.copy_(wide)

    def _launch(
        self, plan: Plan, q: QuantizedTensor, x: torch.Tensor, y: torch.Tensor, m: int
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
        row = q.layout.padded_n
        sizes: tuple[int, ...] = (m, self._n, self._k)
        if cut.hopper:
            w = self._weight_box(cut.block_n)
            x = box_of(x, m, self._k, row, cut.block_m)
            sizes += (y.stride(0),)
        else:
            w = self._codes
            x = x.to(torch.float32) if interpreting() else x
            sizes += (row, y.stride(0))
        if cut.hopper or self._is_block:
            sizes += (scales.stride(0), scales.stride(-1))
        plan.launcher(
            (tiles * splits, 1, 1),
            w,
            x,
            self._scales,
            scales,
            self._bias,
            y,
            partial,
            counters,
            *sizes,
            splits,
        )

    def _weight_box(self, rows: int) -> Any:
        found = self._boxes.get(rows)
        if found is None:
            found = self._boxes[rows] = box_of(self._weight, self._n, self._k, self._k, rows)
        return found


def _fits(tensor: torch.Tensor) -> bool:
    return tensor.data_ptr() % ALIGNMENT == 0


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
