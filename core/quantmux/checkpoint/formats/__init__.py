"""Format readers: one file for each family of quantized checkpoints, none of which loads torch."""

from quantmux.checkpoint.formats.detect import read_layers

__all__ = ["read_layers"]
