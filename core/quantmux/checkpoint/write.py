"""Writes quantized checkpoints: layers in a format of the wild, everything else as it was."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quantmux.checkpoint.formats.build import FLOAT_DTYPES, OWNED_LEAVES
from quantmux.checkpoint.headers import Checkpoint, open_checkpoint
from quantmux.checkpoint.replace_dir import check_target, new_directory
from quantmux.checkpoint.safetensors_write import ShardWriter, write_json
from quantmux.checkpoint.spelling import (
    Format,
    check_format,
    default_format,
    legacy_modelopt_config,
    quantization_config,
    require_storable,
    spell,
)
from quantmux.checkpoint.tensors import DTYPE_NAMES, LoadedLinear, StoredScales
from quantmux.errors import CheckpointError, ConfigError
from quantmux.ops.linear.weights import check_weights

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import torch

    from quantmux.config import LinearConfig, Scheme
    from quantmux.ops.quantized import LinearWeights

SHARD_BYTES: Final = 4 << 30
"""Default size of a shard; also about what a writer holds in memory."""

# what would not match the new weights, or is written anew
_NOT_COPIED: Final = ("config.json", "hf_quant_config.json")
_WEIGHT_FILES: Final = (
    ".safetensors",
    ".safetensors.index.json",
    ".bin",
    ".bin.index.json",
    ".pt",
    ".pth",
    ".h5",
    ".msgpack",
    ".ot",
    ".gguf",
)


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedLayer:
    """One linear to write.

    Attributes:
        name: Module name.
        config: Shape and scheme.
        weights: Canonical weights.
        stored: Scales as a file had them, for a byte-exact write-back; or None.
    """

    name: str
    config: LinearConfig
    weights: LinearWeights
    stored: StoredScales | None = None


@dataclass(frozen=True, slots=True)
class WriteReport:
    """What was written.

    Attributes:
        path: The checkpoint.
        format: Its format.
        layers: Names of the quantized linears.
        files: Names of the safetensors files.
        nbytes: Bytes of tensors.
        notes: Steps that lost something.
    """

    path: Path
    format: str
    layers: tuple[str, ...]
    files: tuple[str, ...]
    nbytes: int
    notes: tuple[str, ...] = ()


def write_checkpoint(
    out: str | Path,
    layers: Iterable[QuantizedLayer | LoadedLinear],
    *,
    source: Checkpoint | str | Path | None = None,
    config: Mapping[str, Any] | None = None,
    extra: Mapping[str, torch.Tensor] | None = None,
    format: str | None = None,  # noqa: A002 - the word of the interface
    force: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> WriteReport:
    """Write linears as a checkpoint; the directory appears whole or not at all.

    Layers are taken one by one, so a generator keeps memory at about one shard.

    Args:
        out: Directory to make.
        layers: Linears to write, in any order.
        source: Checkpoint whose other tensors and files are kept; its ``config.json`` too.
        config: Fields of ``config.json``, over those of the source.
        extra: Further tensors by name; they replace those of the source.
        format: ``deepseek_fp8``, ``autofp8``, ``compressed_tensors`` or ``modelopt``; None takes
            the usual one for the first layer's scheme.
        force: Replace a checkpoint that is there.
        shard_bytes: Size beyond which a new file is begun.

    Raises:
        ConfigError: The target exists, the format is unknown or cannot hold a scheme, or a layer
            of the source that is quantized is not among ``layers``.
        CheckpointError: A layer cannot be stored, or the file system refused.
        InputError: Weights do not fit their config, or a scale is NaN or not positive.

    Whatever is raised, nothing half-written is left.
    """
    out = Path(out).expanduser()
    if source is not None and not isinstance(source, Checkpoint):
        source = open_checkpoint(source)
    if shard_bytes <= 0:
        raise ConfigError(f"shard_bytes must be positive, found {shard_bytes}")
    fmt = None if format is None else check_format(format)
    check_target(out, force=force, source=None if source is None else source.root)
    with new_directory(out, force=force) as folder:
        job = _Job(ShardWriter(folder, shard_bytes), fmt)
        for layer in layers:
            job.add(layer)
        if job.fmt is None:
            raise ConfigError("there is no layer to write", code="nothing_to_write")
        matrices = job.add_others(source, extra or {})
        names = [path.name for path in job.writer.finish()]
        quant = quantization_config(job.fmt, job.schemes, job.ignored(matrices))
        _write_configs(folder, source, config or {}, quant)
        if source is not None:
            _copy_files(source.root, folder)
    done = tuple(name for group in job.schemes.values() for name in group)
    return WriteReport(out, job.fmt, done, tuple(names), job.writer.total_bytes, tuple(job.notes))


class _Job:
    def __init__(self, writer: ShardWriter, fmt: Format | None) -> None:
        self.writer = writer
        self.fmt = fmt
        self.schemes: dict[Scheme, list[str]] = {}
        self.written: set[str] = set()
        self.notes: list[str] = []

    def add(self, layer: QuantizedLayer | LoadedLinear) -> None:
        scheme = layer.config.scheme
        if self.fmt is None:
            self.fmt = default_format(scheme)
        if scheme not in self.schemes:
            require_storable(scheme, self.fmt)
            if scheme.accumulation == "exact":
                self.notes.append("files do not say exact accumulation; ask for it when reading")
        spelled = spell(layer.name, layer.config, layer.weights, self.fmt, layer.stored)
        check_weights(layer.weights, layer.config, name=layer.name)
        for leaf, tensor in spelled.tensors.items():
            self.writer.add(f"{layer.name}.{leaf}", tensor)
        self.notes.extend(spelled.notes)
        self.schemes.setdefault(scheme, []).append(layer.name)
        self.written.add(layer.name)

    def add_others(self, source: Checkpoint | None, extra: Mapping[str, torch.Tensor]) -> list[str]:
        """Add what is not quantized; give the module names of the matrices among it."""
        matrices: list[str] = []
        if source is not None:
            _require_all(source, self.written)
            for name, info in source.tensors.items():
                module, _, leaf = name.rpartition(".")
                if name in extra or (module in self.written and leaf in OWNED_LEAVES):
                    continue
                self.writer.add(name, info)
                if leaf == "weight" and len(info.shape) == 2 and info.dtype in FLOAT_DTYPES:
                    matrices.append(module)
        for name, tensor in extra.items():
            self.writer.add(name, tensor)
            module, _, leaf = name.rpartition(".")
            if leaf == "weight" and tensor.ndim == 2 and DTYPE_NAMES[tensor.dtype] in FLOAT_DTYPES:
                matrices.append(module)
        return matrices

    def ignored(self, matrices: list[str]) -> list[str]:
        """Give the ignore list: linears left alone, and a head that may be tied."""
        names = {m for m in matrices if "embed" not in m.rpartition(".")[2]}
        if not any(name.rpartition(".")[2] == "lm_head" for name in self.written):
            names.add("lm_head")
        return sorted(names)


def _require_all(source: Checkpoint, written: set[str]) -> None:
    left = [entry.name for entry in source.layers() if entry.name not in written]
    if left:
        raise ConfigError(
            "quantized layers of the source are not among the layers to write",
            facts=[f"{len(left)} layers, {left[0]} first"],
            hint="write all of them: one config describes the whole checkpoint",
            code="layers_missing",
        )


def _write_configs(
    folder: Path,
    source: Checkpoint | None,
    config: Mapping[str, Any],
    quant: dict[str, Any],
) -> None:
    base = {} if source is None else dict(source.config)
    base.pop("compression_config", None)
    old = None if source is None else source.quantization_config()
    if old is not None and "kv_cache_scheme" in old:
        # the scales of the cache are other tensors, and are kept
        quant = {**quant, "kv_cache_scheme": old["kv_cache_scheme"]}
    text = base.get("text_config")
    if isinstance(text, dict) and "quantization_config" in text:
        base["text_config"] = {k: v for k, v in text.items() if k != "quantization_config"}
    write_json(folder / "config.json", {**base, **config, "quantization_config": quant})
    if quant["quant_method"] == "modelopt":
        write_json(folder / "hf_quant_config.json", legacy_modelopt_config(quant))


def _copy_files(source: Path, folder: Path) -> None:
    for path in sorted(source.iterdir()):
        name = path.name
        if name.startswith(".") or name in _NOT_COPIED:
            continue
        try:
            if path.is_dir():
                # a sub-module keeps its weights: only those of the model itself were replaced
                shutil.copytree(path, folder / name)
            elif not name.endswith(_WEIGHT_FILES):
                shutil.copy2(path, folder / name)
        except (OSError, shutil.Error) as error:
            raise CheckpointError(
                f"cannot copy {path}", facts=[str(error)[:400]], code="unreadable"
            ) from error
