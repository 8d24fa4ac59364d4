"""Find SiLU·mul."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from quantmux.compile.patterns.found import NearMiss, SiluMul


def find_silu_mul(node: torch.fx.Node) -> SiluMul | NearMiss | None:
    """Tell whether a value is ``silu(gate) · up``: the pattern, a near miss, or None.

    Args:
        node: The value that is quantized, [..., n].
    """
    raise NotImplementedError
