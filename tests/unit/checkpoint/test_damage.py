"""Damaged files and configs end in a CheckpointError or in a valid reading, in nothing else."""

import copy
import json
import random

import pytest

from quantmux.checkpoint import open_checkpoint
from quantmux.errors import CheckpointError

TENSORS = {
    "l.weight": ("F8_E4M3", (130, 16)),
    "l.weight_scale_inv": ("F32", (2, 1)),
    "n.weight": ("BF16", (16,)),
}
BLOCK = {
    "quant_method": "fp8",
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "weight_block_size": [128, 128],
    "scale_fmt": "float",
    "modules_to_not_convert": ["x"],
}
GROUP = {
    "targets": ["Linear"],
    "format": None,
    "weights": {
        "num_bits": 8,
        "type": "float",
        "strategy": "block",
        "symmetric": True,
        "block_structure": [128, 128],
        "group_size": None,
        "dynamic": False,
    },
    "input_activations": {
        "num_bits": 8,
        "type": "float",
        "strategy": "group",
        "group_size": 128,
        "dynamic": True,
    },
    "output_activations": None,
}
CT = {
    "quant_method": "compressed-tensors",
    "format": "float-quantized",
    "ignore": ["lm_head"],
    "config_groups": {"g": GROUP},
    "sparsity_config": {},
    "transform_config": {},
}
MODELOPT = {
    "quant_method": "modelopt",
    "quant_algo": "FP8_PB_WO",
    "ignore": ["lm_head*"],
    "group_size": 16,
    "quantized_layers": {"l": {"quant_algo": "FP8_PB_WO"}},
}
VALUES = [None, True, 0, -1, 3.5, "", "l", "re:(", [], [1], ["l"], [[]], {}, {"l": 1}, {"a": []}]


def read(path):
    """Read; give whether it was refused."""
    try:
        open_checkpoint(path).layers()
    except CheckpointError:
        return True
    return False


def places(node, path=()):
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


@pytest.mark.parametrize("quant", [BLOCK, CT, MODELOPT], ids=["fp8", "ct", "modelopt"])
def test_any_value_anywhere_in_a_config_is_read_or_refused(make, quant):
    scale = "weight_scale_inv" if quant is BLOCK else "weight_scale"
    tensors = {n.replace("weight_scale_inv", scale): spec for n, spec in TENSORS.items()}
    root = make(tensors, quant)
    assert not read(root)
    refused = 0
    for path in places(quant):
        for value in VALUES:
            changed = copy.deepcopy(quant)
            node = changed
            for key in path[:-1]:
                node = node[key]
            node[path[-1]] = value
            (root / "config.json").write_text(json.dumps({"quantization_config": changed}))
            refused += read(root)
    assert refused > 20, "most of these values cannot be meant"


def test_any_changed_byte_of_a_header_is_read_or_refused(make):
    root = make(TENSORS, BLOCK)
    file = root / "model.safetensors"
    good = file.read_bytes()
    header = 8 + int.from_bytes(good[:8], "little")
    rng = random.Random(0)  # noqa: S311 - not for secrets
    refused = 0
    for _ in range(1500):
        bad = bytearray(good)
        for _ in range(rng.choice((1, 1, 2, 5))):
            bad[rng.randrange(header)] = rng.choice((rng.randrange(256), *b'0123456789[]{}",:-'))
        file.write_bytes(bytes(bad))
        refused += read(root)
    assert refused > 1200


def test_any_removed_or_added_byte_is_refused(make):
    root = make(TENSORS, BLOCK)
    file = root / "model.safetensors"
    good = file.read_bytes()
    rng = random.Random(1)  # noqa: S311 - not for secrets
    for _ in range(300):
        cut = rng.randrange(len(good))
        file.write_bytes(good[:cut] + good[cut + 1 :])
        assert read(root), cut
        file.write_bytes(good[:cut] + b"0" + good[cut:])
        assert read(root), cut
