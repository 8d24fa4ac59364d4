"""Outputs that show what a kernel left unwritten, and what it wrote beside them.

Every byte is 0xFF before the call: NaN in bf16, fp16, fp32 and fp8_e4m3, NaN for a UE8M0 exponent.
A kernel that returns memory as it found it gives NaN, and not last call's right answer. Zones of
another byte lie before and behind; whoever writes there writes outside its output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch

from quantmux.ops.linear.spec import empty_output
from quantmux.ops.quantized import DTYPES, QuantizedTensor
from quantmux.ops.spec import op_spec

if TYPE_CHECKING:
    from quantmux.config import LayerConfig

POISON: Final = 0xFF
PLAIN_POISON: Final = 0x5A
"""No NaN in any format: for results in which a NaN is due."""
GUARD: Final = 0xA5
GUARD_BYTES: Final = 512
"""On either side; a multiple of every vector access, so that alignment is as in a fresh tensor."""


@dataclass(frozen=True, slots=True, eq=False)
class PoisonedOutput:
    """An output ready for ``out=``.

    Attributes:
        out: The output, of the shape, strides and dtype of the op's spec; every byte 0xFF.
        arenas: Part name → (all its bytes with both guards uint8, bytes of the output itself).
        byte: What every byte was before.
    """

    out: torch.Tensor | QuantizedTensor
    arenas: dict[str, tuple[torch.Tensor, int]]
    byte: int = POISON

    @property
    def untouched(self) -> tuple[str, ...]:
        """Names of the parts of which no byte was written; reading it waits for the device."""
        return tuple(
            name
            for name, (arena, size) in self.arenas.items()
            if size and bool((arena[GUARD_BYTES : GUARD_BYTES + size] == self.byte).all())
        )

    @property
    def overrun(self) -> tuple[str, ...]:
        """Names of the parts beside which something was written."""
        return tuple(
            name
            for name, (arena, size) in self.arenas.items()
            if bool((arena[:GUARD_BYTES] != GUARD).any())
            or bool((arena[GUARD_BYTES + size :] != GUARD).any())
        )

    def poison(self) -> None:
        """Make it as new."""
        for arena, size in self.arenas.values():
            arena.fill_(GUARD)
            arena[GUARD_BYTES : GUARD_BYTES + size] = self.byte


def poisoned_output(
    config: LayerConfig,
    m: int,
    device: torch.device | str,
    *,
    row_multiple: int | None = None,
    byte: int = POISON,
) -> PoisonedOutput:
    """Give an output of a config for M rows, poisoned and guarded.

    Args:
        config: Layer config; its op's spec says shape, strides and dtype.
        m: Rows.
        device: Where.
        row_multiple: `Capability.output_row_multiple` of a linear kernel: its rows lie this
            multiple of elements apart. None is the op's own.
        byte: What every byte shall be; see `PLAIN_POISON`.
    """
    fake = op_spec(config.op).fake(config, m)
    if row_multiple is not None and config.op == "linear":
        dtype, contiguous = DTYPES[config.out_dtype], config.contiguous_output
        fake = empty_output(m, config.n, dtype, "meta", row_multiple, contiguous)
    arenas: dict[str, tuple[torch.Tensor, int]] = {}
    if isinstance(fake, torch.Tensor):
        return PoisonedOutput(_place("out", fake, device, arenas, byte), arenas, byte)
    parts = {"data": fake.data, "scales": fake.scales}
    if fake.global_scale is not None:
        parts["global_scale"] = fake.global_scale
    placed = {name: _place(name, part, device, arenas, byte) for name, part in parts.items()}
    made = QuantizedTensor(
        placed["data"],
        placed["scales"],
        placed.get("global_scale"),
        fake.operand,
        fake.layout,
        fake.logical_shape,
    )
    return PoisonedOutput(made, arenas, byte)


def _place(
    name: str,
    like: torch.Tensor,
    device: torch.device | str,
    arenas: dict[str, tuple[torch.Tensor, int]],
    byte: int,
) -> torch.Tensor:
    size = like.untyped_storage().nbytes()
    arena = torch.full((size + 2 * GUARD_BYTES,), GUARD, dtype=torch.uint8, device=device)
    arena[GUARD_BYTES : GUARD_BYTES + size] = byte
    arenas[name] = (arena, size)
    elements = arena[GUARD_BYTES : GUARD_BYTES + size].view(like.dtype)
    return elements.as_strided(
        like.shape, like.stride(), elements.storage_offset() + like.storage_offset()
    )
