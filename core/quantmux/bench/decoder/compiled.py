"""The step under torch.compile, with and without quantmux's fusion pass."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantmux.bench.decoder.attention import Cache
    from quantmux.bench.decoder.model import Decoder
    from quantmux.bench.decoder.state import State
    from quantmux.compile import FusionPass

Step = Any
_numbers: Final = itertools.count()


@dataclass(slots=True)
class Compiled:
    """A decoder under torch.compile, one graph (``fullgraph=True``).

    Attributes:
        step: Called as the decoder is.
        fusion: The pass that rewrites its graphs, None without.
        seconds: What the first calls took that compiled something.
    """

    step: Step
    fusion: FusionPass | None = None
    seconds: list[float] = field(default_factory=list)


def compiled(
    model: Decoder, *, fusion: FusionPass | None = None, backend: str = "inductor"
) -> Compiled:
    """Give the decoder compiled; nothing happens before the first call.

    Args:
        model: Bound and warm.
        fusion: A pass of `quantmux.compile`, None for inductor's own fusions only.
        backend: ``inductor``, or ``aot_eager``, which traces and computes as eager does.
    """
    options = None if fusion is None else {"post_grad_custom_pre_pass": fusion}
    whole: Any = torch.compile
    step = whole(_own_step(model), fullgraph=True, backend=backend, options=options)
    return Compiled(step, fusion)


def mark_rows(state: State) -> None:
    """Mark M as what changes between calls, so that one graph serves every M above 1."""
    mark: Any = torch._dynamo.maybe_mark_dynamic  # noqa: SLF001 - torch names no public way
    x, cos, sin, caches = state.args
    for tensor in (x, cos, sin, *(t for cache in caches or () for t in cache[:2])):
        mark(tensor, 0)


def forget() -> None:
    """Forget all that was compiled in this process."""
    reset: Any = torch._dynamo.reset  # noqa: SLF001 - torch names no public way
    reset()


def _own_step(model: Decoder) -> Callable[..., torch.Tensor]:
    """Give a function that calls the model and has code of its own.

    Dynamo keeps what it compiled with the code: variants with one `forward` would stand in each
    other's way, its guards first and its limit of recompilations then.
    """

    def step(
        x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, caches: list[Cache] | None
    ) -> torch.Tensor:
        y: torch.Tensor = model(x, cos, sin, caches)
        return y

    code = step.__code__.replace(co_name=f"step_{next(_numbers)}")
    return FunctionType(code, step.__globals__, code.co_name, None, step.__closure__)
