"""From a pipeline to one Python function that calls its kernels and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from quantmux.config.layers import LinearConfig, QuantizeConfig, RelayoutConfig
from quantmux.ops.quantized import QuantizedTensor
from quantmux.registry.guard import guarded
from quantmux.runtime.inputs import check_device, check_quantized
from quantmux.runtime.quick_check import QuickCheck

if TYPE_CHECKING:
    import torch

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LayerConfig, Operand
    from quantmux.dispatch.pipeline import Pipeline, Step
    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux.registry.protocol import Kernel
    from quantmux.runtime.context import Context
    from quantmux.runtime.prepare import WeightStore

Call = Callable[..., Any]
Examine = Callable[[Any, Any, Any], None]
"""``examine(step, kernel, reads)``."""


class KernelFailed(Exception):  # noqa: N818 - it is caught inside this room, never shown
    """A kernel of a pipeline raised: which, while doing what, and the exception."""

    def __init__(self, kernel: KernelSpec, doing: str, error: BaseException) -> None:
        super().__init__(kernel.id, doing)
        self.kernel = kernel
        self.doing = doing
        self.error = error


@dataclass(frozen=True, slots=True, eq=False)
class Built:
    """A pipeline whose kernels are loaded, prepared and bound.

    Attributes:
        pipeline: What was built.
        run: ``run(x, out)`` of a linear; the kernel's own function of every other op.
        reads: The quantized input of the consumer; None when it takes a plain tensor.
        kernels: The loaded kernels, one per step.
    """

    pipeline: Pipeline
    run: Call
    reads: QuantizeConfig | None
    kernels: tuple[Kernel, ...]

    @property
    def last(self) -> KernelSpec:
        """The kernel that is blamed when no other is known to have raised."""
        return self.pipeline.main


def build(
    pipeline: Pipeline,
    context: Context,
    device: DeviceProfile,
    store: WeightStore | None = None,
    examine: Examine | None = None,
) -> Built:
    """Load, prepare and bind every kernel of a pipeline.

    Args:
        pipeline: What to build.
        context: Loads the kernels.
        device: Where.
        store: Weights of a linear, else None.
        examine: Called with every loaded kernel before it is given the weights, with its step and
            what it reads (see `Built.reads`); raises for one that is not to be used.

    Raises:
        KernelFailed: One of them raised, or did not stand up to ``examine``.
    """
    kernels: tuple[Any, ...] = tuple(
        _guard(step, "load", partial(context.load, step.kernel)) for step in pipeline.steps
    )
    *head, last = zip(pipeline.steps, kernels, strict=True)
    step, kernel = last
    config = step.config
    reads = None
    if head and isinstance(config, LinearConfig):
        reads = _output_of(head[-1][0].config, config)
    if examine is not None:
        for s, k in head:
            _guard(s, "self-check", partial(examine, s, k, None))
        _guard(step, "self-check", partial(examine, step, kernel, reads))
    if store is None or not isinstance(config, LinearConfig):
        call = _callable(step, _guard(step, "bind", partial(kernel.bind, config, device)))
        return Built(pipeline, call, None, kernels)
    layout = step.kernel.capability.weight_layout_for(config.n, config.k)
    form = _guard(step, "prepare", partial(store.prepared, layout, kernel))
    bound = _guard(step, "bind", partial(kernel.bind, config, form, device))
    consume = _callable(step, bound)
    produce = [
        (s, _callable(s, _guard(s, "bind", partial(k.bind, s.config, device)))) for s, k in head
    ]
    scales: dict[str, torch.Tensor] = {}
    activation = config.scheme.activation
    if produce and activation is not None:
        scales = static_scales(
            activation, store.small("input_scale"), store.small("input_global_scale")
        )
    accept = _acceptor(config, reads, pipeline, device)
    return Built(pipeline, _compose(produce, scales, accept, consume), reads, kernels)


def static_scales(
    operand: Operand, scale: torch.Tensor | None, global_scale: torch.Tensor | None
) -> dict[str, torch.Tensor]:
    """Give the keyword arguments of a producer's call for the scales that do not come from x."""
    given: dict[str, torch.Tensor] = {}
    if not operand.dynamic and scale is not None:
        given["scale"] = scale
    if operand.global_scale == "static" and global_scale is not None:
        given["global_scale"] = global_scale
    return given


def _compose(
    produce: list[tuple[Step, Call]],
    scales: dict[str, torch.Tensor],
    accept: Callable[[QuantizedTensor], None],
    consume: Call,
) -> Call:
    """Give the function; written out per shape of pipeline, so that no loop runs at call time."""
    quantized = QuantizedTensor
    if not produce:

        def plain(x: Any, out: Any = None) -> Any:
            if type(x) is quantized:
                accept(x)
            return consume(x, out=out)

        return plain
    first, make = produce[0]
    if scales:
        kernel, names = make, tuple(scales)
        if names == ("scale",):
            scale = scales["scale"]

            def make(x: Any) -> Any:
                return kernel(x, scale=scale)

        else:
            global_scale = scales["global_scale"]

            def make(x: Any) -> Any:
                return kernel(x, global_scale=global_scale)

    if len(produce) == 1:

        def paired(x: Any, out: Any = None) -> Any:
            if type(x) is quantized:
                accept(x)
                return consume(x, out=out)
            try:
                q = make(x)
            except Exception as error:
                raise KernelFailed(first.kernel, "run", error) from error
            return consume(q, out=out)

        return paired
    second, move = produce[1]

    def relaid(x: Any, out: Any = None) -> Any:
        if type(x) is quantized:
            accept(x)
            return consume(x, out=out)
        try:
            q = make(x)
        except Exception as error:
            raise KernelFailed(first.kernel, "run", error) from error
        try:
            q = move(q)
        except Exception as error:
            raise KernelFailed(second.kernel, "run", error) from error
        return consume(q, out=out)

    return relaid


def _acceptor(
    config: LinearConfig, reads: QuantizeConfig | None, pipeline: Pipeline, device: DeviceProfile
) -> Callable[[QuantizedTensor], None]:
    where = str(pipeline)

    def check(q: QuantizedTensor) -> None:
        check_device(q, device)
        check_quantized(q, config, reads, where)

    return check if reads is None else QuickCheck(config.k, device, check)


def _output_of(made: LayerConfig, config: LinearConfig) -> QuantizeConfig | None:
    if isinstance(made, RelayoutConfig):
        return QuantizeConfig(
            operand=made.operand, n=made.n, layout=made.target, in_dtype=config.in_dtype
        )
    return made if isinstance(made, QuantizeConfig) else None


def _guard(step: Step, doing: str, action: Callable[[], Any]) -> Any:
    outcome = guarded(action)
    if outcome.error is not None:
        raise KernelFailed(step.kernel, doing, outcome.error) from outcome.error
    return outcome.value


def _callable(step: Step, bound: Any) -> Call:
    if not callable(bound):
        error = TypeError(f"bind gave {type(bound).__name__}, not a function")
        raise KernelFailed(step.kernel, "bind", error)
    function: Call = bound
    return function
