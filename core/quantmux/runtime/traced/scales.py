"""Static scales whose values were read: whether somebody has changed them since.

Linears share one quantized x if their static scales have the same values. To read values waits for
the GPU, so it is done once; torch's version counter of a tensor, a number of the host, tells when
it has to be done again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch


class SeenScales:
    """The versions of tensors, taken before their values are read.

    What has no version is taken to be never changed: tensors that were made under
    ``torch.inference_mode()``. Nor does a change through ``.data`` or a raw pointer count up.

    Args:
        tensors: Whose values are about to be read.
    """

    __slots__ = ("_seen",)

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        self._seen = tuple((t, t._version) for t in tensors if not t.is_inference())  # noqa: SLF001 - its name

    def __bool__(self) -> bool:
        """Tell whether there is anything that could change."""
        return bool(self._seen)

    def changed(self) -> bool:
        """Tell whether one of them was changed in place; nothing is read from the device."""
        # a loop: a generator would take longer than the question
        for tensor, version in self._seen:  # noqa: SIM110
            if tensor._version != version:  # noqa: SLF001
                return True
        return False


__all__ = ["SeenScales"]
