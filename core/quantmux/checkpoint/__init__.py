"""Checkpoints on disk ↔ layer configs and canonical weights.

Headers, formats and planning need no torch; tensors, writing, converting and fusing do, and are
imported when first named.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from quantmux.checkpoint.headers import Checkpoint, open_checkpoint, plan_layers
from quantmux.checkpoint.layer_entry import LayerEntry, TensorBinding
from quantmux.checkpoint.safetensors_header import TensorInfo

if TYPE_CHECKING:
    from quantmux.checkpoint.convert_model import ConvertReport, convert
    from quantmux.checkpoint.fuse_shards import Fused, fuse
    from quantmux.checkpoint.tensors import LoadedLinear, load_layer, load_linear, load_tensor
    from quantmux.checkpoint.write import QuantizedLayer, WriteReport, write_checkpoint

_LAZY = {
    "ConvertReport": "convert_model",
    "Fused": "fuse_shards",
    "LoadedLinear": "tensors",
    "QuantizedLayer": "write",
    "WriteReport": "write",
    "convert": "convert_model",
    "fuse": "fuse_shards",
    "load_layer": "tensors",
    "load_linear": "tensors",
    "load_tensor": "tensors",
    "write_checkpoint": "write",
}

__all__ = [
    "Checkpoint",
    "ConvertReport",
    "Fused",
    "LayerEntry",
    "LoadedLinear",
    "QuantizedLayer",
    "TensorBinding",
    "TensorInfo",
    "WriteReport",
    "convert",
    "fuse",
    "load_layer",
    "load_linear",
    "load_tensor",
    "open_checkpoint",
    "plan_layers",
    "write_checkpoint",
]


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value
