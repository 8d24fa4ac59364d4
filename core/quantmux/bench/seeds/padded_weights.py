"""vllm#42651: weights of odd widths, padded on every call, at load, or never in a call.

The scaled product of both ways before ours is torch's (row scales, cuBLASLt), which wants N and K
to be multiples of 16; the pull request's is CUTLASS's, which wants the same. x is quantized by
quantmux's selection in every way, so that they differ in what is padded, copied and cut.
"""

from __future__ import annotations

from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar, Final

from quantmux.bench.seeds.experiment import (
    About,
    Claim,
    Experiment,
    Made,
    Prepared,
    SeedCase,
    Variant,
)
from quantmux.bench.seeds.linears import LinearCopies
from quantmux.bench.seeds.padded_weights_remarks import (
    contiguous_lines,
    same_product_lines,
)
from quantmux.bench.seeds.padded_weights_ways import PadsEveryCall, padding_way
from quantmux.bench.seeds.ratios import geomean
from quantmux.config import LinearConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from quantmux.bench.seeds.rows import SeedRow
    from quantmux.bench.seeds.stage import Stage
    from quantmux.ops.spec import Call

Shape = tuple[int, int, bool]
"""N, K, and whether there is a bias."""

SHAPES: Final[tuple[Shape, ...]] = (
    (2048, 1376, False),
    (2048, 1368, False),
    (1280, 3420, True),
    (3420, 1280, True),
    (1000, 1000, False),
)
"""The first has nothing to pad. 2048×1368 is DeepSeek-Coder-V2-Lite's down projection at TP8, with
a bias the two of Qwen2.5-VL's vision MLP."""

MS: Final = (1, 16, 256, 1024, 4096)
_QUICK: Final = (((2048, 1376, False), 16), ((2048, 1368, False), 16), ((3420, 1280, True), 256))
_TINY: Final = (((48, 32, False), 3), ((40, 24, False), 3), ((36, 20, True), 2))

EVERY_CALL: Final = "pad on every call"
AT_LOAD: Final = "pad at load, cut on every call"
OURS: Final = "quantmux"
SAME_PRODUCT: Final = "quantmux, on torch's product"
COPIED: Final = "quantmux, then y.contiguous()"
DENSE: Final = "quantmux, contiguous_output=True"

_ROWS: Final = 8
"""Rows of a y whose width is no multiple of it are further apart than N, as quantmux gives them by
itself. The two other ways give contiguous rows, so ours is shown with those, too."""

_COUNTED: Final = (16, 4096)
"""Ms at which kernels are counted: with one row, cutting columns off copies nothing."""

_FEW: Final = 256
"""The reach is stated up to this M."""


class PaddedWeights(Experiment):
    """Five shapes × five Ms; one shape is aligned and shows what the ways cost without padding."""

    about: ClassVar[About] = About(
        name="padded_weights",
        pull_request=42651,
        title="FP8 linear of odd widths: pad on every call, pad at load, never pad in a call",
        claim=Claim(
            figure="13.5% TTFT improvement",
            measured="its author, end to end; no single linear",
        ),
        reach="before/ours >= 3 up to M = 256, seed/ours >= 1.3",
    )

    def __init__(self) -> None:
        self._last: LinearCopies | None = None

    def cases(self, stage: Stage) -> Sequence[SeedCase]:
        """Give shape by shape all Ms."""
        pairs = {
            "full": tuple((shape, m) for shape in SHAPES for m in MS),
            "quick": _QUICK,
            "tiny": _TINY,
        }[stage.size]
        return tuple(_case(shape, m) for shape, m in pairs)

    def prepare(self, case: SeedCase, stage: Stage) -> Prepared:
        """Give the two ways of padding, ours, and ours on the same product as theirs."""
        linear, m = self._linear(case, stage), case.facts["m"]
        copies = stage.copies(linear.bytes_of(m))
        inputs = linear.materials.inputs(m, copies)
        turns = count()
        variants = [
            Variant(EVERY_CALL, "before", partial(padding_way, linear, inputs, PadsEveryCall)),
            Variant(AT_LOAD, "seed", partial(padding_way, linear, inputs)),
            Variant(OURS, "ours", lambda: _ours(linear, inputs, turn=min(next(turns), 1))),
            Variant(SAME_PRODUCT, "ours", partial(_ours, linear, inputs, force="torch")),
        ]
        if linear.config.n % _ROWS:
            dense = linear.config.replace(contiguous_output=True)
            variants += [
                Variant(COPIED, "ours", partial(_ours, linear, inputs, copies_rows=True)),
                Variant(DENSE, "ours", partial(_ours, linear, inputs, dense)),
            ]
        return Prepared(
            tuple(variants),
            copies,
            linear.bytes_of(m),
            tuple(inputs),
            renew=partial(linear.materials.renew, inputs, m),
        )

    def remarks(self, rows: Sequence[SeedRow], stage: Stage) -> Sequence[str]:
        """Say what padding alone gains, what few rows do, and what the control shows."""
        del stage
        few = [r for r in rows if r.us and not r.is_control and r.facts["m"] <= _FEW]
        found = same_product_lines(rows, SAME_PRODUCT, _FEW)
        found += contiguous_lines(rows, OURS, COPIED)
        for name in (EVERY_CALL, AT_LOAD):
            gpu, host = _over_ours(few, name, "us"), _over_ours(few, name, "host_us")
            if gpu:
                text = f"M <= {_FEW}: {name} takes {geomean(gpu):.2f} x the time of ours"
                text += f" ({min(gpu):.2f} at least)"
                text += f", {geomean(host):.2f} x its host time" if host else ""
                found.append(text)
        for name in (COPIED, DENSE):
            dense = [r for r in rows if r.kernel == name and r.us]
            seed = [r.ratio for r in dense if r.ratio]
            before = [r.before_ratio for r in dense if r.before_ratio]
            if seed and before:
                text = f"contiguous rows of a width that is no multiple of {_ROWS}: {name}"
                text += f": before {min(before):.2f} to {max(before):.2f} x its time"
                found.append(f"{text}, the seed {min(seed):.2f} to {max(seed):.2f} x")
        control = [r for r in rows if r.is_control and r.kind == "seed" and r.before_ratio]
        if control:
            mean = geomean(r.before_ratio for r in control)
            found.append(f"control, nothing to pad: before/seed {mean:.2f}")
        other = [
            r.ratio for r in rows if r.is_control and r.kernel == OURS and r.is_main and r.ratio
        ]
        if other:
            text = f"seed/ours {max(other):.2f} to {min(other):.2f}, which is another product alone"
            found.append(f"control, nothing to pad: {text}")
        return found

    def _linear(self, case: SeedCase, stage: Stage) -> LinearCopies:
        """Give the linear of a case; the last one is kept, with its bound copies."""
        facts = case.facts
        config = LinearConfig(
            out_features=facts["n"],
            in_features=facts["k"],
            scheme="fp8_channel_token",
            bias=facts["bias"],
        )
        if (
            self._last is None
            or self._last.config != config
            or self._last.stage.device != stage.device
        ):
            self._last = LinearCopies(config, stage)
        return self._last


def _ours(
    linear: LinearCopies,
    inputs: Sequence[Call],
    config: LinearConfig | None = None,
    *,
    force: str | None = None,
    turn: int = 0,
    copies_rows: bool = False,
) -> Made:
    bound = linear.bound(len(inputs), config=config, force=force, turn=turn)
    calls = tuple(
        partial(_copied, one.call, call.args[0]) if copies_rows else partial(one.call, call.args[0])
        for one, call in zip(bound, inputs, strict=True)
    )
    m = inputs[0].args[0].shape[0]
    return Made(
        calls, partial(linear.compare, bound[0], inputs), kernel=str(bound[0].pipeline_for(m))
    )


def _copied(linear: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    return linear(x).contiguous()


def _case(shape: Shape, m: int) -> SeedCase:
    n, k, bias = shape
    return SeedCase(
        f"{n}×{k}{' bias' if bias else ''} M={m}",
        {"n": n, "k": k, "m": m, "bias": bias},
        is_control=n % 16 == 0 and k % 16 == 0,
        is_counted=m in _COUNTED,
    )


def _over_ours(rows: Sequence[SeedRow], name: str, key: str) -> list[float]:
    """Give a way's number over ours, case by case."""
    ours: dict[str, Any] = {r.case: getattr(r, key) for r in rows if r.kernel == OURS}
    pairs = [(getattr(r, key), ours.get(r.case)) for r in rows if r.kernel == name]
    return [one / other for one, other in pairs if one and other]
