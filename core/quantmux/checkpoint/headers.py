"""A checkpoint as its headers tell it: files, configs and tensors, nothing loaded.

`open_checkpoint` reads the headers of all shards and the JSON files beside them. What is
quantized, and how, is answered by `Checkpoint.layers`, from the headers and the config together.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quantmux.checkpoint.safetensors_header import TensorInfo, read_header
from quantmux.errors import CheckpointError

if TYPE_CHECKING:
    from quantmux.checkpoint.layer_entry import LayerEntry
    from quantmux.config import Dtype, LinearConfig

INDEX_SUFFIX: Final = ".safetensors.index.json"
_DTYPES: Final[dict[str, Dtype]] = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """An opened checkpoint. Holds headers only; tensors are mapped when they are asked for.

    Attributes:
        root: The directory.
        files: Names of the safetensors files, relative to the root, in reading order.
        tensors: Every tensor, by name, in reading order.
        config: ``config.json``, or an empty dict.
        hf_quant_config: ModelOpt's ``hf_quant_config.json``, or None.
    """

    root: Path
    files: tuple[str, ...]
    tensors: dict[str, TensorInfo]
    config: dict[str, Any]
    hf_quant_config: dict[str, Any] | None = None
    _memo: dict[str, Any] = field(default_factory=dict, repr=False)

    def layers(self) -> list[LayerEntry]:
        """Give the quantized linears, in natural order of their names.

        Raises:
            CheckpointError: The quantization is unknown or unsupported, or config and headers
                disagree about a module.
        """
        found = self._memo.get("layers")
        if found is None:
            from quantmux.checkpoint.formats import read_layers

            found = self._memo["layers"] = read_layers(self)
        return list(found)

    @property
    def other(self) -> tuple[str, ...]:
        """Names of the tensors that belong to no quantized linear."""
        bound = {b.name for entry in self.layers() for b in entry.tensors.values()}
        return tuple(name for name in self.tensors if name not in bound)

    @property
    def dtype(self) -> Dtype:
        """Format of plain activations, from ``torch_dtype`` or ``dtype``; bf16 when not said."""
        return self.stated_dtype or "bf16"

    @property
    def stated_dtype(self) -> Dtype | None:
        """Format of plain activations that config.json names; None when it names none."""
        for source in (self.config, self.config.get("text_config")):
            if not isinstance(source, dict):
                continue
            value = source.get("dtype") or source.get("torch_dtype")
            if isinstance(value, str) and value != "auto":
                found = _DTYPES.get(value.removeprefix("torch."))
                if found is None:
                    raise CheckpointError(
                        "the dtype in config.json is not one that a linear runs in",
                        facts={
                            "file": self.root / "config.json",
                            "found": value,
                            "known": " ".join(_DTYPES),
                        },
                        hint='set "dtype" to one of them',
                        code="bad_config",
                    )
                return found
        return None

    def quantization_config(self) -> dict[str, Any] | None:
        """Give the ``quantization_config`` of config.json (or of its text_config), if any."""
        for source in (self.config, self.config.get("text_config")):
            if not isinstance(source, dict):
                continue
            for key in ("quantization_config", "compression_config"):
                value = source.get(key)
                if value is None:
                    continue
                if not isinstance(value, dict):
                    raise CheckpointError(
                        f"{key} is no object",
                        facts={"file": self.root / "config.json", "found": repr(value)[:200]},
                        code="bad_config",
                    )
                return value
        return None


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a checkpoint directory, or a single .safetensors file with what lies beside it.

    A directory holds ``model.safetensors``, or shards with an ``*.safetensors.index.json``, or
    one other .safetensors file. Only headers and JSON files are read.

    Raises:
        CheckpointError: Nothing is there, a file is truncated or mislabelled, a shard is missing,
            or the index and the shards disagree.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise CheckpointError(
            f"no checkpoint at {path}",
            hint="give a directory with safetensors files, or one .safetensors file",
            code="not_found",
        )
    if path.is_file():
        if path.suffix != ".safetensors":
            raise CheckpointError(
                f"{path} is not a .safetensors file",
                hint="give a directory with safetensors files, or one .safetensors file",
                code="not_safetensors",
            )
        root = path.parent
        files: tuple[str, ...] = (path.name,)
        weight_map = None
    else:
        root = path
        files, weight_map = _find_files(root)
    tensors = _read_all(root, files)
    if weight_map is not None:
        _check_index(root, weight_map, tensors)
    quant = _read_json(root / "hf_quant_config.json")
    return Checkpoint(root, files, tensors, _read_json(root / "config.json") or {}, quant)


def _find_files(root: Path) -> tuple[tuple[str, ...], dict[str, str] | None]:
    if (root / "model.safetensors").is_file():
        return ("model.safetensors",), None
    indexes = sorted(root.glob(f"*{INDEX_SUFFIX}"))
    preferred = root / f"model{INDEX_SUFFIX}"
    if preferred in indexes:
        indexes = [preferred]
    if len(indexes) == 1:
        return _from_index(root, indexes[0])
    if indexes:
        raise CheckpointError(
            f"{root} has several index files",
            facts=[p.name for p in indexes],
            hint=f"keep one of them, or name it model{INDEX_SUFFIX}",
            code="several_indexes",
        )
    found = sorted(p.name for p in root.glob("*.safetensors"))
    if len(found) == 1:
        return (found[0],), None
    if found:
        raise CheckpointError(
            f"{root} has {len(found)} safetensors files and no index",
            facts=[*found[:8], *(["…"] if len(found) > 8 else [])],
            hint=f"without *{INDEX_SUFFIX} a missing shard would not be seen; download it, "
            "or give one file",
            code="missing_index",
        )
    others = sorted(p.name for p in root.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".gguf"))
    raise CheckpointError(
        f"{root} has no safetensors files",
        facts=[f"found {name}" for name in others[:4]],
        hint="convert the weights to safetensors first" if others else "check the path",
        code="no_weights",
    )


def _from_index(root: Path, index: Path) -> tuple[tuple[str, ...], dict[str, str]]:
    data = _read_json(index) or {}
    weight_map = data.get("weight_map")
    if (
        not isinstance(weight_map, dict)
        or not weight_map
        or not all(isinstance(v, str) for v in weight_map.values())
    ):
        raise CheckpointError(
            f"{index.name} has no weight_map from tensor to file",
            facts={"file": index},
            hint="download or export the index again",
            code="bad_index",
        )
    files = tuple(dict.fromkeys(weight_map.values()))
    for name in files:
        # an index is downloaded data: it may name files of this directory only
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise CheckpointError(
                f"{index.name} names a file outside the checkpoint",
                facts={"found": name},
                hint="shards lie in the directory of the index",
                code="bad_index",
            )
    missing = [name for name in files if not (root / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{len(missing)} of {len(files)} shards are missing",
            facts=[f"{name}: named by {index.name}, not found" for name in missing[:8]],
            hint="finish the download",
            code="missing_shard",
        )
    return files, weight_map


def _read_all(root: Path, files: tuple[str, ...]) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for name in files:
        found = read_header(root / name).tensors
        twice = tensors.keys() & found.keys()
        if twice:
            tensor = min(twice)
            raise CheckpointError(
                f"tensor {tensor} is in two shards",
                facts=[Path(tensors[tensor].file).name, name],
                hint="remove the shard that does not belong, or export again",
                code="duplicate_tensor",
            )
        tensors.update(found)
    return tensors


def _check_index(root: Path, weight_map: dict[str, str], tensors: dict[str, TensorInfo]) -> None:
    paths = {name: str(root / name) for name in set(weight_map.values())}
    for tensor, name in weight_map.items():
        info = tensors.get(tensor)
        if info is None or info.file != paths[name]:
            found = "in no shard" if info is None else f"in {Path(info.file).name}"
            raise CheckpointError(
                f"tensor {tensor} is not where the index says",
                facts={"needs": f"in {name}", "found": found},
                hint="index and shards come from different exports; download both again",
                code="index_mismatch",
            )


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise CheckpointError(
            f"{path.name} cannot be read",
            facts={"file": path, "found": str(error)},
            hint="download the file again, or correct it",
            code="bad_config",
        ) from None
    if not isinstance(data, dict):
        raise CheckpointError(
            f"{path.name} is no JSON object", facts={"file": path}, code="bad_config"
        )
    return data


def plan_layers(checkpoint: Checkpoint) -> list[tuple[str, LinearConfig]]:
    """Give (name, config) of every quantized linear: what `quantmux.plan` takes."""
    return [(entry.name, entry.config) for entry in checkpoint.layers()]
