"""The ops ``quantmux::fused_quantize`` and its ``_out`` twin: a prologue and one quantizer.

They stand where the model itself quantizes what a prologue computes. Their key is JSON that names
the quantizer's program, as that of ``fused_linear`` does; see there.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.config.policy import Policy
from quantmux.ops.spec import op_spec
from quantmux.runtime.binding import bind_producer
from quantmux.runtime.traced.keys import keep_producer, producer_program
from quantmux.runtime.traced.legality import quantizer_segments
from quantmux.runtime.traced.library import define
from quantmux.runtime.traced.prologue import Prologue

if TYPE_CHECKING:
    from quantmux.runtime.traced.keys import ProducerProgram


def quantize_key(prologue: Prologue, quantize: str, policy: Policy | None) -> str:
    """Give the key of the op for a prologue before the quantizer of a key."""
    given = None if policy is None else json.loads(policy.model_dump_json(exclude_unset=True))
    data = {"prologue": prologue.to_dict(), "quantize": quantize, "policy": given}
    return json.dumps(data, sort_keys=True, separators=(",", ":"))


# Per key: the quantizer it was worked out for, the prologue, and the key of the fused producer,
# which is None where there is none.
_known: dict[str, tuple[ProducerProgram, Prologue, str | None]] = {}


def _worked_out(key: str) -> tuple[ProducerProgram, Prologue, str | None]:
    found = _known.get(key)
    if found is not None and producer_program(found[0].key) is found[0]:
        return found
    data = json.loads(key)
    program = producer_program(data["quantize"])
    prologue = Prologue.of_dict(data["prologue"])
    policy = None if data["policy"] is None else Policy(**data["policy"])
    parts = quantizer_segments(prologue, program, policy)
    fused = None
    if all(segment.is_fused for segment in parts):
        selection, context = parts[0].groups[0].selection, program.context
        name = ("fused", selection.config, selection.device, selection.settings)
        bound = context.remember(name, lambda: bind_producer(selection, context=context))
        fused = keep_producer(bound, context).key
    found = _known[key] = (program, prologue, fused)
    return found


def _fused_quantize(
    inputs: list[torch.Tensor],
    scale: torch.Tensor | None,
    global_scale: torch.Tensor | None,
    key: str,
) -> list[torch.Tensor]:
    program, prologue, fused = _worked_out(key)
    ops = torch.ops.quantmux
    if fused is not None:
        op = getattr(ops, prologue.op)
        return op(*inputs, scale, global_scale, fused)  # type: ignore[no-any-return]
    config: Any = program.config
    x = prologue.plain(inputs, config.in_dtype)
    return ops.quantize(x, scale, global_scale, program.key)  # type: ignore[no-any-return]


def _fused_quantize_out(
    inputs: list[torch.Tensor],
    scale: torch.Tensor | None,
    global_scale: torch.Tensor | None,
    out: list[torch.Tensor],
    key: str,
) -> None:
    program, prologue, fused = _worked_out(key)
    ops = torch.ops.quantmux
    if fused is not None:
        getattr(ops, f"{prologue.op}_out")(*inputs, scale, global_scale, out, fused)
        return
    config: Any = program.config
    x = prologue.plain(inputs, config.in_dtype)
    ops.quantize_out(x, scale, global_scale, out, program.key)


def _fake(
    inputs: list[torch.Tensor],
    scale: torch.Tensor | None,
    global_scale: torch.Tensor | None,
    key: str,
) -> list[torch.Tensor]:
    del scale
    # nothing is bound here: under fake tensors no kernel can be looked at
    config: Any = producer_program(json.loads(key)["quantize"]).config
    x = inputs[0]
    q: Any = op_spec("quantize").fake(config, x.shape[0])
    parts = q.tensors() if global_scale is None else (q.data, q.scales)
    return [torch.empty_strided(p.shape, p.stride(), dtype=p.dtype, device=x.device) for p in parts]


def _nothing(*args: Any) -> None:
    """The fake of an op that writes into what it is given."""
    del args


_ARGUMENTS: Final = "Tensor[] inputs, Tensor? scale, Tensor? global_scale"
define(f"fused_quantize({_ARGUMENTS}, str key) -> Tensor[]", _fused_quantize, _fake)
define(
    f"fused_quantize_out({_ARGUMENTS}, Tensor(a!)[] out, str key) -> ()",
    _fused_quantize_out,
    _nothing,
)

__all__ = ["quantize_key"]
