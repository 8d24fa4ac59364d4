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
    k_rope_out: torch.Tensor
    k_nope_out: torch.Tensor
    q_nope_out: torch.Tensor


class Parts:
    """Cuts heads [T, heads, head_dim], and gives what stands beside them.

    Args:
        config: Heads and dimensions.
        dtype: Of the heads.
        made_dtype: Of the result.

    Attributes:
        sizes: Columns of the first part of a head and of the second; None where all are rotated.
        is_first: The first part is the rotated one.
    """

    def __init__(
        self, config: RopeQuantizeConfig, dtype: torch.dtype, made_dtype: torch.dtype
    ) -> None:
        rope, plain = config.rope_dim, config.head_dim - config.rope_dim
        self.is_first = config.rope_at == "first"
        self.sizes = ((rope, plain) if self.is_first else (plain, rope)) if plain else None
        self._heads, self._rope, self._plain = config.heads, rope, plain
        self._dtypes = (dtype, made_dtype)
        self._nothing: dict[int, Nothing] = {}

    def nothing(self, t: int, home: torch.device) -> Nothing:
        """Give the tensors without elements for T tokens."""
        found = self._nothing.get(t)
        if found is None or found.k_rope.device != home:
            if len(self._nothing) >= _KEPT:
                self._nothing = {}  # a new one: another thread may be reading
            shapes = ((t, 0, self._rope), (t, 0, self._plain), (t, self._heads, 0))
            made = (
                torch.empty(shape, dtype=dtype, device=home)
                for dtype in self._dtypes
                for shape in shapes
            )
            found = self._nothing[t] = Nothing(*made)
        return found
