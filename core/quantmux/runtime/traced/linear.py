"""The ops of a bound linear: ``quantmux::linear`` and ``quantmux::linear_quantized``.

The weights are arguments, all of them: the op is a function of what it is given, and nothing is
hidden from functionalization, CUDA-graph trees or ``opcheck``. What was bound is found again by
their addresses; weights that nobody bound (a copy that a transformation made) are bound then.
"""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet, WeakValueDictionary, finalize

from quantmux.ops.linear.spec import empty_output
from quantmux.ops.quantized import DTYPES, QuantizedTensor
from quantmux.registry.protocol import PreparedWeights
from quantmux.runtime.binding import BoundLinear, bind_prepared
from quantmux.runtime.prepare import WeightStore
from quantmux.runtime.traced.keys import (
    SMALL,
    Form,
    form_of,
    keep_linear,
    linear_program,
)
from quantmux.runtime.traced.library import define

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from quantmux.runtime.context import Context
    from quantmux.runtime.traced.keys import LinearProgram

_MOST_ADOPTED: Final = 64
"""Bindings kept for weights that no layer holds; the least recently used goes."""

_held: WeakValueDictionary[tuple[Any, ...], BoundLinear] = WeakValueDictionary()
_twins: dict[tuple[Any, ...], WeakSet[BoundLinear]] = {}
"""Others that were bound to the same tensors: they serve when the one in `_held` is gone."""

_adopted: OrderedDict[tuple[Any, ...], BoundLinear] = OrderedDict()
_lock = Lock()


def expose(
    bound: BoundLinear, context: Context, layer: str | None
) -> tuple[str, tuple[torch.Tensor, ...]]:
    """Give the key of a bound linear and the weights that its op is called with.

    Args:
        bound: Found again by calls of the op for as long as somebody else holds it.
        context: It was bound in.
        layer: Its name.
    """
    store = bound.store
    held = sorted(store.forms.items())
    forms = tuple(
        Form(name, tuple(sorted(form.tensors)), tuple(sorted(form.facts.items())))
        for name, form in held
    )
    weights = [form.tensors[name] for _, form in held for name in sorted(form.tensors)]
    given = {name: store.small(name) for name in SMALL}
    small = tuple(name for name, tensor in given.items() if tensor is not None)
    weights += [tensor for tensor in given.values() if tensor is not None]
    program = keep_linear(bound.selection, context, layer, forms, small)
    address = _address(program.key, weights)
    with _lock:
        known = _held.setdefault(address, bound)
        if known is not bound:
            _twins.setdefault(address, WeakSet()).add(bound)
    return program.key, tuple(weights)


def bound_of(key: str, weights: Sequence[torch.Tensor]) -> BoundLinear:
    """Give the bound linear of a key and its weights.

    Raises:
        BuildError: The key is not known here, or the weights are not as many as it names.
    """
    address = _address(key, weights)
    found = _held.get(address)
    return found if found is not None else _adopt(address, key, weights)


def _address(key: str, weights: Sequence[torch.Tensor]) -> tuple[Any, ...]:
    return (key, *[tensor.data_ptr() for tensor in weights])


def _adopt(address: tuple[Any, ...], key: str, weights: Sequence[torch.Tensor]) -> BoundLinear:
    """Bind weights that no layer holds, and keep that for the next call."""
    with _lock:
        for twin in _twins.pop(address, ()):
            # the others, if any, come again when this one is gone
            rest = _twins.setdefault(address, WeakSet())
            if _held.setdefault(address, twin) is not twin:
                rest.add(twin)
        held = _held.get(address)
        if held is not None:
            return held
        found = _adopted.get(address)
        if found is not None:
            _adopted.move_to_end(address)
            return found
    program = linear_program(key)
    # aliases, so that the tensors themselves can die, and their entry with the first of them
    store = _store(program, [tensor.detach() for tensor in weights])
    made = bind_prepared(program.selection, store, context=program.context, layer=program.layer)
    with _lock:
        # what is bound holds the memory: the addresses stay its own while it is kept
        _adopted[address] = made
        while len(_adopted) > _MOST_ADOPTED:
            _adopted.popitem(last=False)
    finalize(weights[0], _adopted.pop, address, None)
    return made


def _store(program: LinearProgram, weights: Sequence[torch.Tensor]) -> WeightStore:
    config: Any = program.selection.config
    rest = iter(weights)
    forms = {
        form.layout: PreparedWeights(
            {name: next(rest) for name in form.names},
            form.layout,
            config.n,
            config.k,
            facts=dict(form.facts),
        )
        for form in program.forms
    }
    small = {name: next(rest) for name in program.small}
    device = program.selection.device
    return WeightStore(None, config, device, "never", forms=forms, small=small)


def run_linear(x: torch.Tensor, weights: Sequence[torch.Tensor], key: str) -> torch.Tensor:
    """Run the bound linear on a plain x [M, K]."""
    return as_promised(bound_of(key, weights).call(x), key)


def run_linear_quantized(
    data: torch.Tensor,
    scales: torch.Tensor,
    global_scale: torch.Tensor | None,
    m: int,
    weights: Sequence[torch.Tensor],
    form: str,
    key: str,
) -> torch.Tensor:
    """Run the bound linear on an x [M, K] that is quantized already."""
    bound = bound_of(key, weights)
    operand, layout = form_of(form)
    config: Any = bound.selection.config
    q = QuantizedTensor(data, scales, global_scale, operand, layout, (m, config.k))
    return as_promised(bound.call(q), key)


def fake_output(x: torch.Tensor, m: int, key: str) -> torch.Tensor:
    """Give an output [m, N] without values where x lies."""
    program = linear_program(key)
    config: Any = program.selection.config
    dtype, stride = DTYPES[config.out_dtype], program.row_stride
    return empty_output(m, config.n, dtype, x.device, stride)


def as_promised(y: torch.Tensor, key: str) -> torch.Tensor:
    """Give an output with the strides that its graph was told; copied where they are others.

    They are where N is odd and kernels of several M ranges differ, or where another kernel than was
    bound had to serve.
    """
    if y.stride(0) == linear_program(key).row_stride or y.shape[0] < 2:
        return y
    return fake_output(y, y.shape[0], key).copy_(y)


def fake_linear(x: torch.Tensor, weights: Sequence[torch.Tensor], key: str) -> torch.Tensor:
    """Give what `run_linear` gives, without values."""
    del weights
    return fake_output(x, x.shape[0], key)


def fake_linear_quantized(
    data: torch.Tensor,
    scales: torch.Tensor,
    global_scale: torch.Tensor | None,
    m: int,
    weights: Sequence[torch.Tensor],
    form: str,
    key: str,
) -> torch.Tensor:
    """Give what `run_linear_quantized` gives, without values."""
    del scales, global_scale, weights, form
    return fake_output(data, m, key)


LINEAR_ARGUMENTS: Final = "Tensor x, Tensor[] weights, str key"
QUANTIZED_ARGUMENTS: Final = (
    "Tensor data, Tensor scales, Tensor? global_scale, SymInt m, "
    "Tensor[] weights, str form, str key"
)
define(f"linear({LINEAR_ARGUMENTS}) -> Tensor", run_linear, fake_linear)
define(
    f"linear_quantized({QUANTIZED_ARGUMENTS}) -> Tensor",
    run_linear_quantized,
    fake_linear_quantized,
)
