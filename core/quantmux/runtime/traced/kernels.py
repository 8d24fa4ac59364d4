"""One op per kernel, in its plugin's own namespace: ``quantmux_cutlass::linear_fp8``.

What is bound calls the ops of ``quantmux``, which go to a pipeline by M. These go to one kernel and
to nothing else: for graphs written by hand, for profiles, and for ``opcheck`` of every kernel.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.config.policy import FallbackPolicy, Policy
from quantmux.errors import BuildError, ConfigError
from quantmux.ops.quantized import QuantizedTensor
from quantmux.runtime.binding import bind, bind_producer
from quantmux.runtime.context import default_context
from quantmux.runtime.traced.keys import (
    form_key,
    keep_producer,
    linear_program,
    producer_program,
)
from quantmux.runtime.traced.library import define, namespace_of
from quantmux.runtime.traced.linear import (
    LINEAR_ARGUMENTS,
    QUANTIZED_ARGUMENTS,
    expose,
    fake_linear,
    fake_linear_quantized,
    run_linear,
    run_linear_quantized,
)
from quantmux.runtime.traced.producers import (
    RELAYOUT_ARGUMENTS,
    SIGNATURES,
    fake_producer,
    fake_relayout,
    run_producer,
    run_relayout,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LayerConfig
    from quantmux.config.policy import SelfCheck
    from quantmux.ops.quantized import LinearWeights
    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux.runtime.binding import BoundLinear
    from quantmux.runtime.context import Context

_names: dict[str, str] = {}
_owners: dict[str, str] = {}
_lock = Lock()


@dataclass(frozen=True, slots=True, eq=False)
class KernelOp:
    """A kernel bound for one config, as an op of `torch.library`.

    Attributes:
        kernel: Its id.
        config: What it is bound for.
        op: The op that takes a plain x, or what its producer op takes.
        op_quantized: Of a linear: the op that takes an x that is quantized already, else None.
        key: Names the binding; the last argument of the ops.
        weights: Of a linear: the tensors of its prepared weights.
    """

    kernel: str
    config: LayerConfig
    op: Any
    op_quantized: Any
    key: str
    weights: tuple[torch.Tensor, ...]
    _bound: BoundLinear | None = None

    def arguments(self, *inputs: Any, **scales: Any) -> tuple[Any, tuple[Any, ...]]:
        """Give the op for these inputs and its arguments.

        Args:
            *inputs: Of the op, a QuantizedTensor where it takes one.
            **scales: Of a producer, by name.
        """
        first = inputs[0]
        if self.config.op == "linear":
            weights = list(self.weights)
            if not isinstance(first, QuantizedTensor):
                return self.op, (first, weights, self.key)
            form = form_key(first.operand, first.layout)
            parts = (first.data, first.scales, first.global_scale, first.m)
            return self.op_quantized, (*parts, weights, form, self.key)
        if self.config.op == "relayout":
            return self.op, (first.data, first.scales, first.global_scale, first.m, self.key)
        given = [scales.get(name) for name in SIGNATURES[self.config.op].scales]
        return self.op, (*inputs, *given, self.key)

    def __call__(self, *inputs: Any, **scales: Any) -> Any:
        """Call the op: y of a linear; data, scales and a computed global scale of a producer."""
        op, arguments = self.arguments(*inputs, **scales)
        return op(*arguments)


def kernel_op(
    kernel: str,
    config: LayerConfig,
    device: DeviceProfile,
    weights: LinearWeights | None = None,
    *,
    context: Context | None = None,
    self_check: SelfCheck = "first_use",
) -> KernelOp:
    """Bind one kernel for a config and give its op.

    Args:
        kernel: Its id, ``backend/stem``.
        config: What it is bound for.
        device: Where.
        weights: Canonical weights of a linear.
        context: Registry and quarantine; None takes the process's.
        self_check: As in `quantmux.Policy`.

    Raises:
        BuildError: It cannot be built here.
        ConfigError: A linear without weights.
        ForcedKernelError: It cannot serve the config; names its rejections.
    """
    here = default_context() if context is None else context
    spec = here.registry.get(kernel)
    fallback = FallbackPolicy(build="error")
    policy = Policy(force=kernel, allow_lossy="allow", fallback=fallback, self_check=self_check)
    selection = here.select(config, device, call_overrides=policy)
    name = op_name(spec)
    if config.op != "linear":
        program = keep_producer(bind_producer(selection, context=here, wait=True), here)
        return KernelOp(kernel, config, _overload(name), None, program.key, ())
    if weights is None:
        raise ConfigError(f"{kernel} is a linear: its op takes weights")
    bound = bind(selection, weights, context=here, wait=True)
    key, tensors = expose(bound, here, None)
    quantized = _overload(f"{name}_quantized")
    return KernelOp(kernel, config, _overload(name), quantized, key, tensors, bound)


def op_name(spec: KernelSpec) -> str:
    """Give the qualified name of a kernel's op, which is defined at the first call.

    The namespace is the plugin's; what of the stem cannot stand in a name becomes ``_``.

    Raises:
        BuildError: Another kernel of the plugin has the same name then.
    """
    with _lock:
        known = _names.get(spec.id)
        if known is not None:
            return known
        stem = re.sub(r"[^a-z0-9_]", "_", spec.id.partition("/")[2])
        # a name begins with a letter
        stem = stem if stem[0].isalpha() else f"k{stem}"
        namespace = namespace_of(spec.backend)
        name = f"{namespace}::{stem}"
        owner = _owners.setdefault(name, spec.id)
        if owner != spec.id:
            raise BuildError(
                f"{spec.id} and {owner} have one name as ops: {name}",
                hint="rename one of them: . + and - of a kernel's id are _ in its op",
            )
        _define(spec, stem, namespace)
        _names[spec.id] = name
        return name


def _define(spec: KernelSpec, stem: str, namespace: str) -> None:
    kernel = spec.id
    if spec.op == "linear":
        only: Callable[[str], None] = partial(_only_linear, kernel)
        for name, arguments, run, fake in (
            (stem, LINEAR_ARGUMENTS, run_linear, fake_linear),
            (f"{stem}_quantized", QUANTIZED_ARGUMENTS, run_linear_quantized, fake_linear_quantized),
        ):
            define(f"{name}({arguments}) -> Tensor", _after(only, run), fake, namespace)
        return
    only = partial(_only_producer, kernel)
    if spec.op == "relayout":
        schema = f"{stem}({RELAYOUT_ARGUMENTS}, str key) -> Tensor[]"
        define(schema, _after(only, run_relayout), fake_relayout, namespace)
        return
    schema = f"{stem}({SIGNATURES[spec.op].text}str key) -> Tensor[]"
    run = _after(only, partial(run_producer, spec.op))
    define(schema, run, partial(fake_producer, spec.op), namespace)


def _after(only: Callable[[str], None], run: Callable[..., Any]) -> Callable[..., Any]:
    """Give an implementation that first looks whether its key names its kernel."""

    def checked(*args: Any) -> Any:
        only(args[-1])
        return run(*args)

    return checked


def _only_linear(kernel: str, key: str) -> None:
    _require(kernel, linear_program(key).selection.kernels)


def _only_producer(kernel: str, key: str) -> None:
    _require(kernel, producer_program(key).bound.selection.kernels)


def _require(kernel: str, kernels: tuple[str, ...]) -> None:
    if kernel not in kernels:
        raise BuildError(
            f"the op of {kernel} was called with the key of another kernel",
            facts=["the key names: " + " ".join(kernels)],
            hint="use the op and the key of one KernelOp",
        )


def _overload(name: str) -> Any:
    namespace, _, stem = name.partition("::")
    return getattr(getattr(torch.ops, namespace), stem).default


__all__: Final = ["KernelOp", "kernel_op", "op_name"]
