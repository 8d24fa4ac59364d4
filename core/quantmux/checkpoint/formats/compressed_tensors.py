"""``quant_method: compressed-tensors``: FP8, INT8 and NVFP4, grouped by module name.

Global scales of NVFP4 are stored as **divisors** (448 · 6 / amax); all other scales multiply.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from quantmux.checkpoint.formats.build import (
    LayerBuilder,
    Parts,
    disagreement,
    float_with_scale,
    ignored_but_quantized,
    matrix,
    missing_scale,
    missing_weight,
    nvfp4_matrix,
    scalar,
    weight_scale,
)
from quantmux.checkpoint.formats.ct_args import Group, read_group
from quantmux.checkpoint.layer_entry import Role, TensorBinding
from quantmux.checkpoint.name_match import Matcher
from quantmux.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Sequence

REFUSED_FORMATS: Final[dict[str, str]] = {
    "pack-quantized": "integers of 2 to 8 bits packed into int32 (W4A16 and the like)",
    "mxfp4-pack-quantized": "MXFP4 (blocks of 32 with exponent scales) has no scheme yet",
    "mxfp8-quantized": "MXFP8 (blocks of 32 with exponent scales) has no scheme yet",
    "marlin-24": "2:4 sparse weights in a kernel's own order",
    "sparse-24-bitmask": "2:4 sparse weights",
    "sparse-bitmask": "sparse weights",
}

_WEIGHT_DTYPE: Final = {"fp8": "F8_E4M3", "int8": "I8", "nvfp4": "U8"}


def read(build: LayerBuilder, quant: dict[str, Any]) -> None:
    """Add the linears of a checkpoint whose config says ``compressed-tensors``.

    Raises:
        CheckpointError: A group is malformed or unsupported, or disagrees with a header.
    """
    groups = _groups(quant)
    targets = _Targets(groups)
    ignored = Matcher("ct", quant.get("ignore") or ())
    for module, parts in build.candidates():
        weight = parts.get("weight_packed") or parts["weight"]
        if weight.dtype in ("BF16", "F16", "F32"):
            raise float_with_scale(module, weight, parts)
        pattern = ignored.match(module)
        if pattern is not None:
            raise ignored_but_quantized(module, weight, "ignore", pattern)
        group = targets.find(module)
        if group is None:
            raise disagreement(
                f"{module}: config and headers disagree whether it is quantized",
                {"config": "no config_group targets it", "header": weight},
                hint="add it to the targets of its group",
                code="no_group",
            )
        if group.kind == "nvfp4":
            _add_nvfp4(build, module, parts, group)
        else:
            _add_plain(build, module, parts, group)


def _add_plain(build: LayerBuilder, module: str, parts: Parts, group: Group) -> None:
    says = f"group {group.name}, {group.format} {group.kind}"
    weight = parts.get("weight")
    if weight is None:
        raise disagreement(
            f"{module}: config and headers disagree about the weight",
            {"config": f"{says}: needs .weight", "header": parts["weight_packed"]},
            code="weight_dtype",
        )
    n, k = matrix(module, weight, _WEIGHT_DTYPE[group.kind], says)
    scale = parts.get("weight_scale")
    if scale is None:
        raise missing_scale(module, parts, "weight_scale", "weight scale")
    tensors: dict[Role, TensorBinding] = {
        "weight": TensorBinding(weight.name, weight, "as_is"),
        "scales": weight_scale(module, weight, scale, group.block),
    }
    activation = group.scheme.activation
    notes: list[str] = []
    if activation is not None and not activation.dynamic:
        tensors["input_scale"] = scalar(module, parts, "input_scale", "activation scale")
    elif "input_scale" in parts:
        notes.append(f"input_scale is not used: group {group.name} has no static activations")
    build.add(module, parts, n, k, group.scheme, tensors, _label(group), tuple(notes))


def _add_nvfp4(build: LayerBuilder, module: str, parts: Parts, group: Group) -> None:
    says = f"group {group.name}, {group.format}"
    packed = parts.get("weight_packed")
    if packed is None:
        if parts["weight"].dtype != "U8":
            matrix(module, parts["weight"], "U8", says)
        raise missing_weight(module, parts, "weight_packed")
    n, k, scales = nvfp4_matrix(module, packed, parts, says)
    tensors: dict[Role, TensorBinding] = {
        "weight": TensorBinding(packed.name, packed, "as_is"),
        "scales": scales,
        "global_scale": scalar(
            module, parts, "weight_global_scale", "global scale", rule="reciprocal"
        ),
    }
    activation = group.scheme.activation
    notes: list[str] = []
    if activation is not None and activation.global_scale == "static":
        tensors["input_global_scale"] = scalar(
            module, parts, "input_global_scale", "global activation scale", rule="reciprocal"
        )
    elif "input_global_scale" in parts:
        notes.append(f"input_global_scale is not used: group {group.name} does not store it")
    build.add(module, parts, n, k, group.scheme, tensors, _label(group), tuple(notes))


def _label(group: Group) -> str:
    return f"compressed-tensors {group.format}"


def _groups(quant: dict[str, Any]) -> list[Group]:
    default = quant.get("format")
    default = None if default is None else str(default)
    if default in REFUSED_FORMATS:
        raise _refused(default)
    sparsity = quant.get("sparsity_config") or {}
    if isinstance(sparsity, dict) and sparsity.get("format", "dense") not in ("dense", None):
        raise _refused(f"sparsity {sparsity['format']}", "sparse weights are not read")
    transform = quant.get("transform_config") or {}
    if transform and (not isinstance(transform, dict) or transform.get("config_groups")):
        raise _refused("transform_config", "rotated weights need the rotation of their inputs too")
    listed = quant.get("config_groups")
    if not isinstance(listed, dict) or not listed:
        raise CheckpointError(
            "the compressed-tensors config has no config_groups",
            facts={"found": repr(listed)[:200]},
            hint="download config.json again",
            code="bad_config",
        )
    for name, value in listed.items():
        own = str(value.get("format")) if isinstance(value, dict) else None
        if own in REFUSED_FORMATS:
            raise _refused(f"{own} (group {name})", REFUSED_FORMATS[own])
    return [read_group(name, value, default) for name, value in listed.items()]


def _refused(what: str, reason: str | None = None) -> CheckpointError:
    return CheckpointError(
        f"compressed-tensors {what} is not supported",
        facts={
            "reason": reason or REFUSED_FORMATS[what],
            "supported": "float-quantized int-quantized nvfp4-pack-quantized",
        },
        hint="start from the unquantized model: quantmux convert MODEL OUT --scheme SCHEME",
        code="unsupported_format",
    )


class _Targets:
    """Finds the group of a module: exact names first, then ``re:``, then the class.

    Headers do not name classes. A quantized matrix is a Linear as far as targets go; an embedding
    is told by its name, as nothing else of it is stored.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        self.exact: dict[str, Group] = {}
        self.regex: list[tuple[re.Pattern[str], Group]] = []
        for group in groups:
            for target in group.targets:
                if not target.startswith("re:"):
                    self.exact.setdefault(target, group)
                    continue
                try:
                    self.regex.append((re.compile(target[3:]), group))
                except re.error as error:
                    raise CheckpointError(
                        f'target "{target}" of group {group.name} is no regular expression',
                        facts=[str(error)],
                        code="bad_pattern",
                    ) from None

    def find(self, module: str) -> Group | None:
        found = self.exact.get(module)
        if found is not None:
            return found
        for regex, group in self.regex:
            if regex.match(module):
                return group
        name = "Embedding" if "embed" in module.rpartition(".")[2] else "Linear"
        return self.exact.get(name)
