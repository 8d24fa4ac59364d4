"""vllm#42849: inverse RoPE and quantization, compiled once for every number of tokens."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final

from quantmux.bench.gate import Checked
from quantmux.bench.materials import Materials
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
from quantmux.bench.seeds.inverse_rope_process import Cold, Order, run_cold
from quantmux.bench.seeds.inverse_rope_steady import steady_remarks
from quantmux.bench.seeds.inverse_rope_ttft import Stalls, model_lines
from quantmux.bench.seeds.inverse_rope_ways import (
    HEAD_DIM,
    PINNED,
    SHAPES,
    TOKENS,
    Call,
    bound_call,
    new_out,
    one_head_call,
    reference_call,
    rope_config,
)
from quantmux.bench.seeds.rows import SeedRow
from quantmux.bench.traffic import work
from quantmux.ops.agreement import agreement

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux.bench.seeds.stage import Stage
    from quantmux.ops.quantized import QuantizedTensor

_QUICK_TOKENS: Final = (1, 2, 13, 16, 512, 4096)
_TINY_TOKENS: Final = (1, 2, 7)
_TINY_SHAPE: Final = (4, 2)
_TINY_HEAD_DIM: Final = 256

_COUNTED: Final = (1, 4096)
"""T whose kernel launches are counted: it is one each, whatever T is."""

_TITLES: Final = {
    "before": "nothing pinned",
    "seed": "num_tokens pinned",
    "ours": "quantmux",
    "warmed": "quantmux, after warmup()",
}

_DEPENDENT: Final = (
    "Ours is launched with programmatic dependent launch where the GPU has it (sm_90 on), before "
    "and seed are not: a part of what is gained at few tokens is that."
)


class InverseRope(Experiment):
    """Compiled variants and stalls in fresh processes, and the steady time by T in this one."""

    about: ClassVar[About] = About(
        name="inverse_rope",
        pull_request=42849,
        title="inverse RoPE + FP8 quantization: one compiled variant for every number of tokens",
        claim=Claim(
            figure="e2e TTFT improves 9% on H200",
            measured="its author: vLLM serving DeepSeek-V4-Flash on H200, TP8, Triton cache "
            "emptied, 480 ShareGPT requests, 8 at once; mean TTFT 370 -> 338 ms. Of the kernel "
            "alone it says that it is faster from 512 tokens on",
        ),
        reach="1 compiled variant (seed 2, before 4)",
        extras=(
            Extra("variants", "variants"),
            Extra("stall_ms", "stall ms"),
            Extra("later_ms", "after the first T, ms"),
        ),
        needs_process=True,
    )

    def cases(self, stage: Stage) -> Sequence[SeedCase]:
        """Give the steady cases: every T of every shape."""
        head_dim = _head_dim(stage)
        return [
            SeedCase(
                name=f"H={heads} G={groups} T={t}",
                facts={"heads": heads, "groups": groups, "head_dim": head_dim, "m": t},
                is_counted=t in _COUNTED,
            )
            for heads, groups in _shapes(stage)
            for t in _tokens(stage)
        ]

    def prepare(self, case: SeedCase, stage: Stage) -> Prepared:
        """Give the three ways over the same inputs; each owns its outputs."""
        facts = case.facts
        config = rope_config(facts["heads"], facts["groups"], facts["head_dim"])
        t = facts["m"]
        moved = work(config, t, "pipeline").moved
        copies = stage.copies(moved)
        materials = Materials(config, stage.device, stage.effort.seed)
        inputs = materials.inputs(t, copies)

        def made(call: Call, runs: str, note: str = "") -> Made:
            calls = []
            for given in inputs:
                out = new_out(config, t, stage.where)
                calls.append(partial(_into, call, given.args, out))
            return Made(tuple(calls), compare, runs, note)

        def compare(result: Any) -> Checked:
            found = agreement(config, inputs[0], result)
            return Checked(found.ok, "all rows", found.reason)

        def ours() -> Made:
            producer = stage.producer(config)
            return made(bound_call(producer), str(producer.pipeline_for(t)))

        def peer(pinned: tuple[str, ...]) -> Made:
            if not stage.is_cuda:
                return made(reference_call(config), "the reference", "stands in: there is no GPU")
            return made(one_head_call(config, pinned), "one head a program, Triton")

        variants = [
            Variant(_TITLES[way], way, partial(peer, pinned))  # type: ignore[arg-type]
            for way, pinned in PINNED.items()
        ]
        return Prepared(
            (*variants, Variant(_TITLES["ours"], "ours", ours)),
            copies=copies,
            bytes_per_call=moved,
            inputs=tuple(inputs),
            renew=partial(materials.renew, inputs, t),
        )

    def steps(self, stage: Stage) -> int:
        """Give the steady cases, and one more per fresh process."""
        return len(self.cases(stage)) + len(_orders(stage))

    def run(self, stage: Stage, tell: Callable[[str], None]) -> list[SeedRow]:
        """Give the rows of the fresh processes first, then the steady ones."""
        rows: list[SeedRow] = []
        orders = _orders(stage)
        found = run_cold(orders)
        for order in orders:
            tell(f"{_cold_case(order)}: {_TITLES[order.way]}")
            rows.append(self._cold_row(next(found)))
        found.close()
        return rows + super().run(stage, tell)

    def remarks(self, rows: Sequence[SeedRow], stage: Stage) -> Sequence[str]:
        """Say what the stalls would be of the report's figure, by a model, and what is faster."""
        if not stage.is_cuda:
            return ("Without a GPU the kernels are interpreted: nothing is compiled.",)
        return (*_stall_remarks(rows, _tokens(stage)), *steady_remarks(rows), _DEPENDENT)

    def _cold_row(self, cold: Cold) -> SeedRow:
        order = cold.order
        role = "ours" if order.way == "warmed" else order.way
        blank = SeedRow(
            experiment=self.about.name,
            case=_cold_case(order),
            kernel=_TITLES[order.way],
            kind=role,
            is_main=order.way == role,
            facts={
                "heads": order.heads,
                "groups": order.groups,
                "head_dim": order.head_dim,
                "tokens": list(order.tokens),
            },
            method="process",
        )
        return _with(blank, cold)


def _with(row: SeedRow, cold: Cold) -> SeedRow:
    if cold.error:
        return replace(row, status="failed", reason=cold.error)
    return replace(
        row,
        extra={
            "variants": len(cold.variants),
            "stall_ms": cold.total_s * 1e3,
            "later_ms": sum(list(cold.stall_s.values())[1:]) * 1e3,
            "first_call_ms": {t: s * 1e3 for t, s in cold.first_s.items()},
            "stall_by_tokens_ms": {t: s * 1e3 for t, s in cold.stall_s.items()},
            "stalled_tokens": list(cold.stalled),
            "compiled": list(cold.variants),
            "before_calls_ms": cold.before_s * 1e3,
            "before_calls_variants": len(cold.before_variants),
        },
    )


def _stall_remarks(rows: Sequence[SeedRow], tokens: Sequence[int]) -> tuple[str, ...]:
    heads, groups = SHAPES[-1]  # a rank of the report's own eight
    case = _cold_name(heads, groups)
    cold = {row.kernel: row.extra for row in rows if row.case == case}
    found = [cold.get(title, {}) for title in _TITLES.values()]
    if not all("stall_ms" in extra for extra in found):
        return ("No model of TTFT: a fresh process has failed.",)
    whole, later = (
        Stalls(*(float(extra[key]) * 1e-3 for extra in found)) for key in ("stall_ms", "later_ms")
    )
    what = (
        "Stall: what the first call with a T takes beyond a later one, each way in a fresh "
        f"process with an empty Triton cache, summed over T = {', '.join(map(str, tokens))}. After "
        "the first T: without that one, whose call also loads the compiler."
    )
    return what, *model_lines(whole, later)


def _into(call: Call, args: tuple[Any, ...], out: QuantizedTensor) -> QuantizedTensor:
    o, positions, cache = args
    call(o, positions, cache, out)
    return out


def _orders(stage: Stage) -> list[Order]:
    shapes = _shapes(stage)[-1:] if stage.size == "quick" else _shapes(stage)
    ways = [way for way in _TITLES if way != "warmed" or stage.size != "tiny"]
    return [
        Order(way, heads, groups, _head_dim(stage), _tokens(stage), stage.device.torch_name)
        for heads, groups in shapes
        for way in ways
    ]


def _cold_case(order: Order) -> str:
    return _cold_name(order.heads, order.groups)


def _cold_name(heads: int, groups: int) -> str:
    return f"H={heads} G={groups} first calls"


def _shapes(stage: Stage) -> tuple[tuple[int, int], ...]:
    return (_TINY_SHAPE,) if stage.is_tiny else SHAPES


def _tokens(stage: Stage) -> tuple[int, ...]:
    return {"full": TOKENS, "quick": _QUICK_TOKENS, "tiny": _TINY_TOKENS}[stage.size]


def _head_dim(stage: Stage) -> int:
    return _TINY_HEAD_DIM if stage.is_tiny else HEAD_DIM
