"""A layer config from the options of ``explain``, or from JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

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
from quantmux.config._base import as_config_error, closest
from quantmux.config.operands import operand as named_operand
from quantmux.errors import ConfigError

MODELS: Final[dict[str, type[Any]]] = {
    "linear": LinearConfig,
    "quantize": QuantizeConfig,
    "silu_mul_quantize": SiluMulQuantizeConfig,
    "inverse_rope_quantize": InverseRopeQuantizeConfig,
    "rmsnorm_quantize": RmsNormQuantizeConfig,
    "rope_quantize": RopeQuantizeConfig,
    "relayout": RelayoutConfig,
}

_PRODUCER: Final = ("operand", "n", "layout", "padded_n", "in_dtype")
_TAKES: Final[dict[str, tuple[str, ...]]] = {
    "linear": ("scheme", "n", "k", "in_dtype", "out_dtype", "bias", "contiguous_output"),
    "quantize": _PRODUCER,
    "silu_mul_quantize": _PRODUCER,
    "inverse_rope_quantize": (
        "operand",
        "layout",
        "in_dtype",
        "heads",
        "head_dim",
        "rope_dim",
        "groups",
    ),
    "rmsnorm_quantize": (*_PRODUCER, "norm_eps", "fp32_weight"),
    "rope_quantize": (
        "operand",
        "in_dtype",
        "heads",
        "head_dim",
        "rope_dim",
        "rope_at",
        "interleaved",
        "static_scale",
    ),
    "relayout": ("operand", "n", "padded_n", "source", "target"),
}
_NEEDS: Final[dict[str, tuple[str, ...]]] = {
    "linear": ("scheme", "n", "k"),
    "quantize": ("operand", "n"),
    "silu_mul_quantize": ("operand", "n"),
    "inverse_rope_quantize": ("heads", "head_dim", "rope_dim", "groups"),
    "rmsnorm_quantize": ("operand", "n"),
    "rope_quantize": ("heads", "head_dim", "rope_dim"),
    "relayout": ("operand", "n", "source", "target"),
}


def op_name(text: str) -> str:
    """Give the op that a word names; ``silu-mul-quantize`` is accepted.

    Raises:
        ConfigError: There is no such op.
    """
    name = text.replace("-", "_")
    if name in MODELS:
        return name
    near = closest(name, MODELS)
    raise ConfigError(
        f'there is no op "{text}"',
        facts=["ops: " + " ".join(MODELS)],
        hint=f'did you mean "{near}"?' if near else None,
        code="op",
    )


def config_from_options(op: str, options: dict[str, Any]) -> Any:
    """Build the config of an op from options; those left out are None.

    Raises:
        ConfigError: An option is missing, or is not one of this op, or its value is impossible.
    """
    given = {name: value for name, value in options.items() if value is not None}
    takes = _TAKES[op]
    foreign = [name for name in given if name not in takes]
    if foreign:
        raise ConfigError(
            f"explain {op} takes no {_flag(foreign[0])}",
            facts=["it takes: " + " ".join(_flag(name) for name in takes)],
            code="usage",
        )
    missing = [name for name in _NEEDS[op] if name not in given]
    if missing:
        raise ConfigError(
            f"explain {op} needs {' '.join(_flag(name) for name in missing)}",
            facts=["it takes: " + " ".join(_flag(name) for name in takes)],
            hint="or describe the layer with --config",
            code="usage",
        )
    if op == "linear":
        given["out_features"], given["in_features"] = given.pop("n"), given.pop("k")
    if op == "relayout":
        _fold_relayout(given)
    return MODELS[op](**given)


def config_from_json(text: str, op: str | None) -> Any:
    """Build a config from JSON text, or from the JSON file of that name.

    Args:
        text: ``{"op": ...}``, or a path.
        op: The op where the JSON does not say it; must agree where it does.

    Raises:
        ConfigError: The file cannot be read, the text is no JSON, or it describes no layer.
    """
    source, what = (text, "--config") if text.lstrip().startswith("{") else _read(Path(text))
    try:
        data = json.loads(source)
    except ValueError as error:
        raise ConfigError(f"{what} is not JSON", facts=[str(error)], code="config_json") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{what} is no JSON object", code="config_json")
    said = data.get("op", op)
    if said is None:
        raise ConfigError(
            f"{what} does not say the op",
            hint='put "op": "linear" into it, or name the op: quantmux explain linear --config …',
            code="usage",
        )
    if op is not None and said != op:
        raise ConfigError(
            f"{what} describes another op than was asked",
            facts={"asked": op, "found": said},
            code="usage",
        )
    model = MODELS[op_name(str(said))]
    try:
        return model(**{**data, "op": op_name(str(said))})
    except ValidationError as error:
        raise as_config_error(model, error) from None


def _read(path: Path) -> tuple[str, str]:
    try:
        return path.expanduser().read_text(encoding="utf-8"), str(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"the config file {path} cannot be read",
            facts=[reason],
            hint="--config takes a file, or JSON text that begins with {",
            code="config_json",
        ) from None


def _fold_relayout(given: dict[str, Any]) -> None:
    operand, padded_n = named_operand(given["operand"]), given.pop("padded_n", None)
    base = default_layout(operand, given["n"])
    if padded_n is not None:
        base = base.replace(padded_n=padded_n)
    for end in ("source", "target"):
        given[end] = base.replace(scales=given[end])


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
