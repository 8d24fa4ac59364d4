"""What the quantizer's library must compute before anything is computed with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from quantmux.config import QuantizeConfig
from quantmux.config.layouts import Layout
from quantmux.ops.quantize.reference import quantize
from quantmux.ops.quantized import DTYPES
from quantmux_cutlass.linear.choice import Choice
from quantmux_cutlass.quantize.bound import Bound
from quantmux_cutlass.quantize.nvfp4_abi import IN_DTYPES, LAYOUTS
from quantmux_cutlass.quantize.units import NVFP4

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux.config.formats import Dtype
    from quantmux.ops.quantized import QuantizedTensor
    from quantmux_cutlass.build.library import Library

_M: Final = 130
_N: Final = 112
"""Rows that begin at multiples of 16 bytes and whole blocks, so that the short way is taken too."""
_PADDED_N: Final = 128
_POISON: Final = 0xA5
_OPTIONS: Final = ((0, 0), (11, 257))
"""As few rows are made, and as many are: programs that go down four tiles and read ahead."""


def nvfp4(library: Library, device_index: int) -> str | None:
    """Prove the library on a GPU; None if it is right, else what is not."""
    from quantmux.capability.detect import device_here

    return disagreement(library, device_here(torch.device("cuda", device_index)))


def disagreement(library: Library, device: DeviceProfile) -> str | None:
    """Compare every layout and input format, g given and computed, with the reference, to the bit.

    Args:
        library: The library.
        device: Where it computes.

    Returns:
        None if all are equal, else a sentence about the first that is not.
    """
    home = torch.device("cuda", device.index or 0) if device.is_cuda else torch.device("cpu")
    drawn = torch.randn(_M, _N, generator=torch.Generator().manual_seed(17))
    dtypes: tuple[Dtype, ...] = ("bf16", "fp16", "fp32")
    for place, scales in enumerate(LAYOUTS):
        in_dtype = dtypes[place % len(IN_DTYPES)]
        x = drawn.to(device=home, dtype=DTYPES[in_dtype])
        for operand, g in (("nvfp4", None), ("nvfp4_static", torch.full((1,), 0.01, device=home))):
            config = QuantizeConfig(
                operand=operand,
                n=_N,
                layout=Layout(scales=scales, padded_n=_PADDED_N, padded_m_multiple=4),
                in_dtype=in_dtype,
            )
            want = quantize(x, config, global_scale=g)
            for options in _OPTIONS:
                choice = Choice(NVFP4, options)
                run = Bound(config, device, lambda _index: library, choice).function()
                made = run(x, global_scale=g)
                made.data.fill_(_POISON)
                made.scales.view(torch.uint8).fill_(_POISON)
                what = _difference(run(x, global_scale=g, out=made), want)
                if what:
                    return f"{what} of {operand} from {in_dtype}, {scales}, are not the reference's"
    return None


def _difference(made: QuantizedTensor, want: QuantizedTensor) -> str:
    """Name what of two outputs differs, nothing if they are equal."""
    pairs = {
        "codes": (made.data, want.data),
        "scales": (made.scales.view(torch.uint8), want.scales.view(torch.uint8)),
        "global scale": (made.global_scale, want.global_scale),
    }
    for what, (a, b) in pairs.items():
        if a is None or b is None or not torch.equal(a, b):
            return what
    return ""
