"""The experiment `padded_nvfp4_gemm`: the same, with the GEMM that reads what was padded.

An H200 has no FP4 GEMM. What is timed is quantmux's emulated NVFP4 linear, 8192 × 7152, which reads
codes and swizzled scales in rows of 7168 as an FP4 GEMM would, and decodes them to bf16. It needs
no padding itself: a row of ours shows the linear as quantmux runs it, with none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final

from quantmux.bench.gate import check_linear
from quantmux.bench.materials import Materials
from quantmux.bench.seeds import padded_nvfp4_ways as ways
from quantmux.bench.seeds.experiment import About, Experiment, Made, Prepared, SeedCase, Variant
from quantmux.bench.seeds.padded_nvfp4 import CLAIM, padded_config
from quantmux.bench.seeds.padded_nvfp4_shapes import SEED_WIDTH
from quantmux.bench.traffic import work
from quantmux.config import LinearConfig
from quantmux.dispatch.reference_config import reference_config

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux.bench.gate import Checked
    from quantmux.bench.seeds.rows import SeedRow
    from quantmux.bench.seeds.stage import Stage
    from quantmux.dispatch.pipeline import Pipeline
    from quantmux.ops.spec import Call
    from quantmux.runtime.binding import BoundLinear, BoundProducer

    Maker = Callable[[Any, Stage], tuple[ways.Way, BoundProducer]]

BEFORE: Final = "quantize, then pad, GEMM"
SEED: Final = "padded_n as the seed has it, GEMM"
OURS: Final = "quantmux padded_n, GEMM"
WHOLE: Final = "quantmux linear, nothing padded"

OUT_FEATURES: Final = 8192
ROWS: Final = (1, 32, 128, 2048)
_LAYOUT: Final = ways.ZEROED
_EMULATED: Final = (
    "an H200 has no FP4 GEMM: this one decodes both operands to bf16 and takes longer than the "
    "report's, so less of the gain is left"
)


class PaddedNvfp4Gemm(Experiment):
    """x [M, 7152] bf16 to y [M, 8192] bf16, by NVFP4 codes in rows of 7168."""

    about: ClassVar[About] = About(
        name="padded_nvfp4_gemm",
        pull_request=42774,
        title="NVFP4 quantization into a padded width, and the GEMM that reads it",
        claim=CLAIM,
        reach="none of its own: how much of the gain is left beside a GEMM",
    )

    def __init__(self) -> None:
        self._kept: dict[tuple[LinearConfig, int], _Weights] = {}

    def cases(self, stage: Stage) -> Sequence[SeedCase]:
        """Give few to many rows of the seed's GEMM."""
        if stage.is_tiny:
            return [_case(3, 64, 48)]
        rows = (1, 128) if stage.size == "quick" else ROWS
        return [_case(m, OUT_FEATURES, SEED_WIDTH) for m in rows]

    def prepare(self, case: SeedCase, stage: Stage) -> Prepared:
        """Give the three ways before one GEMM kernel, and the linear as quantmux runs it."""
        facts = case.facts
        m = facts["m"]
        config = LinearConfig(out_features=facts["n"], in_features=facts["k"], scheme="nvfp4")
        moved = work(config, m).moved
        copies = stage.copies(moved)
        key = (config, stage.effort.seed)
        kept = self._kept.setdefault(key, _Weights(Materials(config, stage.device, key[1])))
        materials = kept.materials
        inputs = tuple(materials.inputs(m, copies))
        linears = kept.linears(copies, config, stage)
        pipeline = linears[0].pipeline_for(m)
        gemms = [_gemm(bound, m, config, stage) for bound in linears]
        global_scale = materials.weights.input_global_scale
        if global_scale is None:
            raise TypeError("weights of a static NVFP4 activation have a global scale for it")
        compare = partial(_compare, config, pipeline, inputs[0], materials)

        def made(maker: Maker) -> Made:
            run, bound = maker(padded_config(config.k, _LAYOUT), stage)

            def both(gemm: Callable[[Any], Any], x: Any) -> Any:
                return gemm(run(x, global_scale))

            calls = tuple(
                partial(both, gemm, call.args[0]) for gemm, call in zip(gemms, inputs, strict=True)
            )
            return Made(calls, compare, kernel=f"{bound.pipeline_for(m)} → {pipeline.main.id}")

        def whole() -> Made:
            calls = tuple(
                partial(bound.call, call.args[0])
                for bound, call in zip(linears, inputs, strict=True)
            )
            return Made(calls, compare, kernel=str(pipeline))

        return Prepared(
            (
                Variant(BEFORE, "before", partial(made, ways.before_of)),
                Variant(SEED, "seed", partial(made, ways.seed_of)),
                Variant(OURS, "ours", partial(made, ways.ours_of)),
                Variant(WHOLE, "ours", whole),
            ),
            copies,
            bytes_per_call=moved,
            inputs=inputs,
            renew=partial(materials.renew, inputs, m),
        )

    def remarks(self, rows: Sequence[SeedRow], stage: Stage) -> Sequence[str]:
        """Say which GEMM it is."""
        del rows, stage
        return (_EMULATED, "quantmux's own linear pads nothing: its GEMM reads K = 7152 as it is")


@dataclass(slots=True, eq=False)
class _Weights:
    """Copies of the weights, each bound once for all cases.

    Attributes:
        materials: Weights, and inputs of any M.
    """

    materials: Materials
    _bound: list[BoundLinear] = field(default_factory=list)

    def linears(self, count: int, config: LinearConfig, stage: Stage) -> list[BoundLinear]:
        """Give the first copies bound."""
        for i in range(len(self._bound), count):
            self._bound.append(stage.linear(config, self.materials.weights_copy(i)))
        return self._bound[:count]


def _case(m: int, n: int, k: int) -> SeedCase:
    facts = {"m": m, "n": n, "k": k, "layout": _LAYOUT, "dtype": "bf16"}
    return SeedCase(f"{m}×{k} by {n}×{k}", facts, is_counted=m == 1)


def _gemm(bound: BoundLinear, m: int, config: LinearConfig, stage: Stage) -> Callable[[Any], Any]:
    """Give the consumer alone: it reads any padding, its pipeline asks for none."""
    step = bound.pipeline_for(m).steps[-1]
    kernel: Any = stage.context.load(step.kernel)
    layout = step.kernel.capability.weight_layout_for(config.n, config.k)
    consume: Callable[[Any], Any] = kernel.bind(
        config, bound.store.prepared(layout, kernel), stage.device
    )
    return consume


def _compare(
    config: LinearConfig, pipeline: Pipeline, call: Call, materials: Materials, y: Any
) -> Checked:
    asked = reference_config(config, pipeline)
    return check_linear(asked, call.args[0], materials, y, tolerance=pipeline.rel_tolerance)
