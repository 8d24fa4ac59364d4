"""The experiment `silu_mul`: SiLU·mul and FP8 quantization in groups, fused (vllm#32996)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final

from quantmux.bench.materials import Materials
from quantmux.bench.seeds import silu_mul_ways as ways
from quantmux.bench.seeds.experiment import (
    About,
    Claim,
    Experiment,
    Made,
    Prepared,
    SeedCase,
    Variant,
)
from quantmux.bench.seeds.silu_mul_ahead import compile_ahead, copies_for
from quantmux.bench.seeds.silu_mul_check import as_the_op, rounded_between
from quantmux.bench.seeds.silu_mul_remarks import remarks
from quantmux.bench.traffic import work
from quantmux.config import QuantizeConfig, SiluMulQuantizeConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux.bench.gate import Checked
    from quantmux.bench.seeds.rows import SeedRow
    from quantmux.bench.seeds.stage import Stage
    from quantmux.ops.spec import Call
    from quantmux.runtime.binding import BoundProducer

    Compare = Callable[[SiluMulQuantizeConfig, Call, Any], Checked]

PAIR: Final = "torch silu, mul + quantize"
TWO: Final = "silu·mul kernel + quantize"
COMPILED: Final = "torch.compile of the formula"
SEED: Final = "one group a program"
OURS: Final = "quantmux row_major"
ALIGNED: Final = "quantmux col_major_aligned4"

TOKENS: Final = (16, 128, 512, 2048)
WIDTHS: Final = (1024, 2048, 4096, 5120, 14336)
GROUPS: Final = (64, 128)
DTYPE_NAMES: Final = ("bf16", "fp16")
"""The grid of the pull request's own benchmark."""

LARGE: Final = (8192, 14336)
"""Beside the grid: where the product, at 235 MB, is nowhere near a cache."""

_COUNTED: Final = ((3, 256), (16, 1024), (2048, 14336))
"""Tokens and widths; what is launched is the same everywhere."""

_COMPILED_FOR: Final = (128, "bf16")
_COMPILED_WIDTHS: Final = (256, 1024, 4096, 14336)
"""Compiling takes seconds for every width, and the formula is always the same."""


class SiluMul(Experiment):
    """x [M, 2n] = [gate | up] into fp8 codes [M, n] and fp32 scales per group of columns."""

    about: ClassVar[About] = About(
        name="silu_mul",
        pull_request=32996,
        title="SiLU·mul and FP8 quantization in groups, in one kernel",
        claim=Claim(
            figure="about 2x; 321.6 µs to 133.4 µs",
            measured="its author, eager calls of the grid below, RTX 4070; the same at every width",
            ratios=(2.0, 321.6 / 133.4),
        ),
        reach="2.4x at 2048×14336 against torch's pair, 2.5x where launches bound",
    )

    def __init__(self) -> None:
        self._compiled: dict[SiluMulQuantizeConfig, ways.Way] = {}

    def cases(self, stage: Stage) -> Sequence[SeedCase]:
        """Give the grid, and 8192×14336; kernels are counted on some of it."""
        if stage.is_tiny:
            return [_case(3, 256, 128, "bf16"), _case(5, 128, 64, "fp16")]
        if stage.size == "quick":
            return [_case(m, n, 128, "bf16") for m, n in ((16, 1024), (128, 4096), (2048, 14336))]
        found = [
            _case(m, n, group, dtype)
            for dtype in DTYPE_NAMES
            for group in GROUPS
            for n in WIDTHS
            for m in TOKENS
        ]
        return [*found, _case(*LARGE, 128, "bf16")]

    def prepare(self, case: SeedCase, stage: Stage) -> Prepared:
        """Give three ways of before, the seed, and ours in two layouts."""
        facts = case.facts
        m, n, group, dtype = facts["m"], facts["n"], facts["group"], facts["dtype"]
        config, aligned, plain = _configs(case)
        moved = work(config, m).moved
        copies = copies_for(stage, moved)
        materials = Materials(config, stage.device, stage.effort.seed)
        inputs = tuple(materials.inputs(m, copies))

        def from_pair(way: Callable[..., ways.Way], first: str) -> Made:
            quantizer = stage.producer(plain)
            run = way(config, quantizer.call)
            kernel = f"{first} → {_kernel(quantizer, m)}"
            return _made(run, config, inputs, rounded_between, kernel=kernel)

        def ours(asked: SiluMulQuantizeConfig) -> Made:
            bound = stage.producer(asked)
            return _made(bound.call, asked, inputs, as_the_op, kernel=_kernel(bound, m))

        product = "our own product kernel" if stage.is_cuda else "torch's product"
        found = [
            Variant(PAIR, "before", partial(from_pair, ways.torch_pair, "silu, mul")),
            Variant(TWO, "before", partial(from_pair, ways.two_kernels, product)),
        ]
        if (group, dtype) == _COMPILED_FOR and n in _COMPILED_WIDTHS:
            make = partial(self._formula, config, inputs, stage)
            found.append(Variant(COMPILED, "before", make))
        found += [
            Variant(SEED, "seed", partial(_seed, config, inputs, stage)),
            Variant(OURS, "ours", partial(ours, config)),
            Variant(ALIGNED, "ours", partial(ours, aligned)),
        ]
        return Prepared(
            tuple(found),
            copies,
            bytes_per_call=moved,
            inputs=inputs,
            renew=partial(materials.renew, inputs, m),
        )

    def run(self, stage: Stage, tell: Callable[[str], None]) -> list[SeedRow]:
        """Compile what quantmux has for all cases first, side by side, and then take turns."""
        cases = self.cases(stage)
        ms = sorted({case.facts["m"] for case in cases})
        compile_ahead((config for case in cases for config in _configs(case)), ms, stage)
        return super().run(stage, tell)

    def remarks(self, rows: Sequence[SeedRow], stage: Stage) -> Sequence[str]:
        """Say what bytes alone would give, and what was found where launches or bytes bound."""
        return remarks(rows, stage)

    def _formula(
        self, config: SiluMulQuantizeConfig, inputs: tuple[Call, ...], stage: Stage
    ) -> Made:
        # dynamo reads Python for either; a host's inductor would call a C++ compiler for seconds
        backend = "inductor" if stage.is_cuda else "eager"
        run = self._compiled.get(config)
        if run is None:
            run = self._compiled[config] = ways.compiled_pair(config, backend=backend)
        return _made(run, config, inputs, rounded_between, kernel=f"{backend}, dynamic M")


def _case(m: int, n: int, group: int, dtype: str) -> SeedCase:
    facts = {"m": m, "n": n, "group": group, "dtype": dtype}
    is_counted = (group, dtype) == (128, "bf16") and (m, n) in _COUNTED
    return SeedCase(f"{m}×{n} group {group} {dtype}", facts, is_counted=is_counted)


def _configs(
    case: SeedCase,
) -> tuple[SiluMulQuantizeConfig, SiluMulQuantizeConfig, QuantizeConfig]:
    """Give the fused op, the same with aligned scales, and what is left of it after the product."""
    n, dtype = case.facts["n"], case.facts["dtype"]
    config = SiluMulQuantizeConfig(operand=f"fp8_group{case.facts['group']}", n=n, in_dtype=dtype)
    aligned = config.replace(layout=config.layout.replace(scales="col_major_aligned4"))
    plain = QuantizeConfig(operand=config.operand, n=n, layout=config.layout, in_dtype=dtype)
    return config, aligned, plain


def _kernel(bound: BoundProducer, m: int) -> str:
    return str(bound.pipeline_for(m))


def _seed(config: SiluMulQuantizeConfig, inputs: tuple[Call, ...], stage: Stage) -> Made:
    kernel = "our own writing of its grid, in Triton" if stage.is_cuda else "its semantics in torch"
    return _made(ways.seed(config), config, inputs, as_the_op, kernel=kernel)


def _made(
    run: ways.Way,
    config: SiluMulQuantizeConfig,
    inputs: tuple[Call, ...],
    compare: Compare,
    *,
    kernel: str,
) -> Made:
    calls = tuple(partial(run, call.args[0]) for call in inputs)
    return Made(calls, partial(compare, config, inputs[0]), kernel=kernel)
