"""The ops ``quantmux::fused_quantize`` and its ``_out`` twin: a prologue and one quantizer.

They stand where the model itself quantizes what a prologue computes. Their key is JSON that names
the quantizer's program, as that of ``fused_linear`` does; see there. What fails is served as if
nothing were fused: the prologue alone, then the quantizer, which has fallbacks of its own.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from threading import RLock
from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.config.policy import Policy
from quantmux.ops.spec import op_spec
from quantmux.runtime.binding import bind_producer
from quantmux.runtime.capture import not_warmed
from quantmux.runtime.events import FallbackEvent, one_line
from quantmux.runtime.failures import is_capturing
from quantmux.runtime.traced.fused_calls import probes_of, sorted_out
from quantmux.runtime.traced.keys import keep_producer, producer_program
from quantmux.runtime.traced.legality import quantizer_segments
from quantmux.runtime.traced.library import define
from quantmux.runtime.traced.prologue import Prologue

if TYPE_CHECKING:
    from quantmux.runtime.events import Stage
    from quantmux.runtime.traced.keys import ProducerProgram

_UNBOUNDED: Final = 1 << 62


def quantize_key(prologue: Prologue, quantize: str, policy: Policy | None) -> str:
    """Give the key of the op for a prologue before the quantizer of a key."""
    given = None if policy is None else json.loads(policy.model_dump_json(exclude_unset=True))
    data = {"prologue": prologue.to_dict(), "quantize": quantize, "policy": given}
    return json.dumps(data, sort_keys=True, separators=(",", ":"))


class _Calls:
    """Serves one key: per range of M the fused producer, or the prologue and then the quantizer.

    Attributes:
        program: The quantizer for which it was worked out.
    """

    def __init__(self, key: str) -> None:
        data = json.loads(key)
        self.program: ProducerProgram = producer_program(data["quantize"])
        self._prologue = Prologue.of_dict(data["prologue"])
        policy = None if data["policy"] is None else Policy(**data["policy"])
        self._segments = quantizer_segments(self._prologue, self.program, policy)
        self._uppers = [_UNBOUNDED if s.m_max is None else s.m_max for s in self._segments]
        self._lock = RLock()
        # Per segment the key of its fused producer; None where nothing is fused, or it has failed.
        self._fused: dict[int, str | None] = {}

    def __call__(
        self,
        inputs: list[torch.Tensor],
        scales: tuple[torch.Tensor | None, torch.Tensor | None],
        *out: list[torch.Tensor],
    ) -> Any:
        """Call the fused producer for these rows, else what stood in the graph before."""
        ops, suffix = torch.ops.quantmux, "_out" if out else ""
        m = inputs[0].shape[0]
        place = bisect_left(self._uppers, m or 1)
        fused = self._fused[place] if place in self._fused else self._begin(place, m)
        if fused is not None:
            try:
                return getattr(ops, self._prologue.op + suffix)(*inputs, *scales, *out, fused)
            except Exception as error:  # noqa: BLE001 - sorted by what it means
                self._give_up(place, "run", error)
                self._fused[place] = None
        config: Any = self.program.config
        x = self._prologue.plain(inputs, config.in_dtype)
        return getattr(ops, "quantize" + suffix)(x, *scales, *out, self.program.key)

    def _begin(self, place: int, m: int) -> str | None:
        """Bind what the M of a segment need, once."""
        with self._lock:
            if place not in self._fused:
                # rows that nothing serves are not fused either: the quantizer refuses them
                fuses = place < len(self._segments) and self._segments[place].is_fused
                self._fused[place] = self._bind(place, m) if fuses else None
            return self._fused[place]

    def _bind(self, place: int, m: int) -> str | None:
        if is_capturing():
            raise not_warmed(
                "a fused quantizer",
                "its kernels for these rows are not bound yet",
                m=m,
                hint="call the compiled model once with as many rows before the capture",
                facts=[str(self.program.config)],
            )
        segment, context = self._segments[place], self.program.context
        selection = segment.groups[0].selection
        name = ("fused", selection.config, selection.device, selection.settings)
        try:
            bound = context.remember(name, lambda: bind_producer(selection, context=context))
            # all that calls of this range may need is compiled now, not in some later call
            bound.warmup(probes_of(segment))
        except Exception as error:  # noqa: BLE001 - sorted by what it means
            self._give_up(place, "build", error)
            return None
        return keep_producer(bound, context).key

    def _give_up(self, place: int, stage: Stage, error: Exception) -> None:
        """Tell that a segment is served unfused; raises what no other kernel can mend."""
        program, selection = self.program, self._segments[place].groups[0].selection
        reason = f"{selection.config.op} failed: {one_line(error)}"
        sorted_out(error, reason)
        own = program.bound.selection
        event = FallbackEvent(
            str(selection.ranges[0].pipeline),
            "the unfused pipeline",
            stage,
            reason,
            own.device.name,
            program.config.digest(),
        )
        program.context.report(event, own.settings.on_fallback(stage), error)


_known: dict[str, _Calls] = {}


def _calls(key: str) -> _Calls:
    """Give what serves a key, worked out anew where its quantizer was bound anew."""
    found = _known.get(key)
    if found is None or producer_program(found.program.key) is not found.program:
        found = _known[key] = _Calls(key)
    return found


def _fused_quantize(
    inputs: list[torch.Tensor],
    scale: torch.Tensor | None,
    global_scale: torch.Tensor | None,
    key: str,
) -> list[torch.Tensor]:
    return _calls(key)(inputs, (scale, global_scale))  # type: ignore[no-any-return]


def _fused_quantize_out(
    inputs: list[torch.Tensor],
    scale: torch.Tensor | None,
    global_scale: torch.Tensor | None,
    out: list[torch.Tensor],
    key: str,
) -> None:
    _calls(key)(inputs, (scale, global_scale), out)


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
