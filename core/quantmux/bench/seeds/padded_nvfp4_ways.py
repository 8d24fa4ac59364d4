"""Ways to quantize x [M, n] to NVFP4 in rows of padded_n: as it was, as vllm#42774 has it, ours.

All of them run the kernels that quantmux selects, so what differs is the padding and nothing else.
Each way is a function of x and of the global scale that gives the matrix in the padded layout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch.nn.functional import pad

from quantmux.config.layouts import scale_shape
from quantmux.errors import LayoutError
from quantmux.ops.quantized import QuantizedTensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantmux.bench.seeds.stage import Stage
    from quantmux.config import QuantizeConfig
    from quantmux.runtime.binding import BoundProducer

    Way = Callable[[torch.Tensor, torch.Tensor], QuantizedTensor]

ZEROED: Final = "swizzled_128x4"
"""The layout whose scales were allocated as zeros: the kernel did not write all of the tiles."""

NOT_BY_SEED: Final = "swizzled_8x4"

SEED_REFUSES: Final = (
    'the seed raises ValueError("padded_n is not supported with TRTLLM 8x4 scale layout.")'
)


def unpadded(config: QuantizeConfig) -> QuantizeConfig:
    """Give the config without its padding: what was quantized before it was padded."""
    return config.replace(layout=config.layout.replace(padded_n=config.n))


def pad_afterwards(config: QuantizeConfig, bound: BoundProducer) -> Way:
    """Give: quantize to [M, n / 2], then copy into rows of padded_n / 2.

    Codes are padded by ``torch.nn.functional.pad``: a fill and a copy. Row-major scales are, too;
    swizzled scales lie in whole tiles, and both widths need the same ones.

    Args:
        config: With the padding.
        bound: Of `unpadded`.

    Raises:
        LayoutError: The padded width takes more tiles of scales.
    """
    if not shares_tiles(config):
        raise LayoutError(
            "padding the codes alone does not give the padded matrix",
            facts={"need": "as many tiles of scales with the padding", "found": str(config)},
            hint="pad to the next multiple of 32",
        )
    more = config.padded_n - config.n
    codes, groups = (0, more // 2), (0, more // 16)
    is_row_major = config.layout.scales == "row_major"
    zeroed = _Zeroed(bound) if config.layout.scales == ZEROED else None
    call, operand, layout, n = bound.call, config.operand, config.layout, config.n

    def run(x: torch.Tensor, global_scale: torch.Tensor) -> QuantizedTensor:
        out = None if zeroed is None else zeroed.output(x, global_scale)
        q = call(x, global_scale=global_scale, out=out)
        scales = q.scales
        if is_row_major:
            scales = pad(scales.view(torch.uint8), groups).view(scales.dtype)
        data = pad(q.data, codes)
        return QuantizedTensor(data, scales, q.global_scale, operand, layout, (x.shape[0], n))

    return run


def pad_in_kernel(config: QuantizeConfig, bound: BoundProducer) -> Way:
    """Give the seed's way: the kernel writes rows of padded_n, into scales that were zeroed first.

    Zeroed where the layout is `ZEROED`; row-major scales are written by the kernel alone, which
    makes it the same call as ours.

    Args:
        config: With the padding.
        bound: Of the same config.
    """
    if config.layout.scales != ZEROED:
        return written_whole(bound)

    call, zeroed = bound.call, _Zeroed(bound)

    def run(x: torch.Tensor, global_scale: torch.Tensor) -> QuantizedTensor:
        out = zeroed.output(x, global_scale)
        q: QuantizedTensor = call(x, global_scale=global_scale, out=out)
        return q

    return run


def written_whole(bound: BoundProducer) -> Way:
    """Give ours: one kernel writes every byte of the padded extents, of codes and of scales."""
    call = bound.call

    def run(x: torch.Tensor, global_scale: torch.Tensor) -> QuantizedTensor:
        q: QuantizedTensor = call(x, global_scale=global_scale)
        return q

    return run


def before_of(config: QuantizeConfig, stage: Stage) -> tuple[Way, BoundProducer]:
    """Give the way of before, newly bound, and what it is made of."""
    bound = stage.producer(unpadded(config))
    return pad_afterwards(config, bound), bound


def seed_of(config: QuantizeConfig, stage: Stage) -> tuple[Way, BoundProducer]:
    """Give the way of the seed, newly bound."""
    bound = stage.producer(config)
    return pad_in_kernel(config, bound), bound


def ours_of(config: QuantizeConfig, stage: Stage) -> tuple[Way, BoundProducer]:
    """Give our way, newly bound."""
    bound = stage.producer(config)
    return written_whole(bound), bound


def shares_tiles(config: QuantizeConfig) -> bool:
    """Tell whether swizzled scales lie in the same tiles with the padding and without."""
    narrow = unpadded(config)
    if config.layout.scales == "row_major":
        return True
    return scale_shape(config.operand, config.layout, 1) == scale_shape(
        narrow.operand, narrow.layout, 1
    )


class _Zeroed:
    """Outputs whose scales are zeros, filled as 32-bit words.

    What is no part of the way is taken once for each M, from an output that the kernel made: its
    shapes, its very layout, by which the kernel knows an output at once, and the tensor that it
    writes the global scale to, which the seed does not have. So a call allocates codes and zeros,
    and its host time is not of our wrapping.

    Args:
        bound: What writes into them.
    """

    def __init__(self, bound: BoundProducer) -> None:
        self._bound = bound
        self._kept: dict[int, QuantizedTensor] = {}

    def output(self, x: torch.Tensor, global_scale: torch.Tensor) -> QuantizedTensor:
        """Give one for x [M, n]; the first for an M runs the kernel."""
        m = x.shape[0]
        like = self._kept.get(m)
        if like is None:
            like = self._kept[m] = self._bound.call(x, global_scale=global_scale)
        rows, columns = like.scales.shape
        scales = torch.zeros((rows, columns // 4), dtype=torch.int32, device=x.device)
        return QuantizedTensor(
            torch.empty_like(like.data),
            scales.view(torch.float8_e4m3fn),
            like.global_scale,
            like.operand,
            like.layout,
            like.logical_shape,
        )
