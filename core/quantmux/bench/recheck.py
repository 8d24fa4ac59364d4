"""After the rounds: what was timed must still agree, in every copy and on numbers it has not seen.

The gate looks at one call. A kernel that is wrong from its second call on, in memory that is not
the first, or inside a graph, passes it; so does one that keeps an earlier result and gives that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.bench.gate import Checked
from quantmux.ops.quantized import QuantizedTensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from quantmux.bench.timing import Watch
    from quantmux.ops.spec import Call

_LOOKED_AT: Final = 4
"""Copies whose bits differ from the first one's and that are compared with the reference."""


def recheck(
    watch: Watch, compare: Callable[[Any], Checked], inputs: Iterable[Call] = ()
) -> Checked:
    """Run every copy once more, as it was timed, and compare all results.

    Copies hold the same numbers. So the first is compared with the reference, the others with the
    first, and of those that differ in a bit the farthest with the reference, too.

    Args:
        watch: What was timed.
        compare: Compares one result with the reference of what the inputs hold now.
        inputs: What results may share memory with; that is not overwritten before.
    """
    given = {storage for call in inputs for storage in _storages_of(call)}

    def spoil(result: Any) -> None:
        with torch.inference_mode():
            for part in _parts(result):
                if part.untyped_storage().data_ptr() not in given:
                    _bits(part).fill_(_nothing(part))

    results = watch.again(spoil)
    shared = _shared(results)
    if shared:
        return Checked(False, reason=shared)
    first, *others = results
    found = compare(first)
    if not found.ok:
        return Checked(False, reason=f"after its rounds: {found.reason}")
    apart = [(_distance(first, other), i) for i, other in enumerate(others, 1)]
    for _, i in sorted((pair for pair in apart if pair[0] > 0), reverse=True)[:_LOOKED_AT]:
        other = compare(results[i])
        if not other.ok:
            return Checked(False, reason=f"in copy {i} of the buffers: {other.reason}")
    return found


def _parts(result: Any) -> tuple[torch.Tensor, ...]:
    if isinstance(result, QuantizedTensor):
        return result.tensors()
    if isinstance(result, tuple | list):  # a call of several ops gives all their results
        return tuple(part for one in result for part in _parts(one))
    return (result,) if isinstance(result, torch.Tensor) else ()


def _storages_of(call: Call) -> list[int]:
    values = (*call.args, *call.kwargs.values())
    return [p.untyped_storage().data_ptr() for value in values for p in _parts(value)]


def _bits(part: torch.Tensor) -> torch.Tensor:
    # most operations have no 8-bit floats
    return part.view(torch.uint8) if part.element_size() == 1 else part


def _nothing(part: torch.Tensor) -> float:
    if part.element_size() == 1:
        return 0xFF
    return torch.nan if part.is_floating_point() else -1


def _shared(results: Sequence[Any]) -> str:
    """Say that two copies gave one and the same memory: their outputs were not rotated."""
    seen: dict[int, int] = {}
    for i, result in enumerate(results):
        for part in _parts(result)[:1]:
            if part.numel() and seen.setdefault(part.data_ptr(), i) != i:
                return f"copies {seen[part.data_ptr()]} and {i} gave the same memory"
    return ""


def _distance(one: Any, other: Any) -> float:
    """Give 0 for equal bits, else how far apart the values are; inf for other shapes or NaN."""
    farthest = 0.0
    for a, b in zip(_parts(one), _parts(other), strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return float("inf")
        if torch.equal(_bits(a), _bits(b)):
            continue
        far = float((_bits(a).double() - _bits(b).double()).abs().max())
        farthest = max(farthest, far if far == far else float("inf"))  # noqa: PLR0124 - NaN
    return farthest
