"""Which reader a checkpoint needs, and which formats are refused for which reason."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, Final

from quantmux.checkpoint.formats import compressed_tensors, fp8, modelopt
from quantmux.checkpoint.formats.build import FP8_DTYPES, LayerBuilder
from quantmux.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantmux.checkpoint.headers import Checkpoint
    from quantmux.checkpoint.layer_entry import LayerEntry

READERS: Final[dict[str, Callable[[LayerBuilder, dict[str, Any]], None]]] = {
    "fp8": fp8.read,
    "compressed-tensors": compressed_tensors.read,
    "modelopt": modelopt.read,
}

REFUSED: Final[dict[str, str]] = {
    "aqlm": "AQLM codebooks are not read",
    "auto-round": "AutoRound stores GPTQ or AWQ packing, which is not read",
    "awq": "AWQ stores 4-bit integers with zero points, which are not read",
    "bitnet": "ternary weights are not read",
    "bitsandbytes": "bitsandbytes stores NF4 or LLM.int8 with states of its own",
    "eetq": "EETQ stores weight-only int8 in a kernel's own order",
    "fbgemm_fp8": "FBGEMM clamps activations at activation_scale_ub, which no scheme here says",
    "gptq": "GPTQ stores 4-bit integers with zero points, which are not read",
    "higgs": "HIGGS grids are not read",
    "hqq": "HQQ stores integers with zero points, which are not read",
    "mxfp4": "MXFP4 (blocks of 32 with exponent scales) has no scheme yet",
    "mxfp8": "MXFP8 (blocks of 32 with exponent scales) has no scheme yet",
    "quanto": "Quanto's packing is not read",
    "quark": "Quark's layouts are not read",
    "spqr": "SpQR's sparse outliers are not read",
    "torchao": "torchao flattens tensor subclasses into the file, which is not read",
    "vptq": "VPTQ codebooks are not read",
}
"""quant_method → why it is refused."""


def read_layers(checkpoint: Checkpoint) -> list[LayerEntry]:
    """Give the quantized linears of a checkpoint in natural order; none if it is unquantized.

    Raises:
        CheckpointError: The quantization is unknown, unsupported, or contradicted by a header.
    """
    quant = _the_config(checkpoint)
    if quant is None:
        _refuse_quantized_tensors(checkpoint)
        return []
    method = quant["quant_method"]
    build = LayerBuilder(checkpoint)
    READERS[method](build, quant)
    if not build.entries:
        raise CheckpointError(
            "config and headers disagree whether the checkpoint is quantized",
            facts={
                "config": f"quant_method {method}",
                "headers": f"{len(checkpoint.tensors)} tensors, no quantized linear among them",
            },
            hint="remove the quantization config if the weights are 16 bit",
            code="nothing_quantized",
        )
    return build.finish()


def _the_config(checkpoint: Checkpoint) -> dict[str, Any] | None:
    quant = checkpoint.quantization_config()
    legacy = checkpoint.hf_quant_config
    if legacy is not None:
        legacy = modelopt.from_legacy(legacy, checkpoint.root / "hf_quant_config.json")
    if quant is None:
        return legacy
    quant = {**quant, "quant_method": _method(quant)}
    if legacy is not None and quant["quant_method"] == "modelopt":
        modelopt.require_same_algo(quant, legacy)
    return quant


def _method(quant: dict[str, Any]) -> str:
    method = quant.get("quant_method")
    if method is None and "quant_algo" in quant:
        return "modelopt"
    if method is None:
        raise CheckpointError(
            "the quantization config names no quant_method",
            facts={"supported": " ".join(READERS), "found": "keys " + ", ".join(sorted(quant))},
            code="unknown_quant_method",
        )
    name = str(method)
    # serving engines split ModelOpt by element, and write underscores for the dash
    name = "modelopt" if name.startswith("modelopt") else name
    name = "compressed-tensors" if name == "compressed_tensors" else name
    if name in READERS:
        return name
    reason = REFUSED.get(name) or REFUSED.get(name.split("_")[0])
    if reason is not None:
        raise CheckpointError(
            f'quant_method "{method}" is not supported',
            facts={"reason": reason, "supported": " ".join(READERS)},
            hint="start from the unquantized model: quantmux convert MODEL OUT --scheme SCHEME",
            code="unsupported_format",
        )
    near = difflib.get_close_matches(name, [*READERS, *REFUSED], n=1, cutoff=0.5)
    raise CheckpointError(
        f'quant_method "{method}" is unknown',
        facts={"supported": " ".join(READERS)},
        hint=f'did you mean "{near[0]}"?' if near else "check quantization_config.quant_method",
        code="unknown_quant_method",
    )


def _refuse_quantized_tensors(checkpoint: Checkpoint) -> None:
    for info in checkpoint.tensors.values():
        if info.dtype in FP8_DTYPES and len(info.shape) > 1:
            raise CheckpointError(
                "config and headers disagree whether the checkpoint is quantized",
                facts={
                    "config": "no quantization_config, no hf_quant_config.json",
                    "header": info,
                },
                hint="put the config.json of the quantized model beside the weights",
                code="config_missing",
            )
