"""Twins and mutants of the producers that fuse a norm or a rotation, as data."""

from __future__ import annotations

from typing import Final

from quantmux import Block, Capability, OperandOffer
from quantmux import operand as preset
from quantmux.config import ElementFormat
from quantmux_mutants.model import Mutant, Twin

_IN: Final = ("bf16", "fp16", "fp32")
_PURE: Final = frozenset({"composite", "deterministic"})
_SOURCES: Final = ("fused.py", "producers.py", "memory.py")

FUSED_TWINS: Final = (
    Twin(
        "norm",
        "rmsnorm_quantize",
        "fused",
        Capability(
            arch="cpu",
            produces=(
                OperandOffer.of(preset("fp8_token"), ("row_major",)),
                OperandOffer.of(preset("fp8_group128"), ("row_major", "col_major_aligned4")),
                OperandOffer.of(
                    preset("fp8_tensor"), ("scalar",), scale_modes=("dynamic", "static")
                ),
            ),
            takes_padded_n=True,
            takes_padded_m=True,
            in_dtypes=_IN,
            tags=_PURE,
        ),
        _SOURCES,
    ),
    Twin(
        "heads",
        "rope_quantize",
        "fused",
        Capability(
            arch="cpu",
            produces=tuple(
                OperandOffer(
                    element=element,
                    block=Block(rows=-1, cols=-1),
                    scale_modes=("static",),
                    layouts=("scalar",),
                )
                for element in (ElementFormat.FP8_E4M3, ElementFormat.FP8_E5M2)
            ),
            in_dtypes=_IN,
            tags=_PURE,
        ),
        _SOURCES,
    ),
)

FUSED: Final = (
    Mutant("norm", "norm_in_bf16", "the norm is rounded to bf16 before amax"),
    Mutant("norm", "rounded_before_weight", "x / rms(x) goes into x's format before the weight"),
    Mutant("norm", "eps_outside", "adds norm_eps to the root, not to the mean"),
    Mutant("norm", "eps_fixed", "has a norm_eps of its own"),
    Mutant("norm", "eps_of_the_operand", "takes the floor of amax for norm_eps"),
    Mutant("norm", "eps_of_the_last", "has the norm_eps of the config bound last", "repeat"),
    Mutant("norm", "mean_over_padding", "divides the sum of squares by the stored width"),
    Mutant("norm", "centered", "squares the distance from the mean, as LayerNorm does"),
    Mutant("norm", "squares_in_format", "takes squares in the format of x"),
    Mutant("norm", "weight_forgotten", "leaves the weight out"),
    Mutant("norm", "weight_plus_one", "multiplies by 1 + weight"),
    Mutant("norm", "weight_in_bf16", "rounds a weight of fp32 to bf16"),
    Mutant("heads", "always_halves", "pairs halves of what is rotated, asked or not"),
    Mutant("heads", "always_first", "rotates the first columns of a head, asked or not"),
    Mutant("heads", "turned_back", "rotates back instead of on"),
    Mutant("heads", "heads_in_bf16", "rounds to bf16 between rotation and quantization"),
    Mutant("heads", "cache_in_pairs", "reads the cache as pairs of cos and sin"),
    Mutant("heads", "scale_not_written", "leaves the scale of its result unwritten"),
    Mutant("heads", "scale_inverted", "multiplies by the scale"),
    Mutant("heads", "scale_by_reciprocal", "x * RN(1 / s) in place of x / s"),
    Mutant("heads", "plain_unscaled", "what is not rotated is not scaled"),
    Mutant("heads", "scale_of_the_last", "has the scale of the config bound last", "repeat"),
    Mutant("heads", "nan_saturates", "NaN becomes the greatest number"),
    Mutant("heads", "heads_side_by_side", "takes heads to follow each other", "strides"),
)
