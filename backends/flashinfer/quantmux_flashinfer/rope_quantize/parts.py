"""The parts of heads as the library takes them: rotated and plain columns, and keys, of which none.

Every one is an argument of its own. All heads go in as queries; the keys beside them, and the plain
part of heads that are rotated whole, are tensors without elements, kept for each T.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import torch

if TYPE_CHECKING:
    from quantmux.config import RopeQuantizeConfig

_KEPT: Final = 256
"""Numbers of tokens whose tensors without elements are kept."""


class Nothing(NamedTuple):
    """Tensors without elements for one T: keys, and the plain part of a head that has none."""

    k_rope: torch.Tensor
    k_nope: torch.Tensor
    q_nope: torch.Tensor


class Parts:
    """Cuts heads [T, heads, head_dim] of one dtype.

    Args:
        config: Heads and dimensions.
        dtype: Of the heads.
    """

    def __init__(self, config: RopeQuantizeConfig, dtype: torch.dtype) -> None:
        self._heads, self._dtype = config.heads, dtype
        self._rope, self._plain = config.rope_dim, config.head_dim - config.rope_dim
        self._is_first = config.rope_at == "first"
        first, second = self._rope, self._plain
        self._sizes = (first, second) if self._is_first else (second, first)
        self._nothing: dict[tuple[int, torch.device], Nothing] = {}

    def cut(self, whole: torch.Tensor, nothing: Nothing) -> tuple[torch.Tensor, torch.Tensor]:
        """Give the rotated columns and the plain ones, views of the whole."""
        if not self._plain:
            return whole, nothing.q_nope
        first, second = whole.split_with_sizes(self._sizes, -1)
        return (first, second) if self._is_first else (second, first)

    def nothing(self, t: int, home: torch.device) -> Nothing:
        """Give the tensors without elements for T tokens."""
        found = self._nothing.get((t, home))
        if found is None:
            if len(self._nothing) >= _KEPT:
                self._nothing = {}  # a new one: another thread may be reading
            shapes = ((t, 0, self._rope), (t, 0, self._plain), (t, self._heads, 0))
            made = (torch.empty(shape, dtype=self._dtype, device=home) for shape in shapes)
            found = self._nothing[t, home] = Nothing(*made)
        return found
