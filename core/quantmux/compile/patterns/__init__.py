"""Recognizers of what a fused producer computes, on graphs as inductor's post-grad passes see them.

They read targets and ``node.meta["val"]`` and never change a graph.
"""

from __future__ import annotations

from quantmux.compile.patterns.found import NearMiss, Pattern, RmsNorm, SiluMul
from quantmux.compile.patterns.rmsnorm import find_rmsnorm
from quantmux.compile.patterns.silu_mul import find_silu_mul

__all__ = ["NearMiss", "Pattern", "RmsNorm", "SiluMul", "find_rmsnorm", "find_silu_mul"]
