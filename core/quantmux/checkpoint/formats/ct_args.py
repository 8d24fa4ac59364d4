"""One ``config_group`` of compressed-tensors, turned into a scheme or refused with the reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from quantmux.config import Block, ElementFormat, Operand, Scheme, operand
from quantmux.errors import CheckpointError, ConfigError

Kind = Literal["fp8", "int8", "nvfp4"]

FORMATS: Final[dict[Kind, tuple[str, ...]]] = {
    "fp8": ("float-quantized", "naive-quantized"),
    "int8": ("int-quantized", "naive-quantized"),
    "nvfp4": ("nvfp4-pack-quantized",),
}
"""Names under which compressed-tensors stores each kind."""

_TENSOR: Final = Block(rows=-1, cols=-1)
_ROW: Final = Block(rows=1, cols=-1)


def _args(bits: int, kind: str, strategy: str, **more: Any) -> dict[str, Any]:
    return {"num_bits": bits, "type": kind, "strategy": strategy, "symmetric": True, **more}


_FP4: Final = _args(4, "float", "tensor_group", group_size=16)

PRESETS: Final[dict[str, dict[str, Any]]] = {
    "FP8": {
        "weights": _args(8, "float", "tensor"),
        "input_activations": _args(8, "float", "tensor", dynamic=False),
    },
    "FP8_DYNAMIC": {
        "weights": _args(8, "float", "channel"),
        "input_activations": _args(8, "float", "token", dynamic=True),
    },
    "FP8_BLOCK": {
        "weights": _args(8, "float", "block", block_structure=[128, 128]),
        "input_activations": _args(8, "float", "group", group_size=128, dynamic=True),
    },
    "NVFP4": {"weights": _FP4, "input_activations": {**_FP4, "dynamic": "local"}},
    "NVFP4A16": {"weights": _FP4},
    "W8A8": {
        "weights": _args(8, "int", "channel"),
        "input_activations": _args(8, "int", "token", dynamic=True),
    },
}
PRESETS["INT8"] = PRESETS["W8A8"]
"""Groups whose value is only a list of targets are named after one of these."""


@dataclass(frozen=True, slots=True)
class Group:
    """One group: what its modules are stored as.

    Attributes:
        name: Key in ``config_groups``.
        targets: Module names, ``re:`` patterns and class names.
        kind: Element family.
        format: Name of the storage format.
        scheme: What the numbers mean.
    """

    name: str
    targets: tuple[str, ...]
    kind: Kind
    format: str
    scheme: Scheme

    @property
    def block(self) -> Block:
        """Block of the weight."""
        return self.scheme.weight.block


def read_group(name: str, value: Any, default_format: str | None) -> Group:
    """Read one entry of ``config_groups``.

    Args:
        name: Its key; a preset's name when the value is only a list of targets.
        value: The entry.
        default_format: ``format`` of the whole config; a group's own takes precedence.

    Raises:
        CheckpointError: The group is malformed (``bad_config``) or asks for what is not
            supported (``unsupported_format``).
    """
    if isinstance(value, list):
        preset = PRESETS.get(name.upper())
        if preset is None:
            raise _refuse(name, f"preset {name} is not supported", " ".join(PRESETS))
        value = {**preset, "targets": value}
    if not isinstance(value, dict) or not isinstance(value.get("targets"), list):
        raise _bad(name, "needs an object with a list of targets", value)
    weights = value.get("weights")
    if not isinstance(weights, dict):
        raise _refuse(name, "weights are not quantized (activations only)", "weights: {...}")
    if value.get("output_activations"):
        raise _refuse(name, "quantized outputs are not supported", "output_activations: null")
    inputs = value.get("input_activations")
    kind, weight = _weight(name, weights)
    stored = value.get("format") or default_format
    if stored in (None, "mixed-precision", "dense"):
        stored = FORMATS[kind][0]
    if stored not in FORMATS[kind]:
        raise CheckpointError(
            f"compressed-tensors group {name}: format and weights disagree",
            facts={
                "format": stored,
                "weights": f"{weights.get('num_bits')} bit {weights.get('type')}, "
                f"stored as {' or '.join(FORMATS[kind])}",
            },
            hint="correct the format in quantization_config",
            code="bad_config",
        )
    activation = None if inputs is None else _activation(name, inputs, kind)
    try:
        scheme = Scheme(weight=weight, activation=activation)
    except ConfigError as error:
        raise _refuse(name, error.headline, "operands that can be multiplied") from None
    targets = tuple(str(t) for t in value["targets"])
    return Group(name, targets, kind, stored, scheme)


def _weight(name: str, args: dict[str, Any]) -> tuple[Kind, Operand]:
    bits, elem, strategy = args.get("num_bits"), args.get("type", "int"), _strategy(args)
    if args.get("symmetric", True) is False:
        raise _refuse(name, "asymmetric weights (zero points)", "symmetric: true")
    if (bits, elem) == (4, "float"):
        size = args.get("group_size")
        if strategy == "tensor_group" and size in (None, 16):
            return "nvfp4", operand("nvfp4")
        raise _refuse(
            name,
            f"4 bit float with strategy {strategy}, group_size {size} (MXFP4)",
            "strategy tensor_group, group_size 16 (NVFP4)",
        )
    if (bits, elem) == (8, "float"):
        if strategy == "block":
            return "fp8", Operand(element=ElementFormat.FP8_E4M3, block=_structure(name, args))
        if strategy in ("tensor", "channel"):
            return "fp8", operand(f"fp8_{strategy}")
        raise _refuse(
            name,
            f"8 bit float weights with strategy {strategy}, group_size {args.get('group_size')}",
            "strategy tensor, channel or block",
        )
    if (bits, elem) == (8, "int"):
        if strategy in ("tensor", "channel"):
            return "int8", operand("int8_tensor" if strategy == "tensor" else "int8_channel")
        raise _refuse(
            name, f"8 bit integer weights with strategy {strategy}", "strategy tensor or channel"
        )
    raise _refuse(name, f"{bits} bit {elem} weights", "8 bit float, 8 bit int, 4 bit float (NVFP4)")


def _activation(name: str, args: Any, kind: Kind) -> Operand:
    if not isinstance(args, dict):
        raise _bad(name, "input_activations is no object", args)
    bits, elem, strategy = args.get("num_bits"), args.get("type", "int"), _strategy(args)
    dynamic = args.get("dynamic", False)
    if args.get("symmetric", True) is False:
        raise _refuse(name, "asymmetric activations (zero points)", "symmetric: true")
    needs = {"fp8": (8, "float"), "int8": (8, "int"), "nvfp4": (4, "float")}[kind]
    if (bits, elem) != needs:
        raise _refuse(
            name, f"{kind} weights with {bits} bit {elem} activations", f"{needs[0]} bit {needs[1]}"
        )
    if kind == "nvfp4":
        # "local" and, by some producers, false: groups by each call, the global scale stored
        return operand("nvfp4_static" if dynamic != True else "nvfp4")  # noqa: E712 - may be a str
    if strategy == "tensor":
        found = operand("int8_tensor" if kind == "int8" else "fp8_tensor")
        return found if dynamic else found.replace(dynamic=False)
    if not dynamic:
        raise _refuse(name, f"static activations with strategy {strategy}", "strategy tensor")
    if strategy == "token":
        return operand("int8_token" if kind == "int8" else "fp8_token")
    size = args.get("group_size")
    if strategy == "group" and kind == "fp8" and type(size) is int and size > 0:
        return Operand(element=ElementFormat.FP8_E4M3, block=Block(rows=1, cols=size))
    raise _refuse(
        name,
        f"{kind} activations with strategy {strategy}, group_size {size}",
        "strategy tensor or token" + (" or group" if kind == "fp8" else ""),
    )


def _strategy(args: dict[str, Any]) -> str:
    given = args.get("strategy")
    if given is not None:
        return str(given)
    if args.get("block_structure") is not None:
        return "block"
    size = args.get("group_size")
    if size is None:
        return "tensor"
    return "channel" if size == -1 else "group"


def _structure(name: str, args: dict[str, Any]) -> Block:
    given: Any = args.get("block_structure")
    value = given
    if isinstance(given, str):  # the older spelling, "128x128"
        value = [int(v) if v.strip().isdigit() else v for v in given.split("x")]
    good = isinstance(value, list | tuple) and len(value) == 2
    if not good or not all(type(v) is int and v > 0 for v in value):
        raise _bad(name, "block_structure is two positive numbers", given)
    return Block(rows=value[0], cols=value[1])


def _refuse(name: str, reason: str, supported: str) -> CheckpointError:
    return CheckpointError(
        f"compressed-tensors group {name} is not supported",
        facts={"reason": reason, "supported": supported},
        hint="start from the unquantized model: quantmux convert MODEL OUT --scheme SCHEME",
        code="unsupported_format",
    )


def _bad(name: str, needs: str, found: Any) -> CheckpointError:
    return CheckpointError(
        f"compressed-tensors group {name} is malformed",
        facts={"needs": needs, "found": repr(found)[:200]},
        code="bad_config",
    )
