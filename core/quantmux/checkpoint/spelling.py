"""How each format spells one linear: tensor names, shapes, directions, and the config beside them.

The inverse of the readers. A scheme is storable in a format exactly when its reader gives the same
scheme back; for compressed-tensors the reader itself is asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

import torch

from quantmux.checkpoint.formats.ct_args import read_group
from quantmux.checkpoint.formats.modelopt import ALGOS
from quantmux.config import SCHEMES, Scheme
from quantmux.config._base import closest
from quantmux.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from quantmux.checkpoint.layer_entry import Role
    from quantmux.checkpoint.tensors import StoredScales
    from quantmux.config import LinearConfig, Operand
    from quantmux.ops.quantized import LinearWeights

Format: TypeAlias = Literal["deepseek_fp8", "autofp8", "compressed_tensors", "modelopt"]
FORMATS: Final[tuple[str, ...]] = get_args(Format)

_SOURCES: Final = {
    "deepseek_fp8": "fp8 ",
    "autofp8": "fp8 ",
    "compressed_tensors": "compressed-tensors ",
    "modelopt": "modelopt ",
}
_MODELOPT_ALGOS: Final = {
    SCHEMES[preset]: algo for algo, preset in ALGOS.items() if algo != "FP8_BLOCK_SCALES"
}


@dataclass(frozen=True, slots=True, eq=False)
class Spelled:
    """One linear as a format stores it: tensors by last name part, and what was lost."""

    tensors: dict[str, torch.Tensor]
    notes: tuple[str, ...]


def check_format(name: str) -> Format:
    """Give the format of that name.

    Raises:
        ConfigError: There is none; names the closest.
    """
    if name in FORMATS:
        return name  # type: ignore[return-value]
    near = closest(name, FORMATS)
    raise ConfigError(
        f'checkpoint format "{name}" is unknown',
        facts=["formats: " + " ".join(FORMATS)],
        hint=f'did you mean "{near}"?' if near else None,
        code="format",
    )


def default_format(scheme: Scheme) -> Format:
    """Give the format in which checkpoints of that scheme are usually found."""
    if scheme.weight.block.kind == "block":
        return "deepseek_fp8"
    plain = scheme.replace(accumulation="fast")
    if plain == SCHEMES["fp8_tensor"]:
        return "autofp8"
    return "modelopt" if plain == SCHEMES["fp8_tensor_static"] else "compressed_tensors"


def require_storable(scheme: Scheme, fmt: Format) -> None:
    """Check that a format can say a scheme, so that reading gives it back.

    Raises:
        ConfigError: It cannot; code ``not_storable``.
    """
    plain = scheme.replace(accumulation="fast")
    if not _can_store(plain, fmt):
        dynamic = plain.activation is not None and plain.activation.global_scale == "dynamic"
        able = [f for f in FORMATS if _can_store(plain, f)]
        raise ConfigError(
            f"scheme {scheme.name} cannot be stored as {fmt}",
            facts={"formats that can": " ".join(able) or "none"},
            hint="calibrate, and store scheme nvfp4: files hold a static global activation scale"
            if dynamic
            else (f'use format="{able[0]}"' if able else "choose a preset scheme"),
            code="not_storable",
        )


def spell(
    name: str,
    config: LinearConfig,
    weights: LinearWeights,
    fmt: Format,
    stored: StoredScales | None = None,
) -> Spelled:
    """Spell one linear in a format.

    Args:
        name: Module name, for messages.
        config: Shape and scheme; the scheme is storable in ``fmt``.
        weights: Canonical weights.
        fmt: The format.
        stored: Scales as a file of the same family had them; used where they still mean the
            same values, so that a file read and written has the same bytes.

    Raises:
        CheckpointError: The format cannot hold this layer; code ``not_storable``.
        ConfigError: A static activation scale is missing; code ``needs_calibration``.
    """
    operand, notes = config.scheme.weight, []
    roles = {
        "deepseek_fp8": _spell_block,
        "autofp8": _spell_tensor,
        "compressed_tensors": _spell_ct,
        "modelopt": _spell_modelopt,
    }[fmt](name, config, weights)
    if operand.is_nvfp4 and config.k % 16:
        raise CheckpointError(
            f"{name}: files hold NVFP4 in whole blocks of 16",
            facts={"needs": "K % 16 == 0", "found": f"K = {config.k}"},
            hint="leave the layer unquantized",
            code="not_storable",
        )
    if stored is not None and stored.source.startswith(_SOURCES[fmt]):
        _keep_spelling(roles, weights, stored)
    for role, (leaf, tensor) in roles.items():
        if leaf.endswith("_global_scale"):
            back = torch.ones_like(tensor) / tensor
            if not torch.equal(back.reshape(-1), getattr(weights, role).cpu().reshape(-1)):
                notes.append(f"{name}.{leaf}: stored as a divisor, 1 ulp from the multiplier")
    leaf = "weight_packed" if fmt == "compressed_tensors" and operand.is_nvfp4 else "weight"
    tensors = {leaf: weights.data}
    tensors.update(dict(roles.values()))
    if weights.bias is not None:
        tensors["bias"] = weights.bias
    return Spelled(tensors, tuple(notes))


def quantization_config(
    fmt: Format, schemes: dict[Scheme, list[str]], ignore: list[str]
) -> dict[str, Any]:
    """Give the ``quantization_config`` of a checkpoint.

    Args:
        fmt: The format.
        schemes: Module names of every scheme.
        ignore: Matrices that stay unquantized.

    Raises:
        ConfigError: The format holds one scheme, and there are several.
    """
    if fmt == "compressed_tensors":
        return _ct_config(schemes, ignore)
    if len(schemes) > 1:
        raise ConfigError(
            f"format {fmt} holds one scheme",
            facts=[f"{scheme.name}: {len(names)} layers" for scheme, names in schemes.items()],
            hint='use format="compressed_tensors", or write one scheme',
            code="not_storable",
        )
    scheme = next(iter(schemes))
    if fmt == "modelopt":
        return _modelopt_config(scheme, ignore)
    static = scheme.activation is not None and not scheme.activation.dynamic
    config: dict[str, Any] = {
        "quant_method": "fp8",
        "activation_scheme": "static" if static else "dynamic",
    }
    if fmt == "autofp8":
        return {**config, "ignored_layers": ignore}
    block = scheme.weight.block
    config |= {"fmt": "e4m3", "weight_block_size": [block.rows, block.cols]}
    if scheme.weight.scale_rounding == "pow2":
        config["scale_fmt"] = "ue8m0"
    return {**config, "modules_to_not_convert": ignore}


def legacy_modelopt_config(config: dict[str, Any]) -> dict[str, Any]:
    """Give ``hf_quant_config.json`` for a ModelOpt ``quantization_config``."""
    inner = {"quant_algo": config["quant_algo"], "exclude_modules": config["ignore"]}
    if "NVFP4" in config["quant_algo"]:
        inner["group_size"] = 16
    return {"producer": config["producer"], "quantization": inner}


_Roles: TypeAlias = "dict[Role, tuple[str, torch.Tensor]]"


def _spell_block(_name: str, _config: LinearConfig, w: LinearWeights) -> _Roles:
    return {"scales": ("weight_scale_inv", w.scales)}


def _spell_tensor(name: str, config: LinearConfig, w: LinearWeights) -> _Roles:
    roles: _Roles = {"scales": ("weight_scale", w.scales.reshape(()))}
    if config.scheme.needs_static_activation_scale:
        roles["input_scale"] = ("input_scale", _need(name, "input_scale", w).reshape(()))
    return roles


def _spell_ct(name: str, config: LinearConfig, w: LinearWeights) -> _Roles:
    roles: _Roles = {"scales": ("weight_scale", w.scales)}
    if w.global_scale is not None:
        roles["global_scale"] = ("weight_global_scale", _divisor(w.global_scale))
    if config.scheme.needs_static_activation_scale:
        if w.global_scale is not None:
            multiplier = _need(name, "input_global_scale", w)
            roles["input_global_scale"] = ("input_global_scale", _divisor(multiplier))
        else:
            roles["input_scale"] = ("input_scale", _need(name, "input_scale", w).reshape(1))
    return roles


def _spell_modelopt(name: str, config: LinearConfig, w: LinearWeights) -> _Roles:
    kind, scales = config.scheme.weight.block.kind, w.scales
    if kind == "tensor":
        scales = scales.reshape(())
    elif kind == "row":
        scales = scales.reshape(-1)
    elif kind == "block":
        scales = scales.reshape(scales.shape[0], 1, scales.shape[1], 1)
    roles: _Roles = {"scales": ("weight_scale", scales)}
    if w.global_scale is not None:
        roles["global_scale"] = ("weight_scale_2", w.global_scale.reshape(()))
    if config.scheme.needs_static_activation_scale:
        role: Role = "input_scale" if w.global_scale is None else "input_global_scale"
        roles[role] = ("input_scale", _need(name, role, w).reshape(()))
    return roles


def _need(name: str, role: str, weights: LinearWeights) -> torch.Tensor:
    found: torch.Tensor | None = getattr(weights, role)
    if found is None:
        raise ConfigError(
            f"{name}: the scheme needs a static activation scale",
            facts={"needs": f"{role}, fp32 [1]", "found": "none"},
            hint="find it with quantmux.calibrate",
            code="needs_calibration",
        )
    return found


def _divisor(multiplier: torch.Tensor) -> torch.Tensor:
    wide = multiplier.detach().cpu().to(torch.float32).reshape(1)
    return torch.ones_like(wide) / wide


def _keep_spelling(roles: _Roles, weights: LinearWeights, stored: StoredScales) -> None:
    for role, kept in stored.tensors.items():
        if role not in roles:
            continue
        now = getattr(weights, role).cpu().reshape(-1)
        then = kept.canonical().reshape(-1)
        if now.dtype == then.dtype and now.shape == then.shape and bool((now == then).all()):
            roles[role] = (kept.leaf, kept.tensor)


def _can_store(scheme: Scheme, fmt: str) -> bool:
    if fmt == "modelopt":
        return scheme in _MODELOPT_ALGOS
    if fmt == "autofp8":
        return scheme in (SCHEMES["fp8_tensor"], SCHEMES["fp8_tensor_static"])
    return _is_block_fp8(scheme) if fmt == "deepseek_fp8" else _ct_reads_back(scheme)


def _is_block_fp8(scheme: Scheme) -> bool:
    weight, a = scheme.weight, scheme.activation
    if a is None or weight.block.kind != "block":
        return False
    plain = weight.replace(dynamic=True, block=a.block)
    return (
        plain == a
        and a.block.rows == 1
        and a.block.cols == weight.block.cols
        and _has_default_bounds(weight)
        and weight.element == "fp8_e4m3"
    )


def _has_default_bounds(operand: Operand) -> bool:
    return operand.eps == 1e-10 and operand.scale_ub is None


def _ct_reads_back(scheme: Scheme) -> bool:
    try:
        group = read_group("group_0", _ct_group(scheme, ["Linear"]), None)
    except CheckpointError:
        return False
    return group.scheme == scheme


def _ct_group(scheme: Scheme, targets: list[str]) -> dict[str, Any]:
    group: dict[str, Any] = {"targets": targets, "weights": _ct_args(scheme.weight, of="weight")}
    a = scheme.activation
    group["input_activations"] = None if a is None else _ct_args(a, of="activation")
    return group


def _ct_args(operand: Operand, *, of: str) -> dict[str, Any]:
    args: dict[str, Any] = {
        "num_bits": 4 if operand.is_nvfp4 else 8,
        "type": "int" if operand.element == "int8" else "float",
        "symmetric": True,
    }
    kind, block = operand.block.kind, operand.block
    if operand.is_nvfp4:
        local = of == "activation" and operand.global_scale == "static"
        return {
            **args,
            "strategy": "tensor_group",
            "group_size": 16,
            "dynamic": "local" if local else False,
        }
    row = "token" if of == "activation" else "channel"
    args["strategy"] = {"tensor": "tensor", "row": row, "group": "group", "block": "block"}[kind]
    if kind == "group":
        args["group_size"] = block.cols
    if kind == "block":
        args["block_structure"] = [block.rows, block.cols]
    return {**args, "dynamic": of == "activation" and operand.dynamic}


def _ct_config(schemes: dict[Scheme, list[str]], ignore: list[str]) -> dict[str, Any]:
    groups: dict[str, Any] = {}
    formats = set()
    for i, (scheme, names) in enumerate(schemes.items()):
        value = _ct_group(scheme, ["Linear"] if len(schemes) == 1 else sorted(names))
        value["format"] = read_group(f"group_{i}", value, None).format
        formats.add(value["format"])
        groups[f"group_{i}"] = value
    return {
        "quant_method": "compressed-tensors",
        "format": formats.pop() if len(formats) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": ignore,
    }


def _modelopt_config(scheme: Scheme, ignore: list[str]) -> dict[str, Any]:
    algo = _MODELOPT_ALGOS[scheme.replace(accumulation="fast")]
    group = _ct_group(scheme, ["Linear"])
    return {
        "quant_method": "modelopt",
        "quant_algo": algo,
        "ignore": ignore,
        "config_groups": {"group_0": {k: v for k, v in group.items() if v is not None}},
        "producer": {"name": "quantmux", "version": _version()},
    }


def _version() -> str:
    from quantmux._version import __version__

    return __version__
