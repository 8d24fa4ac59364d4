"""Find RMSNorm."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from quantmux.compile.patterns.found import NearMiss, RmsNorm


def find_rmsnorm(node: torch.fx.Node) -> RmsNorm | NearMiss | None:
    """Tell whether a value is an RMSNorm: the pattern, a near miss, or None.

    Args:
        node: The value that is quantized, [..., n].
    """
    raise NotImplementedError
