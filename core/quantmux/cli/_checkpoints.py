"""Opening a quantized checkpoint, for the verbs that need one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantmux.checkpoint import Checkpoint, open_checkpoint
from quantmux.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path


def open_quantized(path: Path) -> Checkpoint:
    """Open a checkpoint that has quantized linears; only headers are read.

    Raises:
        CheckpointError: It is broken or of an unknown format, or nothing in it is quantized.
    """
    checkpoint = open_checkpoint(path)
    if not checkpoint.layers():
        raise CheckpointError(
            f"{path} has no quantized linear",
            facts=[f"{len(checkpoint.tensors)} tensors in {len(checkpoint.files)} files"],
            hint=f"make one: quantmux convert {path} OUT --scheme fp8_block128",
            code="not_quantized",
        )
    return checkpoint
