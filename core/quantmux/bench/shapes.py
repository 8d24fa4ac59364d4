"""Shapes to measure: N×K lists of known models, and those given by hand."""

from __future__ import annotations

import re
from typing import Final

from quantmux.config._base import closest
from quantmux.errors import ConfigError

Shape = tuple[int, int]

MODELS: Final[dict[str, tuple[Shape, ...]]] = {
    "llama3-8b": ((6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336)),
    "llama3-70b": ((10240, 8192), (8192, 8192), (57344, 8192), (8192, 28672)),
    "qwen3-8b": ((6144, 4096), (4096, 4096), (24576, 4096), (4096, 12288)),
    "qwen2.5-7b": ((4608, 3584), (3584, 3584), (37888, 3584), (3584, 18944)),
    "qwen2.5-32b": ((7168, 5120), (5120, 5120), (55296, 5120), (5120, 27648)),
    "dsv3": (
        (576, 7168),
        (2112, 7168),
        (1536, 7168),
        (24576, 1536),
        (32768, 512),
        (7168, 16384),
        (36864, 7168),
        (7168, 18432),
        (4096, 7168),
        (7168, 2048),
    ),
    "dsv3-tp8": (
        (3072, 1536),
        (7168, 2048),
        (4608, 7168),
        (7168, 2304),
        (4096, 512),
        (16160, 7168),
    ),
}
"""Linears (N, K) of models, fused as they are served."""

DEFAULT_MS: Final = (1, 16, 64, 128, 1024, 4096)
QUICK_MS: Final = (1, 64)

_SHAPE: Final = re.compile(r"^(\d+)[x×](\d+)$")


def model_shapes(name: str) -> tuple[Shape, ...]:
    """Give the linears of a model.

    Raises:
        ConfigError: The model is not listed.
    """
    found = MODELS.get(name.lower())
    if found is None:
        near = closest(name.lower(), MODELS)
        raise ConfigError(
            f'no shapes of a model "{name}"',
            facts=["models: " + " ".join(MODELS)],
            hint=f'did you mean "{near}"?' if near else "give them: --shapes 4096x7168,2112x7168",
            code="usage",
        )
    return found


def parse_shapes(text: str) -> tuple[Shape, ...]:
    """Give the shapes of ``4096x7168,2112x7168``.

    Raises:
        ConfigError: A part is no shape.
    """
    found: list[Shape] = []
    for part in (p.strip() for p in text.split(",") if p.strip()):
        match = _SHAPE.match(part)
        if match is None or "0" in (match[1], match[2]):
            raise ConfigError(
                "--shapes is a list of N×K",
                facts={"need": "NxK,NxK…  as 4096x7168,2112x7168", "found": part},
                code="usage",
            )
        found.append((int(match[1]), int(match[2])))
    if not found:
        raise ConfigError("--shapes is empty", hint="as 4096x7168,2112x7168", code="usage")
    return tuple(dict.fromkeys(found))


def parse_counts(text: str, flag: str = "--m") -> tuple[int, ...]:
    """Give the numbers of ``1,16,4096``, all above 0.

    Raises:
        ConfigError: A part is no such number.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ConfigError(
            f"{flag} is a list of numbers above 0",
            facts={"need": "1,16,4096", "found": text},
            code="usage",
        )
    return tuple(dict.fromkeys(int(part) for part in parts))
