"""Cases of ``silu_mul_quantize``: those of every producer, and gates at the ends of exp."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from quantmux.config import SiluMulQuantizeConfig, operand
from quantmux.ops.quantize.cases import producer_cases, width_of
from quantmux.ops.spec import Case

if TYPE_CHECKING:
    from collections.abc import Iterator


@cache
def cases() -> tuple[Case, ...]:
    """Give the cases of the op."""
    shared = list(producer_cases(SiluMulQuantizeConfig))
    edges = [case for case in shared if case.is_small]
    real = [case for case in shared if not case.is_small]
    return (*edges, *_gates(), *real)


def _gates() -> Iterator[Case]:
    """Gates where exp(-gate) overflows or vanishes, and groups with a tiny amax.

    The second is where implementations that floor the *scale* differ from those that floor amax.
    """
    for name in ("fp8_group128", "fp8_group64", "fp8_group128_pow2", "fp8_token", "nvfp4"):
        made = SiluMulQuantizeConfig.model_validate({"operand": name, "n": width_of(operand(name))})
        for magnitude in (30.0, 300.0):
            yield Case(made, 9, magnitude=magnitude, source="exp overflows for negative gates")
        yield Case(made, 9, magnitude=1e-3, source="products far below 1/512")
