"""NVFP4 weights in the two forms that FlashInfer's GEMMs read.

* `TILED`, ``flashinfer:nvfp4_128x4``: rows as they are, scales in 128x4 tiles. N and K are padded
  to multiples of 32 with zeros: the CUTLASS back end wants both, and one form for all back ends
  means one copy for a layer, whichever serves which M. Padded columns of y are 0 and are cut off.
* `SHUFFLED`, ``flashinfer:nvfp4_trtllm``: rows of codes and of scales dealt out for trtllm-gen,
  N in multiples of 128, which its scales need, and K of 256, the least that the library's own
  tests know.

Both give the checkpoint's bits back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from quantmux.config.layouts import round_up
from quantmux.ops.layouts import swizzle_128x4, unswizzle_128x4
from quantmux.ops.quantized import LinearWeights
from quantmux.registry.protocol import PreparedWeights
from quantmux_flashinfer.layouts.global_scales import alpha_of
from quantmux_flashinfer.layouts.matrices import aligned, padded, unpadded
from quantmux_flashinfer.layouts.scale_bytes import as_bytes, as_e4m3
from quantmux_flashinfer.layouts.trtllm import (
    shuffled_rows,
    shuffled_scales,
    unshuffled_rows,
    unshuffled_scales,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LinearConfig

    Reorder = Callable[[torch.Tensor], torch.Tensor]

GROUP: Final = 16
"""Values with one scale."""

ALIGNMENT: Final = 32
"""Bytes at whose multiples operands begin; the strictest of the back ends (cute-dsl)."""


@dataclass(frozen=True, slots=True)
class Form:
    """One form of NVFP4 weights.

    Attributes:
        name: ``weight_layout``.
        pad_n: N is padded to a multiple of it.
        pad_k: K is padded to a multiple of it, so x arrives as wide.
        order: Puts rows of codes, bytes [N, W], in the form's order.
        unorder: Undoes it.
        tile: Puts row-major scales, bytes [R128(N), C4], in the form's order.
        untile: Undoes it.
    """

    name: str
    pad_n: int
    pad_k: int
    order: Reorder
    unorder: Reorder
    tile: Reorder
    untile: Reorder

    def prepare(
        self, weights: LinearWeights, config: LinearConfig, device: DeviceProfile
    ) -> PreparedWeights:
        """Give NVFP4 weights in this form.

        Pure; the same weights give the same bits. What is on another kind of device is moved; codes
        that need no change are the checkpoint's own tensor.

        Args:
            weights: Canonical: uint8 [N, R16(K) / 2], e4m3 [N, R16(K) / 16], fp32 [1].
            config: Says N and K.
            device: Where they shall be.

        Returns:
            ``data`` uint8 [padded N, padded K / 2], ``scales`` e4m3 [R128(N), C4(padded K / 16)],
            the other tensors as they are, with ``alpha`` fp32 [1] = RN(g_x · g_w) where the layer
            has a g_x of its own, and a ``restore``.
        """
        here = moved(weights, device)
        n, k = config.n, config.k
        stored_k = round_up(k, GROUP)
        padded_n, padded_k = round_up(n, self.pad_n), round_up(k, self.pad_k)
        codes = self.order(padded(here.data, padded_n, padded_k // 2))
        data = aligned(codes, ALIGNMENT)
        grid = padded(as_bytes(here.scales), round_up(n, 128), round_up(padded_k // GROUP, 4))
        scales = as_e4m3(self.tile(grid))
        others = {name: t for name, t in here.named().items() if name not in ("data", "scales")}

        def restore() -> LinearWeights:
            rows = unpadded(self.unorder(data), n, stored_k // 2)
            columns = unpadded(self.untile(as_bytes(scales)), n, stored_k // GROUP)
            return LinearWeights(rows, as_e4m3(columns), **others)

        tensors = {"data": data, "scales": scales, **others}
        if here.input_global_scale is not None and here.global_scale is not None:
            tensors["alpha"] = alpha_of(here.input_global_scale, here.global_scale)
        return PreparedWeights(
            tensors=tensors,
            weight_layout=self.name,
            n=n,
            k=k,
            restore=restore,
            facts={"padded_n": padded_n, "padded_k": padded_k},
        )


def moved(weights: LinearWeights, device: DeviceProfile) -> LinearWeights:
    """Give the weights on the device; tensors that are on one of its kind are shared."""
    wanted = device.torch_name
    if not device.is_present or weights.data.device.type == wanted.partition(":")[0]:
        return weights
    return weights.to(wanted)


def _as_it_is(rows: torch.Tensor) -> torch.Tensor:
    return rows


TILED: Final = Form(
    "flashinfer:nvfp4_128x4",
    pad_n=32,
    pad_k=32,
    order=_as_it_is,
    unorder=_as_it_is,
    tile=swizzle_128x4,
    untile=unswizzle_128x4,
)

SHUFFLED: Final = Form(
    "flashinfer:nvfp4_trtllm",
    pad_n=128,
    pad_k=256,
    order=shuffled_rows,
    unorder=unshuffled_rows,
    tile=shuffled_scales,
    untile=unshuffled_scales,
)
