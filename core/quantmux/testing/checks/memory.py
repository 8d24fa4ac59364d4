"""memory: a call reads its input anew, gives memory of its own, and keeps none of either.

What is remembered of an input by its address is wrong when the program fills that tensor again.
Results that lie in a ring of buffers are overwritten some calls later. An input or a result that a
kernel holds on to is memory that the program never gets back.
"""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final

from quantmux.ops.quantized import QuantizedTensor
from quantmux.testing.answers import compared, fails, served, stored_bytes
from quantmux.testing.cell import Cell, Outcome, Verdict
from quantmux.testing.derive import labelled, plain_cases
from quantmux.testing.fences import fenced

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import torch

    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux.testing.stage import Stage, Trial

ALWAYS: Final = False
HELD: Final = 9
"""Results that are held at once: a ring of fewer buffers shows."""


def cells(spec: KernelSpec, stage: Stage, small_only: bool) -> Iterator[Cell]:
    """Give one cell per scheme or operand."""
    del small_only
    for label, case, detail in labelled(plain_cases(spec, stage, (19,))):
        yield Cell(spec.id, "memory", label, case, tuple(detail.items()))


def run(cell: Cell, stage: Stage) -> Outcome:
    """Fill an input again, hold many results, write over one of them, and let go of all."""
    asked = served(cell, stage)
    if isinstance(asked, Outcome):
        return asked
    spec, case = asked
    made, other = (stage.trial(spec, case, other=i) for i in (0, 1))
    trial = with_input(made, copied(made.inputs[0]))
    results = [trial() for _ in range(HELD)]
    where = _overlap([*results, *trial.inputs])
    if where:
        return fails(f"memory of two: {where}", "shared_output")
    refill(trial.inputs[0], other.inputs[0])
    again = trial()
    outcome = compared(trial, again)  # what goes with x is that of the first
    if outcome.verdict is Verdict.FAILS:
        return fails(f"the same tensor, filled again: {outcome.reason}", "remembered")
    refill(trial.inputs[0], made.inputs[0])
    # a tensor of the allocator's, holding another call's numbers: `numbers` writes over NaN only
    outcome = compared(made, trial(out=again))
    if outcome.verdict is Verdict.FAILS:
        return fails(f"into an earlier result: {outcome.reason}", "out")
    kept = _kept(trial)
    return fails(f"holds on to {kept} after the call", "kept") if kept else outcome


def copied(value: Any) -> Any:
    """Give an input in other memory, the global scale too."""
    made = fenced(value)
    if isinstance(made, QuantizedTensor) and made.global_scale is not None:
        return replace(made, global_scale=made.global_scale.clone())
    return made


def refill(target: Any, source: Any) -> None:
    """Write the contents of one input over those of another, pad rows between included."""
    for have, want in zip(parts(target), parts(source), strict=True):
        stored_bytes(have).copy_(stored_bytes(want))


def parts(value: Any) -> tuple[torch.Tensor, ...]:
    """Give the tensors of an input or a result."""
    return value.tensors() if isinstance(value, QuantizedTensor) else (value,)


def with_input(trial: Trial, x: Any) -> Trial:
    """Give a trial of the same bound function on another first input."""
    call = replace(trial.call, args=(x, *trial.call.args[1:]))
    return replace(trial, call=call)


def _overlap(values: Iterable[Any]) -> str:
    """Say which part lies in the memory of two values; a given global scale may be passed on."""
    spans: list[tuple[int, int, int, str]] = []
    for number, value in enumerate(values):
        for name, part in zip(("data", "scales"), parts(value), strict=False):
            size = stored_bytes(part).numel()
            if size:
                spans.append((part.data_ptr(), part.data_ptr() + size, number, name))
    for (a, a_end, one, name), (b, b_end, two, _) in combinations(spans, 2):
        if one != two and a < b_end and b < a_end:
            if two >= HELD:
                return f"the {name} of a result lies in its input"
            return f"calls {one + 1} and {two + 1}, both results being held ({name})"
    return ""


def _kept(trial: Trial) -> str:
    """Say what of a call is still there when the program has let go of it."""
    own = with_input(trial, copied(trial.inputs[0]))
    result = own()
    held = {
        "its input": [weakref.ref(part) for part in parts(own.inputs[0])],
        "its result": [weakref.ref(part) for part in parts(result)[:2]],
    }
    del own, result
    if any(ref() is not None for refs in held.values() for ref in refs):
        gc.collect()  # what only a cycle holds goes by itself
    return " and ".join(
        name for name, refs in held.items() if any(ref() is not None for ref in refs)
    )
