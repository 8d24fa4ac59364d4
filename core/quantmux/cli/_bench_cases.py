"""The cases that the options of ``bench`` ask for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quantmux.bench.rows import BenchCase
from quantmux.bench.shapes import (
    DEFAULT_MS,
    MODELS,
    QUICK_MS,
    Shape,
    model_shapes,
    parse_counts,
    parse_shapes,
)
from quantmux.cli._checkpoints import open_quantized
from quantmux.cli._config_args import MODELS as OPS
from quantmux.cli._config_args import op_name
from quantmux.config import (
    InverseRopeQuantizeConfig,
    LinearConfig,
    QuantizeConfig,
    RelayoutConfig,
    RmsNormQuantizeConfig,
    RopeQuantizeConfig,
    SiluMulQuantizeConfig,
    default_layout,
)
from quantmux.config.operands import operand as named_operand
from quantmux.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_TAKES: Final[dict[str, tuple[str, ...]]] = {
    "linear": ("scheme", "shapes", "model"),
    "quantize": ("operand", "layout", "shapes", "model"),
    "silu_mul_quantize": ("operand", "layout", "shapes", "model"),
    "inverse_rope_quantize": ("operand", "layout", "shapes"),
    "rmsnorm_quantize": ("operand", "layout", "shapes", "model"),
    "rope_quantize": ("operand", "shapes"),
    "relayout": ("operand", "layout", "shapes", "model"),
    "checkpoint": (),
}
_SCHEME: Final = "fp8_block128"
_OPERAND: Final = "fp8_group128"
_MODEL: Final = "llama3-8b"
_QUICK_SHAPES: Final[tuple[Shape, ...]] = ((256, 512),)
_HEADS: Final = (64, 128)
_ROPE: Final[dict[str, Any]] = {"head_dim": 512, "rope_dim": 64, "groups": 8}
"""Attention output of DeepSeek V4."""
_QUERY_HEADS: Final = (8, 32, 64)
_QUERY: Final[dict[str, Any]] = {"head_dim": 128, "rope_dim": 128, "static_scale": 1.0 / 64.0}
"""Keys and queries of Llama 3; the scale is in the config, so that every kernel can serve."""


def cases_of(
    what: str,
    options: Mapping[str, str | None],
    *,
    m: str | None,
    in_dtype: str,
    out_dtype: str,
    bias: bool,
    quick: bool,
) -> tuple[BenchCase, ...]:
    """Give the cases, those of one config next to each other.

    Args:
        what: An op, or the path of a checkpoint.
        options: ``scheme operand layout shapes model`` as given, None where not.
        m: Numbers of rows as given.
        in_dtype: Of x.
        out_dtype: Of a linear's y.
        bias: Of linears.
        quick: Small shapes unless others are asked for.

    Raises:
        ConfigError: An option is not one of this op, or its value is impossible.
        CheckpointError: The checkpoint is broken, or has no quantized linear.
    """
    ms = parse_counts(m) if m is not None else QUICK_MS if quick else DEFAULT_MS
    path = Path(what)
    op = "checkpoint" if what not in OPS and path.exists() else _op(what)
    foreign = [name for name, value in options.items() if value is not None]
    foreign = [name for name in foreign if name not in _TAKES[op]]
    if foreign:
        takes = " ".join(f"--{name}" for name in _TAKES[op]) or "none of these: its layers say it"
        raise ConfigError(
            f"bench {op} takes no --{foreign[0]}", facts=[f"it takes: {takes}"], code="usage"
        )
    if op == "checkpoint":
        entries = open_quantized(path).layers()
        configs: Iterable[Any] = dict.fromkeys(entry.config for entry in entries)
    elif op == "linear":
        schemes = _names(options["scheme"], _SCHEME)
        dtypes: dict[str, Any] = {"in_dtype": in_dtype, "out_dtype": out_dtype, "bias": bias}
        configs = [
            LinearConfig(out_features=n, in_features=k, scheme=scheme, **dtypes)
            for scheme in schemes
            for n, k in _shapes(options, quick=quick)
        ]
    else:
        configs = list(_producers(op, options, in_dtype, quick=quick))
    return tuple(BenchCase(config, count) for config in configs for count in ms)


def _op(what: str) -> str:
    try:
        return op_name(what)
    except ConfigError as error:
        if Path(what).name == what and error.hint:
            raise
        raise ConfigError(
            f'there is no op and no checkpoint "{what}"',
            facts=error.facts,
            hint=error.hint or "a checkpoint is a folder, or a .safetensors file",
            code="op",
        ) from None


def _shapes(options: Mapping[str, str | None], *, quick: bool) -> tuple[Shape, ...]:
    shapes, model = options["shapes"], options.get("model")
    if shapes is not None and model is not None:
        raise ConfigError("--shapes and --model both say what to measure", code="usage")
    if shapes is not None:
        return parse_shapes(shapes)
    if model is not None:
        return model_shapes(model)
    return _QUICK_SHAPES if quick else MODELS[_MODEL]


def _widths(options: Mapping[str, str | None], *, quick: bool) -> tuple[int, ...]:
    """Give row widths: those given, else the K of the linears, which their producers write."""
    shapes = options["shapes"]
    if shapes is not None and not any(mark in shapes for mark in "x×"):
        return parse_counts(shapes, "--shapes")
    return tuple(dict.fromkeys(k for _, k in _shapes(options, quick=quick)))


def _producers(
    op: str, options: Mapping[str, str | None], in_dtype: str, *, quick: bool
) -> Iterator[Any]:
    layouts = _names(options["layout"], "")
    plain: dict[str, Any] = {"in_dtype": in_dtype}
    if op == "inverse_rope_quantize":
        given = options["shapes"]
        heads = parse_counts(given, "--shapes") if given is not None else _HEADS
        for name in _names(options["operand"], _OPERAND + "_pow2"):
            for layout in layouts:
                for count in heads:
                    where: dict[str, Any] = {"layout": layout} if layout else {}
                    yield InverseRopeQuantizeConfig(
                        operand=name, heads=count, **where, **_ROPE, **plain
                    )
        return
    if op == "rope_quantize":
        given = options["shapes"]
        for name in _names(options["operand"], "fp8_tensor_static"):
            for count in parse_counts(given, "--shapes") if given is not None else _QUERY_HEADS:
                yield RopeQuantizeConfig(operand=name, heads=count, **_QUERY, **plain)
        return
    kind = {
        "quantize": QuantizeConfig,
        "silu_mul_quantize": SiluMulQuantizeConfig,
        "rmsnorm_quantize": RmsNormQuantizeConfig,
    }.get(op)
    for name in _names(options["operand"], _OPERAND):
        for layout in layouts:
            for n in _widths(options, quick=quick):
                if kind is None:
                    yield _relayout(name, n, layout)
                else:
                    yield kind(operand=name, n=n, layout=layout or None, **plain)


def _relayout(name: str, n: int, layout: str) -> RelayoutConfig:
    source, colon, target = (layout or "row_major:col_major_aligned4").partition(":")
    if not colon:
        raise ConfigError(
            "a relayout goes from one layout to another",
            facts={"need": "--layout SOURCE:TARGET", "found": layout},
            code="usage",
        )
    operand = named_operand(name)
    base = default_layout(operand, n)
    return RelayoutConfig(
        operand=operand,
        n=n,
        source=base.replace(scales=source),
        target=base.replace(scales=target),
    )


def _names(text: str | None, default: str) -> tuple[str, ...]:
    names = [part.strip() for part in (text or "").split(",") if part.strip()]
    return tuple(dict.fromkeys(names)) or (default,)
