"""Writes safetensors shards and their index: raw bytes, so every dtype survives as it is."""

from __future__ import annotations

import ctypes
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

from quantmux.checkpoint.safetensors_header import DTYPE_BITS, TensorInfo
from quantmux.checkpoint.tensors import DTYPE_NAMES
from quantmux.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    import torch

_CHUNK = 1 << 24


@dataclass(slots=True)
class ShardWriter:
    """Collects tensors and writes a shard whenever enough bytes have come together.

    Call `add` for every tensor, then `finish` once. A tensor given as `TensorInfo` is copied from
    its file when the shard is written, never held.

    Args:
        folder: Existing directory to write into.
        shard_bytes: A shard is closed before it would grow beyond this; one larger tensor still
            gets a shard of its own.
    """

    folder: Path
    shard_bytes: int
    total_bytes: int = 0
    _pending: dict[str, torch.Tensor | TensorInfo] = field(default_factory=dict)
    _pending_bytes: int = 0
    _shards: list[tuple[Path, list[str]]] = field(default_factory=list)
    _names: set[str] = field(default_factory=set)

    def add(self, name: str, tensor: torch.Tensor | TensorInfo) -> None:
        """Add one tensor.

        Raises:
            CheckpointError: The name was added before.
        """
        if name in self._names:
            raise CheckpointError(f"tensor {name} would be written twice", code="duplicate_tensor")
        size = tensor.nbytes
        if self._pending and self._pending_bytes + size > self.shard_bytes:
            self._flush()
        self._names.add(name)
        self._pending[name] = tensor
        self._pending_bytes += size
        self.total_bytes += size

    def finish(self) -> list[Path]:
        """Write what is left, name the shards, and write the index if there are several."""
        if self._pending or not self._shards:
            self._flush()
        count = len(self._shards)
        if count == 1:
            return [self._shards[0][0].rename(self.folder / "model.safetensors")]
        weight_map: dict[str, str] = {}
        files = []
        for i, (path, names) in enumerate(self._shards, 1):
            target = path.rename(self.folder / f"model-{i:05}-of-{count:05}.safetensors")
            files.append(target)
            weight_map.update(dict.fromkeys(names, target.name))
        index = {
            "metadata": {"total_size": self.total_bytes},
            "weight_map": dict(sorted(weight_map.items())),
        }
        write_json(self.folder / "model.safetensors.index.json", index)
        return files

    def _flush(self) -> None:
        path = self.folder / f"shard-{len(self._shards)}.tmp"
        _write_shard(path, self._pending)
        self._shards.append((path, list(self._pending)))
        self._pending, self._pending_bytes = {}, 0


def write_json(path: Path, data: object) -> None:
    """Write JSON as people read it."""
    with path.open("w", encoding="utf-8") as file:
        json.dump(data, file, indent=2, ensure_ascii=False)
        file.write("\n")


def _write_shard(path: Path, tensors: dict[str, torch.Tensor | TensorInfo]) -> None:
    described = {name: _describe(tensor) for name, tensor in tensors.items()}
    # widest first: then every tensor is aligned to its own element
    order = sorted(described, key=lambda name: (-DTYPE_BITS[described[name][0]], name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name in order:
        dtype, shape = described[name]
        end = at + tensors[name].nbytes
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in order:
            _write_data(file, tensors[name])


def _describe(tensor: torch.Tensor | TensorInfo) -> tuple[str, tuple[int, ...]]:
    if isinstance(tensor, TensorInfo):
        return tensor.dtype, tensor.shape
    return DTYPE_NAMES[tensor.dtype], tuple(tensor.shape)


def _write_data(file: BinaryIO, tensor: torch.Tensor | TensorInfo) -> None:
    if isinstance(tensor, TensorInfo):
        with open(tensor.file, "rb") as source:  # noqa: PTH123 - a path string of a header
            source.seek(tensor.begin)
            left = tensor.nbytes
            while left:
                chunk = source.read(min(left, _CHUNK))
                if not chunk:
                    raise CheckpointError(
                        f"{tensor.file} changed while it was open",
                        facts={"tensor": tensor, "missing": f"{left:,} bytes"},
                        code="truncated",
                    )
                file.write(chunk)
                left -= len(chunk)
        return
    data = tensor.detach().cpu().contiguous()
    if data.nbytes:
        # numpy is no dependency; ctypes gives a view of the same memory
        file.write((ctypes.c_ubyte * data.nbytes).from_address(data.data_ptr()))
