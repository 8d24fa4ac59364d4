"""Cases of ``rope_quantize``: both kinds of pairs at both ends of a head, then real heads."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

from quantmux.config import Block, ElementFormat, Operand, RopeQuantizeConfig
from quantmux.ops.quantize.cases import AWKWARD_SCALE
from quantmux.ops.spec import Case

if TYPE_CHECKING:
    from collections.abc import Iterator

E5M2: Final = Operand(element=ElementFormat.FP8_E5M2, block=Block(rows=-1, cols=-1), dynamic=False)
PLACES: Final = (("first", False), ("first", True), ("last", False), ("last", True))
"""Which columns of a head are rotated, and whether pairs are interleaved."""

SCALE: Final = 2.5 / 448.0
"""A scale under which a few normal inputs saturate; no power of two."""


@cache
def cases() -> tuple[Case, ...]:
    """Give the cases of the op."""
    return (*_tokens(), *_shapes(), *_scales(), *_contents(), *_real())


def _config(at: str = "first", interleaved: bool = False, **changes: Any) -> RopeQuantizeConfig:
    fields = {
        "heads": 3,
        "head_dim": 96,
        "rope_dim": 64,
        "rope_at": at,
        "interleaved": interleaved,
    }
    return RopeQuantizeConfig.model_validate(fields | changes)


def _tokens() -> Iterator[Case]:
    """No token, one, and odd counts."""
    for place in PLACES:
        for t in (0, 1, 2, 7, 33):
            yield Case(_config(*place), t, source="few tokens")
            yield Case(_config(*place, static_scale=SCALE), t, source="few tokens")


def _shapes() -> Iterator[Case]:
    """Heads, and how much of them is rotated."""
    for place in PLACES:
        for given in (None, SCALE):
            one = _config(*place, heads=1, static_scale=given)
            yield Case(one, 3, source="one head")
            whole = _config(*place, head_dim=64, static_scale=given)
            yield Case(whole, 3, source="the whole head is rotated")
            half = _config(*place, head_dim=128, static_scale=given)
            yield Case(half, 5, source="half of the head is rotated")
            wide = _config(*place, head_dim=192, rope_dim=128, static_scale=given)
            yield Case(wide, 5, source="more is rotated than is not")
            little = _config(*place, head_dim=128, rope_dim=2, static_scale=given)
            yield Case(little, 5, source="one pair is rotated")
            odd = _config(*place, head_dim=71, rope_dim=30, static_scale=given)
            yield Case(odd, 5, source="widths that no vector divides")


def _scales() -> Iterator[Case]:
    """The scale of the config and of the call, in both formats; x / s is not x * (1 / s)."""
    for place in PLACES:
        for given in (1.0, 0.25, 3.0, 1e-3, 1e3):
            yield Case(_config(*place, static_scale=given), 5, source="scales of the config")
        yield Case(_config(*place, operand=E5M2), 9, source="fp8_e5m2")
        yield Case(_config(*place, operand=E5M2, static_scale=0.01), 9, source="fp8_e5m2")
    for dtype in ("bf16", "fp16", "fp32"):
        for awkward in (None, AWKWARD_SCALE):
            made = _config(in_dtype=dtype, static_scale=awkward)
            yield Case(made, 9, "ties", magnitude=AWKWARD_SCALE, source="x * (1 / s) is not x / s")


def _contents() -> Iterator[Case]:
    """What the numbers are."""
    for place in PLACES:
        for magnitude in (1e-8, 1e-4, 1e4):
            yield Case(_config(*place), 7, magnitude=magnitude, source="magnitudes")
        for kind in ("zeros", "signed_zeros", "equal", "one_hot", "outliers", "wide", "ties"):
            yield Case(_config(*place), 7, kind, source="special matrices")
        for kind in ("nan", "inf", "mixed"):
            for operand in ("fp8_tensor_static", E5M2):
                made = _config(*place, operand=operand)
                yield Case(made, 7, kind, source="non-finite: only its own pair is spoiled")
            given = _config(*place, static_scale=SCALE)
            yield Case(given, 7, kind, source="non-finite: only its own pair is spoiled")
        for dtype in ("fp16", "fp32"):
            yield Case(_config(*place, in_dtype=dtype), 7, source="input formats")
            made = _config(*place, in_dtype=dtype, static_scale=SCALE)
            yield Case(made, 7, "wide", source="input formats, subnormal results")


def _real() -> Iterator[Case]:
    """Query and key heads of models, at decode and prefill token counts."""
    llama: dict[str, Any] = {"head_dim": 128, "rope_dim": 128}
    glm: dict[str, Any] = {"head_dim": 128, "rope_dim": 64}
    deepseek: dict[str, Any] = {"head_dim": 192, "rope_dim": 64}
    for name, place, heads, dims in (
        ("Llama-3.1-8B queries", ("first", False), 32, llama),
        ("Llama-3.1-8B keys", ("first", False), 8, llama),
        ("GLM-4 queries: half a head, interleaved", ("first", True), 32, glm),
        ("DeepSeek-V3 queries: the last 64 of 192 columns", ("last", True), 128, deepseek),
    ):
        for given in (None, SCALE):
            made = _config(*place, heads=heads, static_scale=given, **dims)
            yield Case(made, 1, source=name)
            yield Case(made, 16, source=f"{name}, decode", is_small=False)
            yield Case(made, 1024, source=f"{name}, prefill", is_small=False)
