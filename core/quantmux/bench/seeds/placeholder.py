"""vllm#43677: the scale of x that a product does not read, filled, left as it is, or not there.

The product quantizes x inside; its caller wants a tensor in the scale's place all the same. Timed
is a chain of the linears of one DeepSeek V3 layer that have such weights.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from quantmux.bench.contenders import pipelines_of
from quantmux.bench.gate import Checked
from quantmux.bench.seeds.experiment import (
    About,
    Claim,
    Experiment,
    Extra,
    Made,
    Prepared,
    SeedCase,
    Variant,
)
from quantmux.bench.seeds.linears import LinearCopies
from quantmux.config import LinearConfig
from quantmux.dispatch.tier import Tier

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch

    from quantmux.bench.seeds.rows import SeedRow
    from quantmux.bench.seeds.stage import Stage
    from quantmux.ops.spec import Call
    from quantmux.runtime.binding import BoundLinear

SHAPES: Final = ((2112, 7168), (24576, 1536), (7168, 16384), (4096, 7168), (7168, 2048))
"""N × K: q_a and kv_a as one, q_b, o, and gate_up and down of the shared expert."""

_TINY_SHAPES: Final = ((128, 256), (256, 128))

LAYERS: Final = 61
"""Of the model: a step is so many chains."""

MS: Final = {"full": (1, 8, 16, 64), "quick": (1, 64), "tiny": (2,)}

Placeholder = Literal["ones", "empty", "none"]

ONES: Final = "a tensor of one, filled"
EMPTY: Final = "a tensor of one, not filled"
NONE: Final = "no tensor"
SELECTED: Final = "quantmux's selection"

_FILL: Final = "FillFunctor"
"""In the name of the kernel by which torch fills a tensor."""


class PlaceholderScale(Experiment):
    """A chain of five linears, for few rows: kernels per linear, and µs per step of 61 layers."""

    about: ClassVar[About] = About(
        name="placeholder",
        pull_request=43677,
        title="block FP8 linears that quantize inside: a placeholder in the scale's place",
        claim=Claim(
            figure="about 2% more output tokens per second",
            measured="its author, DeepSeek V4-Pro on H200, end to end",
        ),
        reach="no fill kernel and no placeholder: 0 launches, not 1",
        extras=(
            Extra("per_linear", "kernels a linear", 1),
            Extra("fills", "fills a linear", 1),
            Extra("step_ms", "ms a step", 2),
        ),
    )

    def __init__(self) -> None:
        self._chain: list[LinearCopies] = []

    def cases(self, stage: Stage) -> Sequence[SeedCase]:
        """Give one case per M."""
        linears = len(_shapes(stage))
        facts = {"linears": linears, "layers": LAYERS, "scheme": "fp8_block128"}
        return tuple(
            SeedCase(f"{linears} linears M={m}", {"m": m, **facts}) for m in MS[stage.size]
        )

    def prepare(self, case: SeedCase, stage: Stage) -> Prepared:
        """Give the chain with its three ways, and once more as quantmux selects it."""
        m = case.facts["m"]
        if not self._chain:
            self._chain = [LinearCopies(_config(n, k), stage) for n, k in _shapes(stage)]
        chain = self._chain
        moved = sum(linear.bytes_of(m) for linear in chain)
        copies = stage.copies(moved)
        inputs = [linear.materials.inputs(m, copies) for linear in chain]
        inside = [_inside(linear, m) for linear in chain]
        turns = count()

        def way(placeholder: Placeholder, turn: int = 0) -> Made:
            return _chain_of(chain, inputs, inside, placeholder, turn)

        variants = (
            Variant(ONES, "before", lambda: way("ones")),
            Variant(EMPTY, "seed", lambda: way("empty")),
            Variant(NONE, "ours", lambda: way("none", turn=min(next(turns), 1))),
            Variant(
                SELECTED,
                "ours",
                lambda: _chain_of(chain, inputs, [None] * len(chain), "none", turn=0),
            ),
        )

        def renew() -> None:
            for linear, own in zip(chain, inputs, strict=True):
                linear.materials.renew(own, m)

        given = tuple(call for own in inputs for call in own)
        return Prepared(variants, copies, moved, given, renew)

    def enrich(self, case: SeedCase, row: SeedRow) -> Mapping[str, Any]:
        """Give what one linear launches, how much of it fills, and the time of a step."""
        linears, found = case.facts["linears"], dict[str, Any]()
        if row.launches is not None:
            fills = sum(n for name, n in row.launched.items() if _FILL in name)
            found |= {"per_linear": row.launches / linears, "fills": fills / linears}
        if row.us is not None:
            found["step_ms"] = row.us * LAYERS * 1e-3
        return found

    def remarks(self, rows: Sequence[SeedRow], stage: Stage) -> Sequence[str]:
        """Say what a step is, and in how long a step the gain would be what the report says."""
        if stage.is_tiny:
            return ()
        what = f"a step is synthetic: {LAYERS} chains of these {len(SHAPES)} linears"
        found = [f"{what}; no attention, experts, norms or communication"]
        for case in dict.fromkeys(row.case for row in rows):
            main = {row.kind: row for row in rows if row.case == case and row.is_main}
            before, ours = main.get("before"), main.get("ours")
            if before is None or ours is None or not before.us or not ours.us:
                continue
            calls = LAYERS * len(SHAPES)
            saved = (before.us - ours.us) * LAYERS * 1e-3
            text = f"{case}: {calls} calls × {(before.us - ours.us) / len(SHAPES):.2f} µs"
            text += f" = {saved:.2f} ms a step less than before"
            if saved > 0:
                text += f", which is 2 % of a step of {saved / 0.02:.0f} ms"
            found.append(text)
        return found


def _shapes(stage: Stage) -> tuple[tuple[int, int], ...]:
    return _TINY_SHAPES if stage.is_tiny else SHAPES


def _config(n: int, k: int) -> LinearConfig:
    return LinearConfig(out_features=n, in_features=k, scheme="fp8_block128")


def _inside(linear: LinearCopies, m: int) -> str | None:
    """Give the kernel that reads a plain x and quantizes it itself, None where none is here."""
    stage = linear.stage
    found = pipelines_of(linear.config, m, stage.context, stage.device, only=["*"])
    return next((p.main.id for p in found if len(p.steps) == 1 and p.tier is Tier.NATIVE), None)


def _chain_of(
    chain: Sequence[LinearCopies],
    inputs: Sequence[Sequence[Call]],
    forced: Sequence[str | None],
    placeholder: Placeholder,
    turn: int,
) -> Made:
    copies = len(inputs[0])
    bound = [
        linear.bound(copies, force=force, turn=turn)
        for linear, force in zip(chain, forced, strict=True)
    ]
    calls = tuple(
        _call([one[i] for one in bound], [own[i].args[0] for own in inputs], placeholder)
        for i in range(copies)
    )

    def compare(ys: Any) -> Checked:
        for linear, one, own, y in zip(chain, bound, inputs, ys, strict=True):
            checked = linear.compare(one[0], own, y)
            if not checked.ok:
                return Checked(False, reason=f"{linear.config}: {checked.reason}")
        return Checked(True, "all linears")

    m = inputs[0][0].args[0].shape[0]
    kernels = dict.fromkeys(str(one[0].pipeline_for(m)) for one in bound)
    is_inside = placeholder == "none" or all(force is not None for force in forced)
    note = "" if is_inside else "no kernel here quantizes inside: the product is quantmux's own"
    return Made(calls, compare, kernel=", ".join(kernels), note=note)


def _call(
    bound: Sequence[BoundLinear], xs: Sequence[torch.Tensor], placeholder: Placeholder
) -> Callable[[], tuple[torch.Tensor, ...]]:
    """Give the chain as one call; each linear has an x of its own, made before."""
    pairs = [(one.call, x) for one, x in zip(bound, xs, strict=True)]
    if placeholder == "none":
        return lambda: tuple([call(x) for call, x in pairs])
    is_filled = placeholder == "ones"

    def run() -> tuple[torch.Tensor, ...]:
        found = []
        for call, x in pairs:
            scale = x.new_ones(1) if is_filled else x.new_empty(1)
            found.append(call(x))
            del scale  # it lives as long as the product is being queued, as an argument would
        return tuple(found)

    return run
