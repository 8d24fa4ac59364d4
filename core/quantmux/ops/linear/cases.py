"""Cases of ``linear``: zero and odd shapes first, then contents, then real layers."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

from quantmux.config import LinearConfig
from quantmux.config.schemes import SCHEMES
from quantmux.ops.spec import Case

if TYPE_CHECKING:
    from collections.abc import Iterator

PLAIN: Final = (256, 128)
"""(N, K) that every alignment divides, K a whole block for every scheme."""

ODD_SHAPES: Final = (
    (24, 128, "N below every tile"),
    (130, 256, "N % 8 = 2: rows of y are not 16-byte aligned"),
    (127, 128, "odd N"),
    (200, 384, "partial weight blocks along N"),
    (64, 16, "one NVFP4 block"),
    (64, 48, "K % 32 = 16"),
    (64, 200, "partial groups along K, K % 16 = 8"),
    (40, 72, "K below a group"),
    (8, 1368, "a K that no tile divides"),
    (384, 384, "a square grid of weight blocks"),
    (33, 17, "odd N and odd K"),
    (1, 1, "the least layer"),
)
"""(N, K, why)."""

REAL_LAYERS: Final = (
    (2112, 7168, "DeepSeek-V3 fused q_a and kv_a projection"),
    (24576, 1536, "DeepSeek-V3 q_b projection"),
    (7168, 2048, "DeepSeek-V3 expert down projection"),
    (576, 7168, "DeepSeek-V3 kv_a projection"),
    (6144, 4096, "Llama-3.1-8B fused qkv"),
    (4096, 14336, "Llama-3.1-8B down projection"),
    (384, 1536, "all-MiniLM-L6-v2 feed-forward output"),
)
"""(N, K, what)."""

SCHEME_NAMES: Final = tuple(SCHEMES)


@cache
def cases() -> tuple[Case, ...]:
    """Give the cases of the op."""
    return (*_rows(), *_shapes(), *_contents(), *_formats(), *_real())


def _config(scheme: str, n: int, k: int, **changes: str | bool) -> LinearConfig:
    return LinearConfig.model_validate(
        {"in_features": k, "out_features": n, "scheme": scheme, **changes}
    )


def _rows() -> Iterator[Case]:
    """Row counts: none, one, and either side of the tiles of 8, 16, 32, 64 and 128."""
    for scheme in SCHEME_NAMES:
        for m in (0, 1, 7, 8, 9, 16, 17, 31, 33):
            yield Case(_config(scheme, *PLAIN), m, source="row counts")
        for m in (63, 65, 127, 129):
            yield Case(_config(scheme, *PLAIN), m, source="row counts around large tiles")


def _shapes() -> Iterator[Case]:
    """Odd N and K: padding, partial blocks, unaligned rows."""
    for scheme in SCHEME_NAMES:
        for n, k, source in ODD_SHAPES:
            yield Case(_config(scheme, n, k), 5, source=source)
        yield Case(_config(scheme, 130, 256, bias=True), 17, source="bias beside unaligned rows")
        contiguous = _config(scheme, 130, 256, contiguous_output=True)
        yield Case(contiguous, 17, source="contiguous rows asked for")


def _contents() -> Iterator[Case]:
    """What the numbers are; a bias absent, present and large; several K blocks to sum over."""
    for scheme in SCHEME_NAMES:
        plain = _config(scheme, 144, 512)
        biased = _config(scheme, 144, 512, bias=True)
        for magnitude in (1e-4, 1.0, 1e4):
            yield Case(plain, 9, magnitude=magnitude, source="magnitudes")
        for kind in ("zeros", "equal", "one_hot", "outliers", "positive"):
            yield Case(plain, 9, kind, source="special matrices")
        yield Case(biased, 9, source="bias")
        yield Case(biased, 9, "zeros", source="nothing but the bias")
        yield Case(biased, 9, "large_bias", source="a bias far larger than the sum")


def _formats() -> Iterator[Case]:
    """Input and output formats, and exact accumulation."""
    for scheme in SCHEME_NAMES:
        for in_dtype, out_dtype in (("fp16", "fp16"), ("bf16", "fp32"), ("fp32", "bf16")):
            made = _config(scheme, 144, 256, in_dtype=in_dtype, out_dtype=out_dtype)
            yield Case(made, 9, source="input and output formats")
        # over more products, the short accumulator may lose more than a second rounding does
        for changes in ({"bias": True}, {"out_dtype": "fp16"}, {"out_dtype": "fp32"}):
            few = _config(scheme, 64, 16, **changes)
            yield Case(few, 33, source="few products: each rounding shows")
        exact = _config(f"{scheme}+exact", 144, 2048)
        yield Case(exact, 9, source="exact accumulation over many steps")
        yield Case(exact, 9, "positive", source="exact accumulation without cancellation")


def _real() -> Iterator[Case]:
    """Real layers at decode and prefill row counts."""
    for n, k, source in REAL_LAYERS:
        for scheme in SCHEME_NAMES:
            for m in (1, 16, 128):
                yield Case(_config(scheme, n, k), m, source=source, is_small=False)
