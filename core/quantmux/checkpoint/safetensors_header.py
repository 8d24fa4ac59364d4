"""The header of one safetensors file: which tensors it holds, and where, without reading them.

A file is 8 bytes of header length (little-endian), that many bytes of JSON, then the data. The
format allows no hole and no overlap, so a truncated or edited file always shows in the header.
"""

from __future__ import annotations

import json
import math
import os
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from quantmux.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

DTYPE_BITS: Final[dict[str, int]] = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "I64": 64,
    "U64": 64,
    "F64": 64,
    "C64": 64,
}
"""Bits of one element of every dtype the format names."""

MAX_HEADER_BYTES: Final = 100_000_000
"""The format's own limit; a longer length field means that the file is something else."""


class TensorInfo(NamedTuple):
    """Where one tensor lies. A named tuple, as a large checkpoint has a hundred thousand.

    Attributes:
        name: Name in the checkpoint.
        dtype: Name of the format, as ``F8_E4M3``.
        shape: Extents.
        file: Path of the file.
        begin: First byte in the file.
        end: One past the last byte in the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        """Bytes of data."""
        return self.end - self.begin

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} {list(self.shape)}"


class FileHeader(NamedTuple):
    """The header of one file: its tensors by name, and the free-text metadata."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]


def read_header(path: Path) -> FileHeader:
    """Read and check the header of a safetensors file.

    Raises:
        CheckpointError: The file is truncated, is no safetensors file, or its header contradicts
            itself; codes ``truncated bad_header unknown_dtype size_mismatch bad_offsets``.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            prefix = file.read(8)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8:
                raise _truncated(path, "the 8 bytes of the header length", size)
            if length > MAX_HEADER_BYTES:
                raise _bad_header(
                    path, f"header of {length:,} bytes, the format allows 100,000,000"
                )
            if 8 + length > size:
                raise _truncated(path, f"8 + {length:,} bytes of header", size)
            text = file.read(length)
    except OSError as error:
        raise CheckpointError(
            f"cannot read {path}", facts=[error.strerror or str(error)], code="unreadable"
        ) from error
    try:
        raw = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _bad_header(path, f"not JSON: {error}") from None
    if not isinstance(raw, dict):
        raise _bad_header(path, f"a JSON {type(raw).__name__}, needs an object")
    metadata = raw.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict):
        raise _bad_header(path, "__metadata__ is no object")
    tensors = _tensors(path, raw, 8 + length)
    _check_extents(path, tensors, 8 + length, size)
    return FileHeader(tensors, {str(k): str(v) for k, v in metadata.items()})


def _tensors(path: Path, raw: dict[str, Any], base: int) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    file, prod, bits_of = str(path), math.prod, DTYPE_BITS.get
    for name, spec in raw.items():
        try:
            dtype, shape = spec["dtype"], tuple(spec["shape"])
            begin, end = spec["data_offsets"]
            negative = begin < 0 or end < begin or min(shape, default=0) < 0
            bits = prod(shape) * (bits_of(dtype) or 0)
        except (KeyError, TypeError, ValueError):
            raise _bad_header(
                path, f"tensor {name}: needs dtype, shape and two data_offsets, found {spec!r}"
            ) from None
        if bits.__class__ is not int or begin.__class__ is not int or end.__class__ is not int:
            raise _bad_header(
                path, f"tensor {name}: shape and offsets are integers, found {spec!r}"
            )
        if negative:
            raise _bad_header(path, f"tensor {name}: negative extent or offset in {spec!r}")
        if bits_of(dtype) is None:
            raise CheckpointError(
                f"tensor {name} has an unknown dtype",
                facts={"file": path, "found": dtype, "known": " ".join(DTYPE_BITS)},
                hint="the file was written by a newer or a broken writer; export it again",
                code="unknown_dtype",
            )
        if bits != (end - begin) * 8:
            raise CheckpointError(
                f"tensor {name} is mislabelled: its bytes do not fit its dtype and shape",
                facts={
                    "file": path,
                    "needs": f"{-(-bits // 8):,} bytes for {dtype} {list(shape)}",
                    "found": f"{end - begin:,} bytes",
                },
                hint="download or export the file again",
                code="size_mismatch",
            )
        tensors[name] = TensorInfo(name, dtype, shape, file, base + begin, base + end)
    return tensors


def _check_extents(path: Path, tensors: dict[str, TensorInfo], base: int, size: int) -> None:
    at = base
    for info in sorted(tensors.values(), key=lambda t: (t.begin, t.end)):
        if info.begin != at:
            kind = "overlaps the tensor before it" if info.begin < at else "leaves a gap before it"
            raise CheckpointError(
                f"tensor {info.name} {kind}",
                facts={
                    "file": path,
                    "needs": f"to begin at byte {at:,}",
                    "found": f"{info.begin:,}",
                },
                hint="the header was edited or written wrongly; export the file again",
                code="bad_offsets",
            )
        at = info.end
    if at > size:
        raise _truncated(path, f"{at:,} bytes by its header", size)
    if at < size:
        raise CheckpointError(
            f"{path.name} holds bytes that no tensor names",
            facts={
                "file": path,
                "needs": f"{at:,} bytes by its header",
                "found": f"{size:,} bytes",
            },
            hint="download or export the file again",
            code="bad_offsets",
        )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f'"{twice}" is named twice')
    return found


def _truncated(path: Path, needs: str, size: int) -> CheckpointError:
    return CheckpointError(
        f"{path.name} is truncated",
        facts={"file": path, "needs": needs, "found": f"{size:,} bytes"},
        hint="download or export the file again",
        code="truncated",
    )


def _bad_header(path: Path, found: str) -> CheckpointError:
    return CheckpointError(
        f"{path.name} has no valid safetensors header",
        facts={"file": path, "found": found},
        hint="only safetensors files are read; convert .bin or .pt files first",
        code="bad_header",
    )
