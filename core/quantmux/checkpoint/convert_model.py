"""An unquantized model in, a quantized checkpoint out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from quantmux.checkpoint.formats.build import FLOAT_DTYPES
from quantmux.checkpoint.headers import Checkpoint, open_checkpoint
from quantmux.checkpoint.name_match import Matcher
from quantmux.checkpoint.replace_dir import check_target
from quantmux.checkpoint.spelling import check_format, default_format, require_storable
from quantmux.checkpoint.tensors import load_tensor
from quantmux.checkpoint.write import SHARD_BYTES, QuantizedLayer, write_checkpoint
from quantmux.config import LinearConfig, Scheme
from quantmux.config import scheme as named_scheme
from quantmux.errors import CheckpointError, ConfigError, InputError
from quantmux.layers.calibrate import Calibration
from quantmux.ops.linear.weights import quantize_weight

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from quantmux.checkpoint.safetensors_header import TensorInfo

DEFAULT_EXCLUDE: Final = (
    "*embed*",
    "*norm*",
    "*Norm*",
    "*lm_head",
    "*mlp.gate",
    "*block_sparse_moe.gate",
    "*router*",
    "*conv*",
    "shared",
    "*.wte",
    "*.wpe",
    "wte",
    "wpe",
)
"""Matrices that are no linears, or that everybody leaves alone: embeddings, heads, routers."""

_CONFIG_NAMES: Final = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}

# these keep their linears as Conv1D, transposed: [K, N]
_CONV1D_MODELS: Final = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")


@dataclass(frozen=True, slots=True)
class ConvertReport:
    """What a conversion did.

    Attributes:
        path: The new checkpoint.
        format: Its format.
        scheme: Name of the scheme.
        converted: Names of the quantized linears.
        skipped: (name, reason) of every matrix that stayed as it was.
        bytes_before: Bytes of tensors in the source.
        bytes_after: Bytes of tensors written.
        notes: Steps that lost something beyond the quantization itself, and a dtype that
            config.json did not name.
    """

    path: Path
    format: str
    scheme: str
    converted: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    bytes_before: int
    bytes_after: int
    notes: tuple[str, ...] = ()


def convert(
    model_dir: str | Path,
    out: str | Path,
    scheme: str | Scheme,
    *,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    calibration: Calibration | Mapping[str, float | torch.Tensor] | None = None,
    format: str | None = None,  # noqa: A002 - the word of the interface
    force: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> ConvertReport:
    """Quantize the linears of an unquantized safetensors model into a new checkpoint.

    Linears are the two-dimensional ``.weight`` tensors whose names are not excluded. Everything
    else, tensors and files, is kept. They run in the dtype that config.json names; if it names
    none, in the one most of their weights have, which the new config.json then names.

    Args:
        model_dir: Directory with safetensors files and config.json.
        out: Directory to make; appears whole or not at all.
        scheme: Preset name or Scheme.
        include: Wildcards (``*.mlp.*``) of module names; only these. None takes all.
        exclude: Wildcards of modules to leave alone, instead of `DEFAULT_EXCLUDE`.
        calibration: What `quantmux.calibrate` gave; or activation multipliers by module name:
            the scale of static FP8 and INT8, the global scale g_a of NVFP4.
        format: As `write_checkpoint`.
        force: Replace a checkpoint that is at ``out``.
        progress: Called with (done, total, name) after every layer.
        shard_bytes: As `write_checkpoint`.

    Raises:
        ConfigError: The scheme needs calibration that is missing (``needs_calibration``), nothing
            is left to convert, or the target exists.
        CheckpointError: The model cannot be read, is quantized already, or holds NaN or Inf.
    """
    wanted = named_scheme(scheme) if isinstance(scheme, str) else scheme
    fmt = default_format(wanted) if format is None else check_format(format)
    require_storable(wanted, fmt)
    source, target = open_checkpoint(model_dir), Path(out).expanduser()
    check_target(target, force=force, source=source.root)
    if source.quantization_config() is not None or source.layers():
        raise CheckpointError(
            f"{model_dir} is quantized already",
            facts=[f"{len(source.layers())} quantized linears"],
            hint="convert the unquantized model",
            code="already_quantized",
        )
    chosen, skipped = _choose(source, wanted, include, exclude)
    if not chosen:
        raise ConfigError(
            "no linear is left to convert",
            facts=[f"{name}: {reason}" for name, reason in skipped[:8]] or ["no matrices found"],
            hint="widen include, or narrow exclude",
            code="nothing_to_convert",
        )
    scales = _calibrated(wanted, list(chosen), calibration or {})
    source, notes = _with_dtype(source, chosen)
    quantized = _quantize(source, chosen, wanted, scales, progress)
    report = write_checkpoint(
        target, quantized, source=source, format=fmt, force=force, shard_bytes=shard_bytes
    )
    return ConvertReport(
        path=target,
        format=fmt,
        scheme=wanted.name,
        converted=tuple(chosen),
        skipped=tuple(skipped),
        bytes_before=sum(info.nbytes for info in source.tensors.values()),
        bytes_after=report.nbytes,
        notes=(*notes, *report.notes),
    )


def _with_dtype(
    source: Checkpoint, chosen: Mapping[str, TensorInfo]
) -> tuple[Checkpoint, tuple[str, ...]]:
    """Have config.json name a dtype: that of most weights to convert, if it names none."""
    if source.stated_dtype is not None:
        return source, ()
    ((stored, count),) = Counter(info.dtype for info in chosen.values()).most_common(1)
    name = _CONFIG_NAMES[stored]
    # "dtype" wins over "torch_dtype" where both are; older readers know the latter only
    key = "dtype" if "dtype" in source.config else "torch_dtype"
    note = f'config.json: named no dtype, so that "{key}": "{name}" was added, '
    note += f"as {count} of {len(chosen)} weights are"
    return replace(source, config={**source.config, key: name}), (note,)


def _choose(
    source: Checkpoint,
    scheme: Scheme,
    include: Sequence[str] | None,
    exclude: Sequence[str] | None,
) -> tuple[dict[str, TensorInfo], list[tuple[str, str]]]:
    for argument, value in (("include", include), ("exclude", exclude)):
        if isinstance(value, str):
            raise ConfigError(
                f"{argument} is a list of wildcards, found one string",
                hint=f'write {argument}=["{value}"]',
            )
    wanted = None if include is None else Matcher("modelopt", include)
    left = Matcher("modelopt", DEFAULT_EXCLUDE if exclude is None else exclude)
    transposed = source.config.get("model_type") in _CONV1D_MODELS
    chosen: dict[str, TensorInfo] = {}
    skipped: list[tuple[str, str]] = []
    for name, info in source.tensors.items():
        module, _, leaf = name.rpartition(".")
        if leaf != "weight" or len(info.shape) != 2 or not module:
            continue
        reason = None
        if (pattern := left.match(module)) is not None:
            reason = f"excluded by {pattern}"
        elif wanted is not None and wanted.match(module) is None:
            reason = "not included"
        elif info.dtype not in FLOAT_DTYPES:
            reason = f"dtype {info.dtype}"
        elif 0 in info.shape:
            reason = "empty"
        elif transposed and module.rpartition(".")[2].startswith("c_"):
            reason = "Conv1D: stored as [K, N]"
        elif scheme.weight.is_nvfp4 and info.shape[1] % 16:
            reason = f"K = {info.shape[1]} is no multiple of 16, which NVFP4 files need"
        if reason is None:
            chosen[module] = info
        else:
            skipped.append((module, reason))
    return chosen, skipped


def _calibrated(
    scheme: Scheme,
    names: list[str],
    calibration: Calibration | Mapping[str, float | torch.Tensor],
) -> dict[str, torch.Tensor]:
    if not scheme.needs_static_activation_scale:
        return {}
    missing = [name for name in names if name not in calibration]
    if missing:
        near = _same_suffix(missing[0], calibration)
        raise ConfigError(
            f"scheme {scheme.name} needs activation scales found by calibration",
            facts=[
                f"{len(missing)} of {len(names)} layers have none, {missing[0]} first",
                *([f'calibration names "{near}"'] if near else []),
            ],
            hint="find them with quantmux.calibrate(model, batches) (--calibrate TEXT), exclude "
            "these layers,\nor choose a scheme with dynamic or no activation scales",
            code="needs_calibration",
        )
    scales: dict[str, torch.Tensor] = {}
    for name in names:
        if isinstance(calibration, Calibration):
            # it maps to the largest input seen, from which the scale follows
            (scales[name],) = calibration.scales(name, scheme).values()
            continue
        value = torch.as_tensor(calibration[name]).detach().cpu().to(torch.float32).reshape(-1)
        if value.numel() != 1 or not bool(torch.isfinite(value).all()) or float(value[0]) <= 0:
            raise ConfigError(
                f"{name}: the calibrated scale is not one positive number",
                facts={"found": value.tolist()[:4]},
                hint="calibrate with data that reaches the layer",
                code="needs_calibration",
            )
        scales[name] = value
    return scales


def _same_suffix(name: str, calibration: Mapping[str, object]) -> str | None:
    """Give a calibrated name that differs by a prefix only: the usual mistake."""
    return next((c for c in calibration if name.endswith(f".{c}") or c.endswith(f".{name}")), None)


def _quantize(
    source: Checkpoint,
    chosen: dict[str, TensorInfo],
    scheme: Scheme,
    scales: dict[str, torch.Tensor],
    progress: Callable[[int, int, str], None] | None,
) -> Iterator[QuantizedLayer]:
    role = "input_global_scale" if scheme.weight.is_nvfp4 else "input_scale"
    configs: dict[tuple[int, int, bool], LinearConfig] = {}
    for done, (name, info) in enumerate(chosen.items(), 1):
        n, k = info.shape
        bias = source.tensors.get(f"{name}.bias")
        has_bias = bias is not None and bias.shape == (n,)
        config = configs.get((n, k, has_bias))
        if config is None:
            config = configs[n, k, has_bias] = LinearConfig(
                in_features=k,
                out_features=n,
                scheme=scheme,
                in_dtype=source.dtype,
                out_dtype=source.dtype,
                bias=has_bias,
            )
        weight = load_tensor(source, info)
        try:
            weights = quantize_weight(
                weight,
                scheme,
                bias=load_tensor(source, bias) if bias is not None and has_bias else None,
                input_scale=scales.get(name) if role == "input_scale" else None,
                input_global_scale=scales.get(name) if role == "input_global_scale" else None,
            )
        except InputError as error:
            raise _not_quantizable(info, weight, error) from error
        yield QuantizedLayer(name, config, weights)
        if progress is not None:
            progress(done, len(chosen), name)


def _not_quantizable(info: TensorInfo, weight: torch.Tensor, error: InputError) -> CheckpointError:
    bad = (~torch.isfinite(weight)).nonzero()
    where = [f"first at {[int(i) for i in bad[0]]}, {len(bad)} in all"] if len(bad) else []
    return CheckpointError(
        f"{info.name} cannot be quantized: {error.headline}",
        facts=[*error.facts, *where],
        hint="leave the layer out with exclude, or repair the model",
        code="weight_value",
    )
