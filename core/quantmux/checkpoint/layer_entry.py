"""What a format reader answers: one quantized linear, bound to its tensors on disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from quantmux.checkpoint.safetensors_header import TensorInfo
    from quantmux.config import LinearConfig

Role = Literal["weight", "scales", "global_scale", "bias", "input_scale", "input_global_scale"]
"""Which part of `LinearWeights` a tensor becomes (``weight`` becomes ``data``)."""

Rule = Literal["as_is", "cast_f32", "reciprocal", "e8m0", "squeeze"]
"""How a stored tensor becomes the canonical one.

``as_is`` only reshaped where () and [1] differ · ``cast_f32`` widened from 16 bit, then shaped ·
``reciprocal`` a stored divisor G becomes the multiplier 1/G · ``e8m0`` exponent bytes become
powers of two · ``squeeze`` extents of 1 are dropped or added.
"""


class TensorBinding(NamedTuple):
    """One tensor of a layer: its name, where it lies, and how it is read."""

    name: str
    info: TensorInfo
    rule: Rule


@dataclass(frozen=True, slots=True)
class LayerEntry:
    """One quantized linear of a checkpoint.

    Attributes:
        name: Module name, as ``model.layers.0.mlp.down_proj``.
        config: Shape, scheme, dtypes; shared between equal layers.
        tensors: Bindings by role.
        source: Format label, as ``compressed-tensors nvfp4-pack-quantized``.
        notes: What a reader should know and nothing was refused for.
    """

    name: str
    config: LinearConfig
    tensors: dict[Role, TensorBinding]
    source: str
    notes: tuple[str, ...] = ()
