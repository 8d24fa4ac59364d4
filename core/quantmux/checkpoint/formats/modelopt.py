"""``quant_method: modelopt``: FP8, FP8 per channel, FP8 blocks and NVFP4, by ``quant_algo``.

Two carriers say the same thing: ``hf_quant_config.json`` and ``config.json``. Only ``quant_algo``
counts: the exporter writes ``dynamic: false`` for activations that are dynamic.
"""

from __future__ import annotations

import difflib
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
from quantmux.checkpoint.layer_entry import Role, TensorBinding
from quantmux.checkpoint.name_match import Matcher
from quantmux.config import scheme
from quantmux.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

ALGOS: Final[dict[str, str]] = {
    "FP8": "fp8_tensor_static",
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8_channel_token",
    "FP8_PB_WO": "fp8_block128",
    "FP8_BLOCK_SCALES": "fp8_block128",
    "NVFP4": "nvfp4",
    "W4A16_NVFP4": "nvfp4_w4a16",
}
"""quant_algo → scheme preset."""

REFUSED: Final[dict[str, str]] = {
    "NVFP4_AWQ": "AWQ scales of the input (pre_quant_scale) are not applied",
    "NVFP4_SVD": "the low-rank branch of SVDQuant is not applied",
    "W4A8_NVFP4_FP8": "FP4 weights with FP8 activations have no scheme",
    "MXFP8": "MXFP8 (blocks of 32 with exponent scales) has no scheme yet",
    "MXFP4": "MXFP4 (blocks of 32 with exponent scales) has no scheme yet",
    "W4A8_MXFP4_FP8": "MXFP4 (blocks of 32 with exponent scales) has no scheme yet",
    "W4A16_AWQ": "AWQ scales of the input and packed int4 are not read",
    "W4A8_AWQ": "AWQ scales of the input and packed int4 are not read",
    "INT4_AWQ": "AWQ scales of the input and packed int4 are not read",
    "W8A16": "8 bit integer weight-only is not read",
    "W8A8_SQ_PER_CHANNEL": "SmoothQuant scales of the input are not applied",
}


def read(build: LayerBuilder, quant: dict[str, Any]) -> None:
    """Add the linears of a checkpoint that ModelOpt exported.

    Raises:
        CheckpointError: The algorithm is unsupported, or disagrees with a header.
    """
    mixed = _algo_name(quant) == "MIXED_PRECISION"
    listed = _quantized_layers(quant) if mixed else {}
    whole = None if mixed else _known(_algo_name(quant), "the checkpoint")
    if whole is not None and whole.endswith("NVFP4"):
        _require_group_16(quant)
    ignored = Matcher("modelopt", quant.get("ignore") or quant.get("exclude_modules") or ())
    for module, parts in build.candidates():
        weight = parts.get("weight")
        if weight is None:
            raise missing_weight(module, parts, "weight")
        if weight.dtype in ("BF16", "F16", "F32"):
            raise float_with_scale(module, weight, parts)
        pattern = None if module in listed else ignored.match(module)
        if pattern is not None:
            raise ignored_but_quantized(module, weight, "exclude_modules", pattern)
        algo = whole or listed.get(module)
        if algo is None:
            raise disagreement(
                f"{module}: config and headers disagree whether it is quantized",
                {"config": "quantized_layers does not list it", "header": weight},
                code="no_group",
            )
        _add(build, module, parts, algo)


def from_legacy(data: dict[str, Any], path: Path) -> dict[str, Any] | None:
    """Give ``hf_quant_config.json`` in the shape of ``quantization_config``; None if unquantized.

    Raises:
        CheckpointError: It has no ``quantization`` object.
    """
    inner = data.get("quantization")
    if not isinstance(inner, dict):
        raise CheckpointError(
            "hf_quant_config.json has no quantization object",
            facts={"file": path, "found": "keys " + ", ".join(sorted(data))},
            code="bad_config",
        )
    if inner.get("quant_algo") is None:
        return None
    return {**inner, "quant_method": "modelopt", "ignore": inner.get("exclude_modules") or []}


def require_same_algo(quant: dict[str, Any], legacy: dict[str, Any]) -> None:
    """Check that both carriers name one algorithm.

    Raises:
        CheckpointError: They do not.
    """
    if "quant_algo" not in quant:
        quant["quant_algo"] = legacy["quant_algo"]
    ours, theirs = _algo_name(quant), _algo_name(legacy)
    if ours != theirs:
        raise CheckpointError(
            "config.json and hf_quant_config.json name different algorithms",
            facts={"config.json": ours, "hf_quant_config.json": theirs},
            hint="keep the file that belongs to the weights",
            code="bad_config",
        )


def _add(build: LayerBuilder, module: str, parts: Parts, algo: str) -> None:
    weight = parts["weight"]
    preset = scheme(ALGOS[algo])
    says = f"quant_algo {algo}"
    tensors: dict[Role, TensorBinding] = {"weight": TensorBinding(weight.name, weight, "as_is")}
    notes: tuple[str, ...] = ()
    if preset.weight.is_nvfp4:
        n, k, tensors["scales"] = nvfp4_matrix(module, weight, parts, says)
        tensors["global_scale"] = scalar(module, parts, "weight_scale_2", "global scale")
    else:
        n, k = matrix(module, weight, "F8_E4M3", says)
        scale = parts.get("weight_scale") or parts.get("weight_scale_inv")
        if scale is None:
            raise missing_scale(module, parts, "weight_scale", "weight scale")
        tensors["scales"] = weight_scale(module, weight, scale, preset.weight.block)
    if algo == "NVFP4":
        tensors["input_global_scale"] = scalar(
            module, parts, "input_scale", "global activation scale"
        )
    elif algo == "FP8":
        tensors["input_scale"] = scalar(module, parts, "input_scale", "activation scale")
    elif "input_scale" in parts:
        notes = (f"input_scale is not used: {says} quantizes activations by their own values",)
    build.add(module, parts, n, k, preset, tensors, f"modelopt {algo}", notes)


def _algo_name(quant: dict[str, Any]) -> str:
    value = quant.get("quant_algo")
    if not isinstance(value, str):
        raise CheckpointError(
            "the ModelOpt config names no quant_algo",
            facts={"supported": " ".join(ALGOS), "found": repr(value)},
            code="bad_config",
        )
    return value.upper()


def _known(algo: str, where: str) -> str:
    if algo in ALGOS:
        return algo
    reason = REFUSED.get(algo)
    if reason is not None:
        raise CheckpointError(
            f"ModelOpt quant_algo {algo} is not supported",
            facts={"reason": reason, "where": where, "supported": " ".join(ALGOS)},
            hint="start from the unquantized model: quantmux convert MODEL OUT --scheme SCHEME",
            code="unsupported_format",
        )
    near = difflib.get_close_matches(algo, [*ALGOS, *REFUSED, "MIXED_PRECISION"], n=1)
    raise CheckpointError(
        f'ModelOpt quant_algo "{algo}" is unknown',
        facts={"where": where, "supported": " ".join(ALGOS)},
        hint=f'did you mean "{near[0]}"?' if near else None,
        code="unsupported_format",
    )


def _quantized_layers(quant: dict[str, Any]) -> dict[str, str]:
    layers = quant.get("quantized_layers")
    if not isinstance(layers, dict) or not layers:
        raise CheckpointError(
            "MIXED_PRECISION needs quantized_layers",
            facts={"found": repr(layers)[:200]},
            hint="it names the algorithm of each layer; export again with it",
            code="bad_config",
        )
    found: dict[str, str] = {}
    for name, value in layers.items():
        algo = value.get("quant_algo") if isinstance(value, dict) else value
        found[str(name)] = _known(_algo_name({"quant_algo": algo}), str(name))
        if found[str(name)].endswith("NVFP4") and isinstance(value, dict):
            _require_group_16(value)
    return found


def _require_group_16(quant: dict[str, Any]) -> None:
    size = quant.get("group_size")
    if size not in (None, 0, 16):
        raise CheckpointError(
            "NVFP4 has groups of 16", facts={"group_size": size}, code="bad_config"
        )
