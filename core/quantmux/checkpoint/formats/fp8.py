"""``quant_method: fp8``: DeepSeek and Qwen block FP8, AutoFP8, and Hugging Face per-tensor FP8.

One key, three families. With ``weight_block_size`` scales lie on a grid, partial blocks at its
edges; without it there is one scale. ``weight_scale_inv`` is a multiplier like all the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

from quantmux.checkpoint.formats.build import (
    LayerBuilder,
    Parts,
    disagreement,
    float_with_scale,
    ignored_but_quantized,
    matrix,
    missing_scale,
    scalar,
    unsupported,
    weight_scale,
)
from quantmux.checkpoint.layer_entry import Role, TensorBinding
from quantmux.checkpoint.name_match import Matcher
from quantmux.config import Block, ElementFormat, Operand, Scheme, scheme
from quantmux.errors import CheckpointError

if TYPE_CHECKING:
    from quantmux.checkpoint.safetensors_header import TensorInfo

WEIGHT_SCALES: Final = ("weight_scale_inv", "weight_scale", "scale", "qscale_weight")
"""Names of the weight's scale: DeepSeek and Hugging Face, AutoFP8, DeepSeek V4, Mistral."""

INPUT_SCALES: Final = ("input_scale", "activation_scale", "qscale_act")
"""Names of the static activation scale: AutoFP8, Hugging Face, Mistral."""


def read(build: LayerBuilder, quant: dict[str, Any]) -> None:
    """Add the linears of a checkpoint whose config says ``fp8``.

    Raises:
        CheckpointError: The config is not one we read, or it disagrees with a header.
    """
    reader = _Reader(build, quant)
    for module, parts in build.candidates():
        reader.add(module, parts)


class _Reader:
    def __init__(self, build: LayerBuilder, quant: dict[str, Any]) -> None:
        self.build = build
        self.block = _block_size(quant)
        self.static = _is_static(quant, self.block)
        self.pow2 = _is_pow2(quant)
        listed = quant.get("ignored_layers")
        self.where = "modules_to_not_convert" if listed is None else "ignored_layers"
        self.ignored = (
            Matcher("hf", quant.get("modules_to_not_convert") or ())
            if listed is None
            else Matcher("exact", listed)
        )
        fmt = quant.get("fmt")
        if fmt not in (None, "e4m3", "float8_e4m3fn"):
            raise CheckpointError(
                f'fp8 checkpoints store e4m3, the config says fmt = "{fmt}"', code="bad_config"
            )
        self.schemes = {False: self._scheme(pow2=False), True: self._scheme(pow2=True)}

    def _scheme(self, *, pow2: bool) -> Scheme:
        if self.block is None:
            return scheme("fp8_tensor_static" if self.static else "fp8_tensor")
        rounding: Literal["pow2", "none"] = "pow2" if pow2 else "none"
        return Scheme(
            weight=Operand(
                element=ElementFormat.FP8_E4M3, block=self.block, scale_rounding=rounding
            ),
            activation=Operand(
                element=ElementFormat.FP8_E4M3,
                block=Block(rows=1, cols=self.block.cols),
                scale_rounding=rounding,
            ),
        )

    def add(self, module: str, parts: Parts) -> None:
        weight = parts.get("weight")
        if weight is None:
            raise disagreement(
                f"{module}: config and headers disagree about the format",
                {"config": "quant_method fp8: needs .weight", "header": parts["weight_packed"]},
                code="weight_dtype",
            )
        leaves: list[str] = [leaf for leaf in WEIGHT_SCALES if leaf in parts]
        if weight.dtype in ("BF16", "F16", "F32"):
            raise float_with_scale(module, weight, parts)
        scale = _the_scale(module, parts, leaves)
        if weight.dtype == "I8" and scale.dtype == "F8_E8M0":
            raise unsupported(module, weight, "MXFP4 experts (expert_dtype fp4)")
        pattern = self.ignored.match(module)
        if pattern is not None:
            raise ignored_but_quantized(module, weight, self.where, pattern)
        n, k = matrix(module, weight, "F8_E4M3", "quant_method fp8")
        block = self.block or Block(rows=-1, cols=-1)
        bound = weight_scale(module, weight, scale, block, exponents=self.block is not None)
        tensors: dict[Role, TensorBinding] = {
            "weight": TensorBinding(weight.name, weight, "as_is"),
            "scales": bound,
        }
        notes: list[str] = []
        pow2 = self.pow2 or bound.rule == "e8m0"
        if pow2 and not self.pow2:
            notes.append("scales are stored as exponents, so activations take power-of-two scales")
        inputs = next((leaf for leaf in INPUT_SCALES if leaf in parts), None)
        if self.static:
            tensors["input_scale"] = scalar(
                module, parts, inputs or "input_scale", "activation scale"
            )
        elif inputs is not None:
            notes.append(f"{inputs} is not used: activation_scheme is dynamic")
        family = "block" if self.block is not None else "tensor"
        self.build.add(
            module, parts, n, k, self.schemes[pow2], tensors, f"fp8 {family}", tuple(notes)
        )


def _the_scale(module: str, parts: Parts, leaves: list[str]) -> TensorInfo:
    if not leaves:
        raise missing_scale(module, parts, "weight_scale_inv (or weight_scale)", "weight scale")
    if len(leaves) > 1:
        raise disagreement(
            f"{module}: two scales for one weight",
            {leaf: list(parts[leaf].shape) for leaf in leaves},
            code="two_scales",
        )
    return parts[leaves[0]]


def _block_size(quant: dict[str, Any]) -> Block | None:
    value = quant.get("weight_block_size")
    if value is None:
        return None
    good = isinstance(value, list | tuple) and len(value) == 2
    if not good or not all(type(v) is int and v > 0 for v in value):
        raise CheckpointError(
            "weight_block_size is not two positive numbers",
            facts={"found": repr(value)},
            hint="write [rows, columns], as [128, 128]",
            code="bad_config",
        )
    return Block(rows=value[0], cols=value[1])


def _is_static(quant: dict[str, Any], block: Block | None) -> bool:
    value = quant.get("activation_scheme", "dynamic")
    if value not in ("dynamic", "static"):
        raise CheckpointError(
            "activation_scheme is unknown",
            facts={"needs": "dynamic or static", "found": repr(value)},
            code="bad_config",
        )
    if value == "static" and block is not None:
        raise CheckpointError(
            "block scales go with dynamic activations",
            facts={
                "weight_block_size": f"[{block.rows}, {block.cols}]",
                "activation_scheme": "static",
            },
            hint="set activation_scheme to dynamic, or remove weight_block_size",
            code="bad_config",
        )
    return bool(value == "static")


def _is_pow2(quant: dict[str, Any]) -> bool:
    value = quant.get("scale_fmt")
    if value not in (None, "float", "ue8m0"):
        raise CheckpointError(
            "scale_fmt is unknown",
            facts={"needs": "ue8m0, float or nothing", "found": repr(value)},
            code="bad_config",
        )
    return bool(value == "ue8m0")
