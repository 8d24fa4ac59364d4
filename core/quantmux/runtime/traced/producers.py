"""The ops of producers and relayouts: ``quantmux::quantize`` and so on, with ``_out`` twins.

An op gives the tensors of a `QuantizedTensor`: data, scales and, where the call computes it, the
global scale. A global scale that was given is not among them, since an op returns no input.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.ops.quantized import QuantizedTensor
from quantmux.ops.spec import op_spec
from quantmux.runtime.traced.keys import producer_program
from quantmux.runtime.traced.library import define

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantmux.config import LayerConfig


@dataclass(frozen=True, slots=True)
class Signature:
    """Arguments of an op, in order: its inputs, then the scales that may be given.

    Attributes:
        inputs: Tensors that are always there.
        scales: Tensors that may be.
    """

    inputs: tuple[str, ...]
    scales: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Them as in a schema, each with a comma behind it."""
        always = "".join(f"Tensor {name}, " for name in self.inputs)
        return always + "".join(f"Tensor? {name}, " for name in self.scales)


SIGNATURES: Final = {
    "quantize": Signature(("x",), ("scale", "global_scale")),
    "silu_mul_quantize": Signature(("x",), ("scale", "global_scale")),
    "rmsnorm_quantize": Signature(("x", "weight"), ("scale", "global_scale")),
    "rope_quantize": Signature(("x", "positions", "cos_sin_cache"), ("scale",)),
    "inverse_rope_quantize": Signature(("o", "positions", "cos_sin_cache")),
}


HIDDEN_ROWS: Final = ("col_major_aligned4", "packed_pow2")
"""Layouts whose pad rows lie in the storage of the scales, beyond their shape. Functionalization
copies what it is told is written, as far as its shape goes, and would lose them: a result in such a
layout cannot be written in place in a graph. Results that are returned are not copied."""


def call_in_graph(
    op: str,
    given: tuple[torch.Tensor | None, ...],
    config: Any,
    key: str,
    out: QuantizedTensor | None,
) -> QuantizedTensor:
    """Give the result of an op in a graph that is being traced.

    Args:
        op: Of `SIGNATURES`.
        given: All its tensors, in order; None for a scale that is not given.
        config: Of the op; static in the graph.
        key: Names what is bound.
        out: Written into and returned.
    """
    ops = torch.ops.quantmux
    if out is not None:
        getattr(ops, f"{op}_out")(*given, list(out.tensors()), key)
        return out
    parts = getattr(ops, op)(*given, key)
    global_scale = None
    if config.operand.is_nvfp4:
        global_scale = given[-1] if given[-1] is not None else parts[2]
    shape = logical_shape(config, given[0].shape[0])  # type: ignore[union-attr]
    return QuantizedTensor(parts[0], parts[1], global_scale, config.operand, config.layout, shape)


def relayout_in_graph(q: QuantizedTensor, target: Any, key: str) -> QuantizedTensor:
    """Give a relayout in a graph that is being traced; its global scale stays the tensor it is."""
    shape = q.logical_shape
    parts = torch.ops.quantmux.relayout(q.data, q.scales, q.global_scale, shape[0], key)
    return QuantizedTensor(parts[0], parts[1], q.global_scale, q.operand, target, shape)


def relayout_into_in_graph(q: QuantizedTensor, out: QuantizedTensor, key: str) -> QuantizedTensor:
    """Write a relayout into ``out`` in a graph that is being traced."""
    torch.ops.quantmux.relayout_out(
        q.data, q.scales, q.global_scale, q.logical_shape[0], list(out.tensors()), key
    )
    return out


def logical_shape(config: Any, m: int) -> tuple[int, ...]:
    """Give the logical shape of a result with M rows."""
    if config.op == "inverse_rope_quantize":
        return (m, config.groups, config.n)
    if config.op == "rope_quantize":
        return (m, config.heads, config.head_dim)
    return (m, config.n)


def run_producer(op: str, *args: Any) -> list[torch.Tensor]:
    """Run a bound producer; the arguments are those of its op."""
    *tensors, key = args
    program = producer_program(key)
    inputs, scales = _split(op, tensors)
    q = program.bound.call(*inputs, **scales)
    return _fresh(q, tensors, with_global="global_scale" not in scales)


def _run_out(op: str, *args: Any) -> None:
    *tensors, out, key = args
    program = producer_program(key)
    inputs, scales = _split(op, tensors)
    config: Any = program.config
    shape = logical_shape(config, inputs[0].shape[0])
    program.bound.call(*inputs, **scales, out=around(out, config, config.layout, shape))


def run_relayout(
    data: torch.Tensor, scales: torch.Tensor, global_scale: torch.Tensor | None, m: int, key: str
) -> list[torch.Tensor]:
    """Run a bound relayout."""
    program = producer_program(key)
    q = program.bound.call(_source(program.config, data, scales, global_scale, m))
    given = [data, scales] if global_scale is None else [data, scales, global_scale]
    return _fresh(q, given, with_global=False)


def _relayout_out(
    data: torch.Tensor,
    scales: torch.Tensor,
    global_scale: torch.Tensor | None,
    m: int,
    out: list[torch.Tensor],
    key: str,
) -> None:
    program = producer_program(key)
    config: Any = program.config
    into = around(out, config, config.target, (m, config.n))
    program.bound.call(_source(config, data, scales, global_scale, m), out=into)


def _source(
    config: Any,
    data: torch.Tensor,
    scales: torch.Tensor,
    global_scale: torch.Tensor | None,
    m: int,
) -> QuantizedTensor:
    shape = (m, config.n)
    return QuantizedTensor(data, scales, global_scale, config.operand, config.source, shape)


def around(
    tensors: list[torch.Tensor], config: Any, layout: Any, shape: tuple[int, ...]
) -> QuantizedTensor:
    """Give the quantized tensor that these tensors are."""
    global_scale = tensors[2] if len(tensors) > 2 else None
    return QuantizedTensor(tensors[0], tensors[1], global_scale, config.operand, layout, shape)


def _split(
    op: str, tensors: Sequence[torch.Tensor | None]
) -> tuple[list[Any], dict[str, torch.Tensor]]:
    signature = SIGNATURES[op]
    count = len(signature.inputs)
    pairs = zip(signature.scales, tensors[count:], strict=True)
    return list(tensors[:count]), {name: tensor for name, tensor in pairs if tensor is not None}


def _fresh(
    q: QuantizedTensor, given: Sequence[torch.Tensor | None], *, with_global: bool
) -> list[torch.Tensor]:
    """Give the tensors of a result; a copy of one that lies in the memory of an input."""
    parts = [q.data, q.scales]
    if with_global and q.global_scale is not None:
        parts.append(q.global_scale)
    taken = {t.untyped_storage().data_ptr() for t in given if t is not None}
    return [p.clone() if p.untyped_storage().data_ptr() in taken else p for p in parts]


def fake_producer(op: str, *args: Any) -> list[torch.Tensor]:
    """Give what `run_producer` gives, without values."""
    *tensors, key = args
    config: Any = producer_program(key).config
    _, scales = _split(op, tensors)
    x = tensors[0]
    return _fake_parts(config, x.shape[0], x.device, with_global="global_scale" not in scales)


def fake_relayout(
    data: torch.Tensor, scales: torch.Tensor, global_scale: torch.Tensor | None, m: int, key: str
) -> list[torch.Tensor]:
    """Give what `run_relayout` gives, without values."""
    del scales, global_scale
    return _fake_parts(producer_program(key).config, m, data.device, with_global=False)


def _fake_parts(
    config: LayerConfig, m: int, device: torch.device, *, with_global: bool
) -> list[torch.Tensor]:
    """Give the tensors of the op's own fake, on the device of the graph."""
    q: Any = op_spec(config.op).fake(config, m)
    parts = q.tensors() if with_global else (q.data, q.scales)
    return [torch.empty_strided(p.shape, p.stride(), dtype=p.dtype, device=device) for p in parts]


def _nothing(*args: Any) -> None:
    """The fake of an op that writes into what it is given."""
    del args


for _op, _signature in SIGNATURES.items():
    define(
        f"{_op}({_signature.text}str key) -> Tensor[]",
        partial(run_producer, _op),
        partial(fake_producer, _op),
    )
    define(
        f"{_op}_out({_signature.text}Tensor(a!)[] out, str key) -> ()",
        partial(_run_out, _op),
        _nothing,
    )
RELAYOUT_ARGUMENTS: Final = "Tensor data, Tensor scales, Tensor? global_scale, SymInt m"
define(f"relayout({RELAYOUT_ARGUMENTS}, str key) -> Tensor[]", run_relayout, fake_relayout)
define(
    f"relayout_out({RELAYOUT_ARGUMENTS}, Tensor(a!)[] out, str key) -> ()", _relayout_out, _nothing
)
