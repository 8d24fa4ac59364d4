"""Other forms of our own kernels, to be timed beside them: what each of their ideas is worth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch

from quantmux.bench.peers.base import BoundPeer, producer_peer
from quantmux.ops.quantized import QuantizedTensor

if TYPE_CHECKING:
    from quantmux.bench.contenders import Contender
    from quantmux.bench.materials import Materials
    from quantmux.bench.rows import BenchCase
    from quantmux.bench.traffic import Part
    from quantmux.capability.device import DeviceProfile
    from quantmux.ops.spec import Call


class Pdl:
    """Launches of this process: sees which use programmatic dependence, and can do without.

    It stands in the launcher's class, so it holds for every kernel of the backend, also where a
    kernel keeps its launchers. Twins differ in nothing but the constexpr and the launch attribute.
    """

    def __init__(self) -> None:
        self._launcher: Any = import_module("quantmux_triton.launcher").Launcher
        self._off = False
        self._used = False
        self._twins: dict[int, tuple[Any, Any]] = {}
        launch = self._launcher.__call__

        def call(launcher: Any, grid: tuple[int, ...], *args: Any) -> None:
            uses = bool(launcher.options.get("launch_pdl"))
            self._used |= uses
            launch(self._twin(launcher) if uses and self._off else launcher, grid, *args)

        self._launcher.__call__ = call

    def uses(self, bound: Contender) -> bool:
        """Tell whether a call launches with programmatic dependence; it is run once."""
        self._used = False
        bound.calls[0]()
        return self._used

    def without(
        self, bound: Contender, bind_again: Callable[[], Contender | str]
    ) -> Contender | str:
        """Give the same bound functions, each of whose calls does without it."""
        del bind_again

        def switched(call: Callable[[], Any]) -> Callable[[], Any]:
            def run() -> Any:
                with self._switched_off():
                    return call()

            return run

        return replace(bound, calls=tuple(switched(call) for call in bound.calls))

    @contextmanager
    def _switched_off(self) -> Iterator[None]:
        self._off = True
        try:
            yield
        finally:
            self._off = False

    def _twin(self, launcher: Any) -> Any:
        # the original is kept with its twin, so that its id is not another's later
        if id(launcher) not in self._twins:
            options = {k: v for k, v in launcher.options.items() if k != "launch_pdl"}
            constexprs = {
                name: False if "PDL" in name else value
                for name, value in launcher.constexprs.items()
            }
            twin = self._launcher(launcher.fn, constexprs, options)
            self._twins[id(launcher)] = (launcher, twin)
        return self._twins[id(launcher)][1]


class QuantizeThenPad:
    """Our own NVFP4 quantizer without padding, and then a padded copy of the data.

    The scales need no copy where C4(n/16) is C4(padded_n/16), as in the cases measured here.
    """

    name = "quantize, then pad"
    part: Part = "pipeline"

    def unavailable(self, device: DeviceProfile) -> str:
        return "" if device.is_cuda else "it is timed on GPUs"

    def refuses(self, case: BenchCase) -> str:
        config = case.config
        if config.op != "quantize" or not config.operand.is_nvfp4:
            return "it does NVFP4"
        if config.layout.scales != "swizzled_128x4":
            return "it does swizzled_128x4"
        return "" if config.padded_n > config.n else "there is nothing to pad"

    def bind(self, case: BenchCase, materials: Materials, inputs: Sequence[Call]) -> BoundPeer:
        from quantmux.bench.contenders import pipelines_of
        from quantmux.runtime.context import default_context
        from quantmux.runtime.steps import build

        config = case.config
        if config.op != "quantize":
            raise TypeError(config.op)
        plain = config.replace(layout=config.layout.replace(padded_n=config.n))
        context = default_context()
        pipeline = pipelines_of(plain, case.m, context, materials.device, only=["triton/*"])[0]
        quantize = build(pipeline, context, materials.device).run
        missing = (config.padded_n - config.n) // 2

        def run(call: Call) -> QuantizedTensor:
            q = quantize(*call.args, **call.kwargs)
            data = torch.nn.functional.pad(q.data, (0, missing))
            return QuantizedTensor(
                data, q.scales, q.global_scale, config.operand, config.layout, q.logical_shape
            )

        return producer_peer([partial(run, call) for call in inputs], config, materials, inputs)


class OneWarpPerHead:
    """Inverse RoPE on a grid of one program of one warp per token and head."""

    name = "one warp per head"
    part: Part = "pipeline"

    def unavailable(self, device: DeviceProfile) -> str:
        return "" if device.is_cuda else "it is timed on GPUs"

    def refuses(self, case: BenchCase) -> str:
        config = case.config
        if config.op != "inverse_rope_quantize":
            return "it does inverse RoPE"
        return "" if config.layout.scales == "col_major_aligned4" else "it writes fp32 scales"

    def bind(self, case: BenchCase, materials: Materials, inputs: Sequence[Call]) -> BoundPeer:
        from triton_one_warp import one_warp_per_head

        config = case.config
        if config.op != "inverse_rope_quantize":
            raise TypeError(config.op)
        run = one_warp_per_head(config)
        return producer_peer(
            [partial(run, *call.args) for call in inputs], config, materials, inputs
        )
