"""Tiny checkpoints with headers as they are in the wild; made without the code under test."""

import json
import math

import pytest

BYTES = {
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "U8": 1,
    "I8": 1,
    "BF16": 2,
    "F16": 2,
    "F32": 4,
    "I32": 4,
    "I64": 8,
}


def write_safetensors(path, tensors, *, holes=0, pad=0):
    """Write {name: (dtype, shape) or (dtype, shape, bytes)} with zeros where no bytes are given."""
    header, data, at = {}, b"", 0
    for name, (dtype, shape, *rest) in tensors.items():
        size = math.prod(shape) * BYTES[dtype]
        raw = rest[0] if rest else b"\0" * size
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(raw)]}
        data += raw + b"\0" * holes
        at += len(raw) + holes
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data + b"\0" * pad)


@pytest.fixture
def make(tmp_path):
    """Give a function that writes a checkpoint directory and gives its path."""

    def _make(tensors, quant=None, *, config=None, legacy=None, shards=None, name="model"):
        root = tmp_path / name
        root.mkdir()
        data = {"torch_dtype": "bfloat16", **(config or {})}
        if quant is not None:
            data["quantization_config"] = quant
        (root / "config.json").write_text(json.dumps(data))
        if legacy is not None:
            (root / "hf_quant_config.json").write_text(json.dumps(legacy))
        if shards is None:
            write_safetensors(root / "model.safetensors", tensors)
            return root
        names = list(tensors)
        weight_map = {}
        for i in range(shards):
            file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
            part = {n: tensors[n] for n in names[i::shards]}
            write_safetensors(root / file, part)
            weight_map |= dict.fromkeys(part, file)
        (root / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        return root

    return _make


@pytest.fixture
def safetensors_file():
    """Give the writer of one file, for the ways in which files are broken."""
    return write_safetensors
