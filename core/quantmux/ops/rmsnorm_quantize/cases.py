"""Cases of ``rmsnorm_quantize``: those of every producer, and rows whose squares are extreme."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from quantmux.config import RmsNormQuantizeConfig, operand
from quantmux.ops.quantize.cases import OPERANDS, producer_cases, width_of
from quantmux.ops.spec import Case

if TYPE_CHECKING:
    from collections.abc import Iterator


@cache
def cases() -> tuple[Case, ...]:
    """Give the cases of the op."""
    shared = list(producer_cases(RmsNormQuantizeConfig))
    edges = [case for case in shared if case.is_small]
    real = [case for case in shared if not case.is_small]
    return (*edges, *_norms(), *real)


def _config(name: str, **changes: Any) -> RmsNormQuantizeConfig:
    fields = {"operand": name, "n": width_of(operand(name))}
    return RmsNormQuantizeConfig.model_validate(fields | changes)


def _norms() -> Iterator[Case]:
    """Weights in fp32, other norm_eps, and rows whose mean of squares is beside norm_eps."""
    for name in OPERANDS:
        for dtype in ("bf16", "fp16"):
            made = _config(name, fp32_weight=True, in_dtype=dtype)
            yield Case(made, 9, source="a weight in fp32")
        for norm_eps in (1e-5, 1e-12, 0.5):
            yield Case(_config(name, norm_eps=norm_eps), 9, source="other norm_eps")
        for magnitude in (1e-3, 3e-2):
            yield Case(_config(name), 9, magnitude=magnitude, source="squares beside norm_eps")
        yield Case(_config(name, norm_eps=1e-12), 9, "zeros", source="1 / sqrt(norm_eps)")
        tiny = _config(name, in_dtype="fp32")
        yield Case(tiny, 9, magnitude=1e-20, source="squares below fp32's normal numbers")
        yield Case(tiny, 9, magnitude=1e17, source="squares near the end of fp32")
