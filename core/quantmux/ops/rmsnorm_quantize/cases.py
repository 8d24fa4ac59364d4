"""Cases of ``rmsnorm_quantize``: those of every producer, and rows whose squares are extreme."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from quantmux.config import RmsNormQuantizeConfig, operand
from quantmux.ops.quantize.cases import OPERANDS, REAL_WIDTHS, producer_cases, width_of
from quantmux.ops.spec import Case

if TYPE_CHECKING:
    from collections.abc import Iterator


@cache
def cases() -> tuple[Case, ...]:
    """Give the cases of the op."""
    shared = list(producer_cases(RmsNormQuantizeConfig))
    edges = [case for case in shared if case.is_small]
    real = [case for case in shared if not case.is_small]
    return (*edges, *_norms(), *real, *_hidden())


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


def _hidden() -> Iterator[Case]:
    """Real widths with a static scale, which the norms of served FP8 models have; and wide rows."""
    wide = ((5120, "Qwen3-32B hidden size"), (16384, "Llama-3.1-405B hidden size"))
    for n, source in (*REAL_WIDTHS, *wide):
        made = _config("fp8_tensor_static", n=n, norm_eps=1e-5)
        yield Case(made, 1, source=f"{source}, one token")
        yield Case(made, 16, source=f"{source}, decode", is_small=False)
        yield Case(made, 1024, source=f"{source}, prefill", is_small=False)
