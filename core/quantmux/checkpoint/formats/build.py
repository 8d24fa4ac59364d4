"""What all format readers share: modules from tensor names, and bindings checked by shape.

Headers are ground truth. A reader says what the config wants of a module; the functions here
compare that with the tensors that are there, and name both when they disagree.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypeAlias

from quantmux.checkpoint.layer_entry import LayerEntry, Role, Rule, TensorBinding
from quantmux.config import Block, LinearConfig, Scheme
from quantmux.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from quantmux.checkpoint.headers import Checkpoint
    from quantmux.checkpoint.safetensors_header import TensorInfo

Parts: TypeAlias = "dict[str, TensorInfo]"
"""The tensors of one module, by the last part of their names."""

FLOAT_DTYPES: Final = ("BF16", "F16", "F32")
QUANTIZED_DTYPES: Final = frozenset(
    ("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I8", "U8", "F4", "I32")
)
FP8_DTYPES: Final = frozenset(("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"))

WEIGHT_LEAVES: Final = ("weight", "weight_packed")
SCALE_LEAVES: Final = frozenset(
    (
        "weight_scale",
        "weight_scale_inv",
        "weight_scale_2",
        "weight_global_scale",
        "weight_zero_point",
        "qscale_weight",
    )
)
FOREIGN_LEAVES: Final[dict[str, str]] = {
    "qweight": "GPTQ or AWQ integer packing",
    "qzeros": "GPTQ or AWQ zero points",
    "pre_quant_scale": "an AWQ scale of the input (NVFP4_AWQ, W4A8_AWQ)",
    "svdquant_lora_a": "an SVDQuant low-rank branch",
    "_weight_qdata": "a flattened torchao tensor subclass",
    "weight_zero_point": "asymmetric quantization (zero points)",
    "input_zero_point": "asymmetric quantization (zero points)",
    "quant_state.bitsandbytes__nf4": "bitsandbytes NF4",
}
"""Tensors that belong to formats we refuse, and what they tell."""

# every tensor name a quantized linear may own, over all formats: what a writer replaces
OWNED_LEAVES: Final = frozenset(
    (
        *WEIGHT_LEAVES,
        *SCALE_LEAVES,
        "bias",
        "scale",
        "input_scale",
        "input_global_scale",
        "activation_scale",
        "qscale_act",
    )
)

_DIGITS = re.compile(r"(\d+)")


class LayerBuilder:
    """Collects the entries of one checkpoint and shares their configs.

    Args:
        checkpoint: Whose headers are read.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.modules: Final = group_modules(checkpoint.tensors.values())
        self.dtype: Final = checkpoint.dtype
        self.entries: Final[list[LayerEntry]] = []
        # keyed by the scheme's identity, as readers make few schemes and use them for thousands of
        # layers; it is held in the value, so that no other can take its place
        self._configs: dict[tuple[int, int, int, bool], tuple[Scheme, LinearConfig]] = {}

    def config(self, n: int, k: int, scheme: Scheme, *, bias: bool) -> LinearConfig:
        """Give the one config of that shape and scheme: thousands of experts share it."""
        key = (n, k, id(scheme), bias)
        found = self._configs.get(key)
        if found is None:
            config = LinearConfig(
                in_features=k,
                out_features=n,
                scheme=scheme,
                in_dtype=self.dtype,
                out_dtype=self.dtype,
                bias=bias,
            )
            found = self._configs[key] = (scheme, config)
        return found[1]

    def add(
        self,
        module: str,
        parts: Parts,
        n: int,
        k: int,
        scheme: Scheme,
        tensors: dict[Role, TensorBinding],
        source: str,
        notes: tuple[str, ...] = (),
    ) -> None:
        """Add one layer [n, k]; binds its bias when there is one."""
        bias = parts.get("bias")
        if bias is not None:
            if bias.shape != (n,) or bias.dtype not in FLOAT_DTYPES:
                raise disagreement(
                    f"{module}: the bias does not fit the weight",
                    {"needs": f"[{n}] in {' '.join(FLOAT_DTYPES)}", "found": bias},
                    code="bias_shape",
                )
            tensors["bias"] = TensorBinding(bias.name, bias, "as_is")
        config = self.config(n, k, scheme, bias=bias is not None)
        self.entries.append(LayerEntry(module, config, tensors, source, notes))

    def candidates(self) -> Iterable[tuple[str, Parts]]:
        """Give the modules whose tensors say that they are quantized.

        Raises:
            CheckpointError: Quantized data lies where no linear's weight does.
        """
        for module, parts in self.modules.items():
            weight = parts.get("weight")
            if weight is None:
                weight = parts.get("weight_packed")
            if weight is not None and (
                weight.dtype in QUANTIZED_DTYPES or not SCALE_LEAVES.isdisjoint(parts)
            ):
                for leaf in parts:
                    if leaf in FOREIGN_LEAVES:
                        raise unsupported(module, parts[leaf], FOREIGN_LEAVES[leaf])
                yield module, parts
            else:
                _refuse_strays(module, parts)

    def finish(self) -> list[LayerEntry]:
        """Give the entries in natural order: layer 2 before layer 10."""
        self.entries.sort(key=lambda entry: _natural(entry.name))
        return self.entries


def group_modules(tensors: Iterable[TensorInfo]) -> dict[str, Parts]:
    """Group tensors by module name, in one pass."""
    modules: dict[str, Parts] = {}
    for info in tensors:
        module, _, leaf = info.name.rpartition(".")
        parts = modules.get(module)
        if parts is None:
            parts = modules[module] = {}
        parts[leaf] = info
    return modules


def matrix(module: str, info: TensorInfo, dtype: str, says: str) -> tuple[int, int]:
    """Give the extents of a stored weight that must be a matrix of that dtype.

    Args:
        module: Module name, for the message.
        info: The tensor.
        dtype: What the format stores.
        says: What asks for it, as ``quantization_config says fp8``.

    Raises:
        CheckpointError: It is something else; code ``weight_dtype`` or ``weight_shape``.
    """
    if info.dtype != dtype:
        raise disagreement(
            f"{module}: config and headers disagree about the weight",
            {"config": f"{says}: needs {dtype}", "header": info},
            code="weight_dtype",
        )
    if len(info.shape) == 3:
        raise CheckpointError(
            f"{module}: stacked weights of several experts are not read",
            facts={"found": info},
            hint="export the experts as one linear each, [N, K]",
            code="unsupported_format",
        )
    if len(info.shape) != 2 or 0 in info.shape:
        raise disagreement(
            f"{module}: the weight is no matrix",
            {"needs": "[N, K]", "found": info},
            code="weight_shape",
        )
    return info.shape[0], info.shape[1]


def weight_scale(
    module: str, weight: TensorInfo, info: TensorInfo, block: Block, *, exponents: bool = False
) -> TensorBinding:
    """Bind the fp32 scales of a weight [N, K] over the grid of its blocks.

    Args:
        module: Module name, for the message.
        weight: The weight's header.
        info: The scale's header: the grid itself, a channel scale without its second extent, or
            the grid with extents of 1 between (ModelOpt's four-dimensional scales).
        block: Block of the weight operand.
        exponents: Accept bytes that hold exponents (UE8M0).

    Raises:
        CheckpointError: Shape or dtype disagree; code ``scale_shape`` or ``scale_dtype``.
    """
    n, k = weight.shape
    rows, cols = block.grid(n, k)
    shape, rule = info.shape, _float_rule(info, exponents=exponents)
    if block.kind == "tensor":
        good, plain, needs = shape in ((), (1,), (1, 1)), len(shape) < 2, "[] or [1]"
    elif block.kind == "row":
        good, plain, needs = shape in ((n, 1), (n,)), len(shape) == 2, f"[{n}, 1] or [{n}]"
    else:
        good = shape in ((rows, cols), (rows, 1, cols, 1))
        plain, needs = len(shape) == 2, f"[{rows}, {cols}]"
    if not good:
        named = {"tensor": "one for the tensor", "row": "one for each row"}
        raise disagreement(
            f"{module}: the scale does not fit the weight",
            {
                "weight": list(weight.shape),
                "config": named.get(block.kind, f"blocks of {block.rows}x{block.cols}"),
                "needs": f"scale {needs}",
                "found": f"{info.name} {list(shape)}",
            },
            hint="the config must name the block the scales were made for; it is never inferred",
            code="scale_shape",
        )
    if rule is None:
        kinds = "F32 BF16 F16" + (" F8_E8M0 U8" if exponents else "")
        raise disagreement(
            f"{module}: the scale has the wrong dtype",
            {"needs": kinds, "found": info},
            code="scale_dtype",
        )
    return TensorBinding(info.name, info, "squeeze" if rule == "as_is" and not plain else rule)


def scalar(
    module: str, parts: Parts, leaf: str, role: str, *, rule: Rule = "as_is"
) -> TensorBinding:
    """Bind a scale that is one number, () or [1].

    Raises:
        CheckpointError: It is missing, or no single float; codes ``missing_scale``
            ``scale_shape`` ``scale_dtype``.
    """
    info = parts.get(leaf)
    if info is None:
        raise missing_scale(module, parts, leaf, role)
    found = _float_rule(info)
    if info.shape not in ((), (1,), (1, 1)):
        raise disagreement(
            f"{module}: the {role} is not one number",
            {"needs": "[] or [1]", "found": info},
            hint="a scale for each projection of a fused layer must be split before loading",
            code="scale_shape",
        )
    if found is None:
        raise disagreement(
            f"{module}: the {role} has the wrong dtype",
            {"needs": " ".join(FLOAT_DTYPES), "found": info},
            code="scale_dtype",
        )
    return TensorBinding(info.name, info, found if rule == "as_is" else rule)


def nvfp4_matrix(
    module: str, info: TensorInfo, parts: Parts, says: str
) -> tuple[int, int, TensorBinding]:
    """Give N, K and the block scales of an NVFP4 weight stored as bytes [N, K/2].

    Raises:
        CheckpointError: Bytes or scales are missing or do not fit each other.
    """
    n, half = matrix(module, info, "U8", says)
    k = 2 * half
    scale = parts.get("weight_scale")
    if scale is None:
        raise missing_scale(module, parts, "weight_scale", "block scale")
    if k % 16:
        raise disagreement(
            f"{module}: NVFP4 needs K in whole blocks of 16",
            {"needs": "K % 16 == 0", "found": f"K = {k} from {info}"},
            code="weight_shape",
        )
    if scale.dtype != "F8_E4M3":
        raise disagreement(
            f"{module}: the block scale has the wrong dtype",
            {"config": says, "needs": "F8_E4M3", "found": scale},
            code="scale_dtype",
        )
    if scale.shape != (n, k // 16):
        raise disagreement(
            f"{module}: the scale does not fit the weight",
            {"weight": info, "needs": f"scale [{n}, {k // 16}]", "found": scale},
            code="scale_shape",
        )
    return n, k, TensorBinding(scale.name, scale, "as_is")


def missing_scale(module: str, parts: Parts, leaf: str, role: str) -> CheckpointError:
    """Give the error for a quantized module without one of its scales."""
    weight = parts.get("weight") or parts.get("weight_packed")
    return CheckpointError(
        f"{module}: missing scale tensor",
        facts={
            "needs": f"{module}.{leaf} ({role})",
            "found": ", ".join(sorted(parts)),
            "weight": weight if weight is not None else "missing",
        },
        hint="without its scale the weight is wrong by orders of magnitude; "
        "export the checkpoint again with all scales",
        code="missing_scale",
    )


def missing_weight(module: str, parts: Parts, leaf: str) -> CheckpointError:
    """Give the error for scales that have no weight."""
    return CheckpointError(
        f"{module}: missing weight tensor",
        facts={"needs": f"{module}.{leaf}", "found": ", ".join(sorted(parts))},
        hint="scales without a weight: the download is incomplete, or another format wrote it",
        code="missing_weight",
    )


def ignored_but_quantized(
    module: str, info: TensorInfo, where: str, pattern: str
) -> CheckpointError:
    """Give the error for a quantized weight in a module that the config leaves out."""
    return disagreement(
        f"{module}: config and headers disagree whether it is quantized",
        {"config": f'{where} lists "{pattern}"', "header": info},
        hint=f"remove it from {where}, or store the module unquantized",
        code="ignored_but_quantized",
    )


def float_with_scale(module: str, weight: TensorInfo, parts: Parts) -> CheckpointError:
    """Give the error for a weight in 16 or 32 bit that has a quantization scale."""
    scale = parts[next(leaf for leaf in parts if leaf in SCALE_LEAVES)]
    return disagreement(
        f"{module}: a scale belongs to a weight that is not quantized",
        {"weight": weight, "scale": scale},
        hint="weight and scales come from different exports; download both again",
        code="scale_without_quantized_weight",
    )


def unsupported(module: str, info: TensorInfo, reason: str) -> CheckpointError:
    """Give the error for a tensor of a format that is not read."""
    return CheckpointError(
        f"{module}: this format is not supported",
        facts={"reason": reason, "found": info},
        hint="start from the unquantized model: quantmux convert MODEL OUT --scheme SCHEME",
        code="unsupported_format",
    )


def disagreement(
    headline: str, facts: dict[str, object], *, code: str, hint: str | None = None
) -> CheckpointError:
    """Give the error for two facts that cannot both hold."""
    return CheckpointError(
        headline,
        facts=facts,
        hint=hint or "export the checkpoint again, or correct its quantization config",
        code=code,
    )


def _float_rule(info: TensorInfo, *, exponents: bool = False) -> Rule | None:
    if info.dtype == "F32":
        return "as_is"
    if info.dtype in ("BF16", "F16"):
        return "cast_f32"
    return "e8m0" if exponents and info.dtype in ("F8_E8M0", "U8") else None


def _refuse_strays(module: str, parts: Parts) -> None:
    for leaf, info in parts.items():
        if leaf in FOREIGN_LEAVES:
            raise unsupported(module, info, FOREIGN_LEAVES[leaf])
        if leaf in SCALE_LEAVES:
            raise missing_weight(module, parts, "weight")
        if info.dtype in FP8_DTYPES and len(info.shape) > 1:
            raise CheckpointError(
                f"{module}: quantized data that belongs to no linear",
                facts={"found": info, "needs": f"{module}.weight [N, K]"},
                hint="stacked experts are read as one linear each; export them apart",
                code="unsupported_format",
            )


def _natural(name: str) -> list[str | int]:
    # split() alternates text and digits, so equal positions always compare equal types
    parts: list[str | int] = list(_DIGITS.split(name))
    parts[1::2] = [int(p) for p in parts[1::2]]
    return parts
