"""The experiment `padded_nvfp4`: NVFP4 quantization into a padded width (vllm#42774)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final

from quantmux.bench.gate import Checked
from quantmux.bench.materials import Materials
from quantmux.bench.seeds import padded_nvfp4_ways as ways
from quantmux.bench.seeds.experiment import (
    About,
    Claim,
    Experiment,
    Made,
    Prepared,
    Refused,
    SeedCase,
    Variant,
)
from quantmux.bench.seeds.padded_nvfp4_remarks import remarks
from quantmux.bench.seeds.padded_nvfp4_shapes import (
    MULTIPLE,
    PADDED_SHARDS,
    SEED_ROWS,
    SEED_WIDTH,
)
from quantmux.bench.seeds.silu_mul_ahead import copies_for
from quantmux.bench.traffic import work
from quantmux.config import QuantizeConfig
from quantmux.config.layouts import round_up
from quantmux.ops.agreement import agreement

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux.bench.seeds.rows import SeedRow
    from quantmux.bench.seeds.stage import Stage
    from quantmux.ops.spec import Call
    from quantmux.runtime.binding import BoundProducer

    Maker = Callable[[QuantizeConfig, Stage], tuple[ways.Way, BoundProducer]]

BEFORE: Final = "quantize, then pad"
SEED: Final = "padded_n as the seed has it"
OURS: Final = "quantmux padded_n"

LAYOUTS: Final = ("row_major", "swizzled_128x4", "swizzled_8x4")
SHARD_ROWS: Final = (1, 128, 2048)
_COUNTED_ROWS: Final = 8

CLAIM: Final = Claim(
    figure="15 % ~ 40 % kernel, 2.4 % ~ 5.7 % end to end",
    measured="its author, quantization, padding and FP4 GEMM 8192×7168 together, on sm_100",
)
"""Its kernel figure holds a GEMM that an H200 has not; so no ratio of it is compared."""


class PaddedNvfp4(Experiment):
    """x [M, n] bf16 into e2m1 codes [M, padded_n / 2] and e4m3 scales per 16 columns."""

    about: ClassVar[About] = About(
        name="padded_nvfp4",
        pull_request=42774,
        title="NVFP4 quantization into a padded width, in one kernel",
        claim=CLAIM,
        reach="1.8x at M ≤ 128, 1.3x at 8192, against quantize and pad",
        headline={"layout": ways.ZEROED},
    )

    def cases(self, stage: Stage) -> Sequence[SeedCase]:
        """Give the seed's width and shards of models in three layouts."""
        if stage.is_tiny:
            return [_case(3, 48, layout) for layout in LAYOUTS]
        if stage.size == "quick":
            return [
                *(_case(m, SEED_WIDTH, "swizzled_128x4") for m in (1, 128, 8192)),
                _case(1, SEED_WIDTH, "swizzled_8x4"),
            ]
        found = [_case(m, SEED_WIDTH, layout) for layout in LAYOUTS for m in SEED_ROWS]
        found += [
            _case(m, shard.n, layout, str(shard))
            for shard in PADDED_SHARDS
            for layout in LAYOUTS
            for m in SHARD_ROWS
        ]
        return found

    def prepare(self, case: SeedCase, stage: Stage) -> Prepared:
        """Give the way of before, the seed's, and ours."""
        facts = case.facts
        m, layout = facts["m"], facts["layout"]
        config = padded_config(facts["n"], layout)
        moved = work(config, m).moved
        copies = copies_for(stage, moved)
        materials = Materials(config, stage.device, stage.effort.seed)
        inputs = tuple(materials.inputs(m, copies))

        def make(maker: Maker, note: str = "") -> Made:
            run, bound = maker(config, stage)
            calls = tuple(partial(run, c.args[0], c.kwargs["global_scale"]) for c in inputs)
            compare = partial(_compare, config, inputs[0])
            return Made(calls, compare, kernel=str(bound.pipeline_for(m)), note=note)

        def seed() -> Made | Refused:
            if layout == ways.NOT_BY_SEED:
                return Refused(ways.SEED_REFUSES)
            is_same = layout != ways.ZEROED
            return make(ways.seed_of, "the same call as ours" if is_same else "scales zeroed first")

        variants = (
            Variant(BEFORE, "before", partial(make, ways.before_of)),
            Variant(SEED, "seed", seed),
            Variant(OURS, "ours", partial(make, ways.ours_of)),
        )
        renew = partial(materials.renew, inputs, m)
        return Prepared(variants, copies, bytes_per_call=moved, inputs=inputs, renew=renew)

    def remarks(self, rows: Sequence[SeedRow], stage: Stage) -> Sequence[str]:
        """Say what bytes alone would give, what was found, and which shards need no padding."""
        return remarks(rows, stage)


def padded_config(n: int, layout: str) -> QuantizeConfig:
    """Give the config of rows of n, padded to a multiple of 32, under a given global scale."""
    return QuantizeConfig(
        operand="nvfp4_static", n=n, layout=layout, padded_n=round_up(n, MULTIPLE)
    )


def _case(m: int, n: int, layout: str, source: str = "") -> SeedCase:
    facts = {"m": m, "n": n, "layout": layout, "dtype": "bf16"}
    padded = round_up(n, MULTIPLE)
    is_counted = m == _COUNTED_ROWS
    return SeedCase(
        f"{m}×{n} → {padded} {layout}",
        {**facts, "padded_n": padded, **({"source": source} if source else {})},
        is_counted=is_counted,
    )


def _compare(config: QuantizeConfig, call: Call, q: object) -> Checked:
    found = agreement(config, call, q)
    return Checked(found.ok, "all rows, to the bit", found.reason)
