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
from weakref import WeakValueDictionary

from quantmux.config.policy import Policy
from quantmux.runtime.traced.fused_calls import FusedCalls
from quantmux.runtime.traced.keys import linear_program
from quantmux.runtime.traced.library import define
from quantmux.runtime.traced.linear import bound_of, fake_output
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


# By the key and the addresses of all weights. What is found there is held by the first of its
# linears (`BoundLinear.fused`), and holds the weights of all: as long as it can be found, the
# addresses are theirs.
_found: WeakValueDictionary[tuple[Any, ...], FusedCalls] = WeakValueDictionary()
_lock = RLock()


def _work_out(address: tuple[Any, ...], key: str, weights: Sequence[torch.Tensor]) -> FusedCalls:
    """Find the linears of a key and their weights, and what is to be called for them."""
    recipe = recipe_of(key)
    bounds: list[BoundLinear] = []
    begin = 0
    for name, count in zip(recipe.linears, _counts(key), strict=True):
        bounds.append(bound_of(name, weights[begin : begin + count]))
        begin += count
    programs = [linear_program(name) for name in recipe.linears]
    with _lock:
        kept = bounds[0].fused
        found: FusedCalls | None = kept.get(address)
        if found is None:
            found = kept[address] = FusedCalls(recipe.prologue, programs, bounds, recipe.policy)
        _found[address] = found
        return found


@lru_cache(maxsize=4096)
def _counts(key: str) -> tuple[int, ...]:
    return tuple(weights_of(name) for name in recipe_of(key).linears)


def _fused_linear(
    inputs: Sequence[torch.Tensor], weights: Sequence[torch.Tensor], key: str
) -> list[torch.Tensor]:
    address = (key, *[tensor.data_ptr() for tensor in weights])
    calls = _found.get(address) or _work_out(address, key, weights)
    return calls.call(*inputs)  # type: ignore[no-any-return]


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
