"""The op ``quantmux::fused_linear``: a prologue and the linears that share its quantized result.

Its key is JSON that says all: the prologue, the keys of the linears, the policy. So a graph that
inductor takes from its cache, and that no pass of this process has seen, is served too, as soon as
its linears are bound. What the key means is worked out at the first call with its weights, by the
same legality that the pass asks.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from threading import RLock
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from quantmux.config.policy import Policy
from quantmux.runtime.traced.fused_calls import FusedCalls
from quantmux.runtime.traced.keys import linear_program
from quantmux.runtime.traced.library import define
from quantmux.runtime.traced.linear import as_promised, bound_of, fake_output
from quantmux.runtime.traced.prologue import Prologue

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from quantmux.runtime.binding import BoundLinear


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a key says.

    Attributes:
        prologue: What stands before the quantization.
        linears: Keys of the linears, in the order of the results.
        policy: Over everything else, for the choice of producers; None says nothing.
    """

    prologue: Prologue
    linears: tuple[str, ...]
    policy: Policy | None

    def key(self) -> str:
        """Give it as the key of the op."""
        policy = None
        if self.policy is not None:
            policy = json.loads(self.policy.model_dump_json(exclude_unset=True))
        data = {
            "prologue": self.prologue.to_dict(),
            "linears": list(self.linears),
            "policy": policy,
        }
        return json.dumps(data, sort_keys=True, separators=(",", ":"))


@lru_cache(maxsize=4096)
def recipe_of(key: str) -> Recipe:
    """Give what a key says."""
    data = json.loads(key)
    policy = None if data["policy"] is None else Policy(**data["policy"])
    return Recipe(Prologue.of_dict(data["prologue"]), tuple(data["linears"]), policy)


def weights_of(key: str) -> int:
    """Give how many tensors the op of a linear takes as its weights.

    Raises:
        BuildError: The key is not known here.
    """
    program = linear_program(key)
    return sum(len(form.names) for form in program.forms) + len(program.small)


# by the first linear: what was worked out goes when that goes. The values hold its routes and its
# weights, never itself.
_kept: WeakKeyDictionary[BoundLinear, dict[tuple[Any, ...], FusedCalls]] = WeakKeyDictionary()
_lock = RLock()


def _calls_of(key: str, weights: Sequence[torch.Tensor]) -> FusedCalls:
    recipe = recipe_of(key)
    bounds: list[BoundLinear] = []
    begin = 0
    for name, count in zip(recipe.linears, _counts(key), strict=True):
        bounds.append(bound_of(name, weights[begin : begin + count]))
        begin += count
    address = (key, *map(id, bounds[1:]))  # which the values hold: their ids stay theirs
    by_key = _kept.get(bounds[0])
    found = None if by_key is None else by_key.get(address)
    if found is None:
        programs = [linear_program(name) for name in recipe.linears]
        made = FusedCalls(recipe.prologue, programs, bounds, recipe.policy)
        with _lock:
            found = _kept.setdefault(bounds[0], {}).setdefault(address, made)
    return found


@lru_cache(maxsize=4096)
def _counts(key: str) -> tuple[int, ...]:
    return tuple(weights_of(name) for name in recipe_of(key).linears)


def _fused_linear(
    inputs: Sequence[torch.Tensor], weights: Sequence[torch.Tensor], key: str
) -> list[torch.Tensor]:
    results = _calls_of(key, weights).call(*inputs)
    return list(map(as_promised, results, recipe_of(key).linears))


def _fake_fused_linear(
    inputs: Sequence[torch.Tensor], weights: Sequence[torch.Tensor], key: str
) -> list[torch.Tensor]:
    del weights
    x = inputs[0]
    return [fake_output(x, x.shape[0], name) for name in recipe_of(key).linears]


FUSED_LINEAR: Final = define(
    "fused_linear(Tensor[] inputs, Tensor[] weights, str key) -> Tensor[]",
    _fused_linear,
    _fake_fused_linear,
)

__all__ = ["FUSED_LINEAR", "Recipe", "recipe_of", "weights_of"]
