"""Cases of ``inverse_rope_quantize``: token counts around the alignment of 4, then real heads."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

from quantmux.config import InverseRopeQuantizeConfig, operand
from quantmux.config.operands import Block
from quantmux.ops.spec import Case

if TYPE_CHECKING:
    from collections.abc import Iterator

LAYOUTS: Final = ("col_major_aligned4", "packed_pow2")


@cache
def cases() -> tuple[Case, ...]:
    """Give the cases of the op."""
    return (*_tokens(), *_shapes(), *_contents(), *_real())


def _config(layout: str = "col_major_aligned4", **changes: Any) -> InverseRopeQuantizeConfig:
    fields = {"heads": 4, "head_dim": 128, "rope_dim": 64, "groups": 2, "layout": layout}
    return InverseRopeQuantizeConfig.model_validate(fields | changes)


def _tokens() -> Iterator[Case]:
    """No token, one, and all residues of 4: the pad rows of the scales; and 16-divisible counts."""
    for layout in LAYOUTS:
        for t in (0, 1, 2, 3, 4, 5, 15, 16, 17, 33):
            yield Case(_config(layout), t, source="token counts around the alignment")


def _shapes() -> Iterator[Case]:
    """Groups, group sizes and rotated widths, with words of four scales full and not."""
    group64 = operand("fp8_group64_pow2")
    group32 = group64.replace(block=Block(rows=1, cols=32))
    for layout in LAYOUTS:
        yield Case(_config(layout, heads=1, groups=1), 3, source="one head")
        yield Case(_config(layout, heads=6, groups=3), 3, source="three groups")
        yield Case(_config(layout, groups=1), 3, source="one group")
        yield Case(_config(layout, rope_dim=128), 3, source="the whole head is rotated")
        yield Case(_config(layout, rope_dim=2), 3, source="one pair is rotated")
        yield Case(_config(layout, operand=group64), 5, source="groups of 64")
        yield Case(_config(layout, operand=group32, head_dim=96), 5, source="groups of 32")


def _contents() -> Iterator[Case]:
    """What the numbers are."""
    for layout in LAYOUTS:
        for magnitude in (1e-12, 1e-4, 1e4):
            yield Case(_config(layout), 7, magnitude=magnitude, source="magnitudes")
        for kind in ("zeros", "equal", "one_hot", "outliers", "wide", "pow2_edges", "ties"):
            yield Case(_config(layout), 7, kind, source="special matrices")
        for kind in ("nan", "inf", "mixed"):
            yield Case(_config(layout), 7, kind, source="only its own group is spoiled")
        for dtype in ("fp16", "fp32"):
            yield Case(_config(layout, in_dtype=dtype), 7, source="input formats")


def _real() -> Iterator[Case]:
    """DeepSeek-V4 heads (448 + 64 columns), whole and as one of eight tensor-parallel ranks."""
    for layout in LAYOUTS:
        rank = _config(layout, heads=16, head_dim=512, groups=1)
        yield Case(rank, 1, source="DeepSeek-V4 Pro, one of 8 ranks")
        yield Case(rank, 128, source="DeepSeek-V4 Pro, one of 8 ranks", is_small=False)
        flash = _config(layout, heads=64, head_dim=512, groups=8)
        yield Case(flash, 17, source="DeepSeek-V4 Flash", is_small=False)
        whole = _config(layout, heads=128, head_dim=512, groups=8)
        yield Case(whole, 1, source="DeepSeek-V4 Pro", is_small=False)
        yield Case(whole, 512, source="DeepSeek-V4 Pro", is_small=False)
