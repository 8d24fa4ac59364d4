"""The producer ops as functions: select (cached), bind (cached), call.

Under torch.compile each is one `torch.library` op: kernels are chosen while the graph is traced.
Only a given ``out`` whose scales have pad rows (`HIDDEN_ROWS`) is one graph break.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.capability.detect import resolve_device
from quantmux.config.layers import (
    InverseRopeQuantizeConfig,
    QuantizeConfig,
    RelayoutConfig,
    RmsNormQuantizeConfig,
    RopeQuantizeConfig,
    SiluMulQuantizeConfig,
)
from quantmux.config.policy import Policy
from quantmux.config.policy_context import current_context
from quantmux.errors import ConfigError, InputError
from quantmux.ops.quantized import QuantizedTensor
from quantmux.runtime.binding import BoundProducer, bind_producer
from quantmux.runtime.capture import refuse_to_bind
from quantmux.runtime.context import context_of, default_context
from quantmux.runtime.failures import is_capturing
from quantmux.runtime.inputs import as_layout
from quantmux.runtime.traced.keys import keep_producer
from quantmux.runtime.traced.library import constant
from quantmux.runtime.traced.producers import (
    HIDDEN_ROWS,
    SIGNATURES,
    call_in_graph,
    relayout_in_graph,
    relayout_into_in_graph,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LayerConfig, Layout
    from quantmux.runtime.context import Context


def quantize(
    x: torch.Tensor,
    config: QuantizeConfig,
    *,
    scale: torch.Tensor | None = None,
    global_scale: torch.Tensor | None = None,
    backend: str | None = None,
    out: QuantizedTensor | None = None,
    context: Context | None = None,
) -> QuantizedTensor:
    """Quantize x [M, n] by the best kernel on its device.

    Args:
        x: [M, n] in ``config.in_dtype``.
        config: Operand, layout, input format.
        scale: fp32 [1] dequant multiplier of static operands, else None.
        global_scale: fp32 [1] dequant multiplier g of NVFP4; None computes it from x.
        backend: A backend or a kernel id that must serve.
        out: Written into, padding included, and returned; allocated when None.
        context: Registry and quarantine; None takes the process's.

    Raises:
        ForcedKernelError: ``backend`` cannot serve; names its rejections.
        InputError: x, a scale or ``out`` does not fit the config.
        NoKernelError: Nothing can serve.
    """
    if torch.compiler.is_dynamo_compiling():
        tensors = (x, scale, global_scale)
        return _in_graph("quantize", tensors, config, backend, out, context)
    call = _bound_for(QuantizeConfig, config, x, backend, context).call
    given = _scales(scale, global_scale)
    result: QuantizedTensor = call(x, out=out, **given)
    return result


def silu_mul_quantize(
    x: torch.Tensor,
    config: SiluMulQuantizeConfig,
    *,
    scale: torch.Tensor | None = None,
    global_scale: torch.Tensor | None = None,
    backend: str | None = None,
    out: QuantizedTensor | None = None,
    context: Context | None = None,
) -> QuantizedTensor:
    """Quantize ``silu(gate) · up`` of x [M, 2n] = [gate | up]; arguments as `quantize`."""
    if torch.compiler.is_dynamo_compiling():
        tensors = (x, scale, global_scale)
        return _in_graph("silu_mul_quantize", tensors, config, backend, out, context)
    call = _bound_for(SiluMulQuantizeConfig, config, x, backend, context).call
    given = _scales(scale, global_scale)
    result: QuantizedTensor = call(x, out=out, **given)
    return result


def inverse_rope_quantize(
    o: torch.Tensor,
    positions: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    config: InverseRopeQuantizeConfig,
    *,
    backend: str | None = None,
    out: QuantizedTensor | None = None,
    context: Context | None = None,
) -> QuantizedTensor:
    """Undo RoPE on o [T, heads, head_dim] and quantize per head group.

    Args:
        o: [T, heads, head_dim] in ``config.in_dtype``.
        positions: int64 [T].
        cos_sin_cache: fp32 [P, rope_dim] = cos | sin.
        config: Heads, dimensions, operand and layout.
        backend: A backend or a kernel id that must serve.
        out: Written into and returned; allocated when None.
        context: Registry and quarantine; None takes the process's.

    Returns:
        Logically [T, groups, n] on memory [groups, T, n].

    Raises:
        ForcedKernelError: ``backend`` cannot serve; names its rejections.
        InputError: A tensor does not fit the config.
        NoKernelError: Nothing can serve.
    """
    if torch.compiler.is_dynamo_compiling():
        tensors = (o, positions, cos_sin_cache)
        return _in_graph("inverse_rope_quantize", tensors, config, backend, out, context)
    call = _bound_for(InverseRopeQuantizeConfig, config, o, backend, context).call
    result: QuantizedTensor = call(o, positions, cos_sin_cache, out=out)
    return result


def rmsnorm_quantize(
    x: torch.Tensor,
    weight: torch.Tensor,
    config: RmsNormQuantizeConfig,
    *,
    scale: torch.Tensor | None = None,
    global_scale: torch.Tensor | None = None,
    backend: str | None = None,
    out: QuantizedTensor | None = None,
    context: Context | None = None,
) -> QuantizedTensor:
    """Quantize ``x / sqrt(mean(x²) + norm_eps) · weight`` of x [M, n].

    Args:
        x: [M, n] in ``config.in_dtype``.
        weight: [n] in ``config.weight_dtype``.
        config: Operand, layout, input format, norm_eps.
        scale: As in `quantize`.
        global_scale: As in `quantize`.
        backend: As in `quantize`.
        out: As in `quantize`.
        context: As in `quantize`.

    Raises:
        ForcedKernelError: ``backend`` cannot serve; names its rejections.
        InputError: x, the weight, a scale or ``out`` does not fit the config.
        NoKernelError: Nothing can serve.
    """
    if torch.compiler.is_dynamo_compiling():
        tensors = (x, weight, scale, global_scale)
        return _in_graph("rmsnorm_quantize", tensors, config, backend, out, context)
    call = _bound_for(RmsNormQuantizeConfig, config, x, backend, context).call
    given = _scales(scale, global_scale)
    result: QuantizedTensor = call(x, weight, out=out, **given)
    return result


def rope_quantize(
    x: torch.Tensor,
    positions: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    config: RopeQuantizeConfig,
    *,
    scale: torch.Tensor | None = None,
    backend: str | None = None,
    out: QuantizedTensor | None = None,
    context: Context | None = None,
) -> QuantizedTensor:
    """Apply RoPE to x [T, heads, head_dim] and quantize all of it with one given scale.

    Args:
        x: [T, heads, head_dim] in ``config.in_dtype``; may be some heads of a wider row.
        positions: int64 [T].
        cos_sin_cache: fp32 [P, rope_dim] = cos | sin.
        config: Heads, dimensions, pairs, operand.
        scale: fp32 [1] dequant multiplier, unless the config has ``static_scale``.
        backend: A backend or a kernel id that must serve.
        out: Written into and returned; allocated when None.
        context: Registry and quarantine; None takes the process's.

    Returns:
        Logically [T, heads, head_dim], contiguous, with its scale [1].

    Raises:
        ForcedKernelError: ``backend`` cannot serve; names its rejections.
        InputError: A tensor or the scale does not fit the config.
        NoKernelError: Nothing can serve.
    """
    if torch.compiler.is_dynamo_compiling():
        tensors = (x, positions, cos_sin_cache, scale)
        return _in_graph("rope_quantize", tensors, config, backend, out, context)
    call = _bound_for(RopeQuantizeConfig, config, x, backend, context).call
    given = _scales(scale, None)
    result: QuantizedTensor = call(x, positions, cos_sin_cache, out=out, **given)
    return result


def relayout(
    q: QuantizedTensor,
    layout: str | Layout,
    *,
    backend: str | None = None,
    out: QuantizedTensor | None = None,
    context: Context | None = None,
) -> QuantizedTensor:
    """Move a quantized matrix into another layout; no number changes.

    Args:
        q: Quantized matrix [M, n].
        layout: A scale layout's name (the padding stays), or a `Layout`.
        backend: A backend or a kernel id that must serve.
        out: Written into and returned; allocated when None.
        context: Registry and quarantine; None takes the process's.

    Returns:
        The matrix in the layout; ``q`` itself when it lies so already and ``out`` is None.

    Raises:
        ConfigError: The operand has no such layout.
        ForcedKernelError: ``backend`` cannot serve; names its rejections.
        NoKernelError: Nothing can serve.
    """
    if torch.compiler.is_dynamo_compiling():
        return _relayout_in_graph(q, layout, backend, out, context)
    if not isinstance(q, QuantizedTensor):
        raise InputError(f"relayout needs a QuantizedTensor, found {type(q).__name__}")
    target = as_layout(layout, q.layout)
    if target == q.layout and out is None:
        return q
    config = RelayoutConfig(operand=q.operand, n=q.n, source=q.layout, target=target)
    call = _bound_for(RelayoutConfig, config, q, backend, context).call
    result: QuantizedTensor = call(q, out=out)
    return result


CONFIGS: Final[dict[str, type[LayerConfig]]] = {
    "quantize": QuantizeConfig,
    "silu_mul_quantize": SiluMulQuantizeConfig,
    "inverse_rope_quantize": InverseRopeQuantizeConfig,
    "rmsnorm_quantize": RmsNormQuantizeConfig,
    "rope_quantize": RopeQuantizeConfig,
    "relayout": RelayoutConfig,
}
"""Config of every producer op."""


def profile_of(device: torch.device) -> DeviceProfile:
    """Give the profile of the device a tensor lies on; cached.

    Raises:
        ConfigError: It is no device that kernels are chosen for.
    """
    return _profile(device.type, device.index)


@lru_cache(maxsize=64)
def _profile(kind: str, index: int | None) -> DeviceProfile:
    return resolve_device(torch.device(kind) if index is None else torch.device(kind, index))


@lru_cache(maxsize=256)
def _forced(backend: str) -> Policy:
    return Policy(force=backend)


def _in_graph(
    op: str,
    given: tuple[Any, ...],
    config: Any,
    backend: str | None,
    out: QuantizedTensor | None,
    context: Context | None,
) -> QuantizedTensor:
    """Give what dynamo traces in place of a call."""
    if out is not None and out.layout.scales in HIDDEN_ROWS:
        names = (*SIGNATURES[op].inputs, *SIGNATURES[op].scales)
        named = dict(zip(names, given, strict=True))
        return _untraced(
            _FUNCTIONS[op], **named, config=config, backend=backend, out=out, context=context
        )
    token = None if context is None else context.token
    key = _key_in_graph(op, config, given[0].device, backend, token)
    return call_in_graph(op, given, config, key, out)


def _relayout_in_graph(
    q: QuantizedTensor,
    layout: str | Layout,
    backend: str | None,
    out: QuantizedTensor | None,
    context: Context | None,
) -> QuantizedTensor:
    if out is not None and out.layout.scales in HIDDEN_ROWS:
        return _untraced(relayout, q, layout, backend=backend, out=out, context=context)
    name = _target_in_graph(layout, q.layout)
    if name == _target_in_graph(q.layout, q.layout) and out is None:
        return q
    target = getattr(layouts_in_graphs, name)
    token = None if context is None else context.token
    key = _relayout_key(q.operand, q.n, q.layout, target, q.device, backend, token)
    if out is not None:
        return relayout_into_in_graph(q, out, key)
    return relayout_in_graph(q, target, key)


def _untraced(
    function: Callable[..., QuantizedTensor], *args: Any, **kwargs: Any
) -> QuantizedTensor:
    from quantmux.runtime.untraced import untraced

    result: QuantizedTensor = untraced(function, *args, **kwargs)
    return result


@constant
def _key_in_graph(
    op: str, config: Any, device: torch.device, backend: str | None, token: str | None
) -> str:
    """Bind while dynamo traces; gives the key of what was bound."""
    context = default_context() if token is None else context_of(token)
    found = _bound(CONFIGS[op], config, device, backend, context)
    return keep_producer(found, context).key


@constant
def _relayout_key(
    operand: Any,
    n: int,
    source: Layout,
    target: Layout,
    device: torch.device,
    backend: str | None,
    token: str | None,
) -> str:
    config = RelayoutConfig(operand=operand, n=n, source=source, target=target)
    context = default_context() if token is None else context_of(token)
    found = _bound(RelayoutConfig, config, device, backend, context)
    return keep_producer(found, context).key


@constant
def _target_in_graph(layout: str | Layout, like: Layout) -> str:
    """Give the attribute of `layouts_in_graphs` that holds a layout; dynamo guards on that."""
    target = as_layout(layout, like)
    name = "layout_" + hashlib.sha256(target.model_dump_json().encode()).hexdigest()[:10]
    setattr(layouts_in_graphs, name, target)
    return name


class _Layouts:
    """Layouts by name: an object that a function makes cannot be guarded, an attribute can."""


layouts_in_graphs: Any = _Layouts()


_FUNCTIONS: Final[dict[str, Callable[..., QuantizedTensor]]] = {
    "quantize": quantize,
    "silu_mul_quantize": silu_mul_quantize,
    "inverse_rope_quantize": inverse_rope_quantize,
    "rmsnorm_quantize": rmsnorm_quantize,
    "rope_quantize": rope_quantize,
}


def _scales(
    scale: torch.Tensor | None, global_scale: torch.Tensor | None
) -> dict[str, torch.Tensor]:
    given: dict[str, torch.Tensor] = {}
    if scale is not None:
        given["scale"] = scale
    if global_scale is not None:
        given["global_scale"] = global_scale
    return given


def _bound_for(
    kind: type[LayerConfig], config: Any, x: Any, backend: str | None, context: Context | None
) -> BoundProducer:
    """Give the bound producer of a config where x lies."""
    device = getattr(x, "device", None)
    if not isinstance(device, torch.device):
        raise InputError(f"{kind.__name__[:-6]} needs a tensor, found {type(x).__name__}")
    return _bound(kind, config, device, backend, context)


def _bound(
    kind: type[LayerConfig],
    config: Any,
    device: torch.device,
    backend: str | None,
    context: Context | None,
) -> BoundProducer:
    """Give the bound producer of a config on a device; bound once per policy."""
    if type(config) is not kind:
        raise ConfigError(
            f"a {kind.__name__} is asked for, found {type(config).__name__}",
            hint="each producer takes the config of its own op",
        )
    here = default_context() if context is None else context
    profile = profile_of(device)
    call = None if backend is None else _forced(backend)

    def make() -> BoundProducer:
        refuse_to_bind(str(config), is_linear=False)
        return bind_producer(here.select(config, profile, call_overrides=call), context=here)

    key = (config, profile, call, current_context())
    found: BoundProducer = here.remember(key, make)
    if found.has_news and not is_capturing():
        # nobody holds this one but the context: the next call may go to what is compiled by now
        here.forget(key)
        found = here.remember(key, make)
    return found
