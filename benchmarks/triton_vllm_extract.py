"""vLLM's compiled operations in 20 MB: the extensions of a wheel, their code for one GPU only.

    python benchmarks/triton_vllm_extract.py vllm-0.22.1-….whl FOLDER [--sm 90]
    python benchmarks/triton_vllm_extract.py --unpack FOLDER SITE

The first writes ``FOLDER/*.so.xz``; the second, on the GPU's machine, ``SITE/vllm/*.so``, which the
peers of `quantmux.bench` load when SITE is on the path. Nothing of vLLM is changed: a fat binary
holds the same kernels for many GPUs, and those that the GPU at hand never reads are left out.
"""

from __future__ import annotations

import argparse
import lzma
import struct
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FILES = ("_C.abi3.so", "_C_stable_libtorch.abi3.so")
_MAGIC = 0xBA55ED50
_HEAD = struct.Struct("<IHHQ")  # magic, version, bytes of the head, bytes of the entries
_ENTRY = struct.Struct("<HHIQIIHHI")  # kind, -, bytes of the head, of the code, -, -, -, -, sm
_PTX, _CUBIN = 1, 2
_SMALL_PTX = 20_000


@dataclass(frozen=True)
class Entry:
    """Code of one fat binary for one GPU: where it lies, and what it is."""

    start: int
    size: int
    kind: int
    sm: int


def fat_binaries(data: bytes, start: int, size: int) -> Iterator[tuple[int, int, int, list[Entry]]]:
    """Give place, bytes of the head, bytes of the entries, and the entries of every fat binary."""
    place = start
    while place + _HEAD.size <= start + size:
        magic, _, head, length = _HEAD.unpack_from(data, place)
        if magic != _MAGIC:
            place += 8
            continue
        entries, at = [], place + head
        while at < place + head + length:
            kind, _, own, code, *_, sm = _ENTRY.unpack_from(data, at)
            entries.append(Entry(at, own + code, kind, sm))
            at += own + code
        yield place, head, length, entries
        place = (place + head + length + 7) & ~7


def kept(entries: list[Entry], sm: int) -> list[Entry]:
    """Give the entries a GPU reads: its own code, else PTX that may become it if it is small."""
    own = [e for e in entries if e.kind == _CUBIN and e.sm == sm]
    if own:
        return own
    ptx = [e for e in entries if e.kind == _PTX and e.sm <= sm and e.size < _SMALL_PTX]
    # an empty fat binary is none: the least of what is there stands for kernels of other GPUs
    return ptx[-1:] or [min(entries, key=lambda e: e.size)]


def section(data: bytes, name: str) -> tuple[int, int]:
    """Give offset and bytes of a section of a 64-bit ELF file."""
    table = struct.unpack_from("<Q", data, 0x28)[0]
    width, count, names = struct.unpack_from("<HHH", data, 0x3A)
    places = [struct.unpack_from("<IIQQQQ", data, table + i * width) for i in range(count)]
    strings = places[names][4]
    for place in places:
        at = strings + place[0]
        if data[at : data.index(b"\0", at)].decode() == name:
            return place[4], place[5]
    raise ValueError(f"no section {name}")


def thinned(data: bytes, sm: int) -> bytes:
    """Give an extension with the code of one GPU, every byte at its place."""
    found = bytearray(data)
    for place, head, length, entries in fat_binaries(data, *section(data, ".nv_fatbin")):
        body = b"".join(data[e.start : e.start + e.size] for e in kept(entries, sm))
        found[place + head : place + head + length] = body.ljust(length, b"\0")
        struct.pack_into("<Q", found, place + 8, len(body))
    return bytes(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", type=Path, help="a wheel; with --unpack the folder made of it")
    parser.add_argument("target", type=Path)
    parser.add_argument("--sm", type=int, default=90)
    parser.add_argument("--unpack", action="store_true")
    given = parser.parse_args()
    if given.unpack:
        folder = given.target / "vllm"
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            (folder / name).write_bytes(lzma.decompress((given.source / f"{name}.xz").read_bytes()))
        return
    given.target.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(given.source) as wheel:
        for name in FILES:
            packed = lzma.compress(thinned(wheel.read(f"vllm/{name}"), given.sm))
            (given.target / f"{name}.xz").write_bytes(packed)
            print(f"{name}: {len(packed) / 1e6:.1f} MB", file=sys.stderr)


if __name__ == "__main__":
    main()
