"""The small cases of a self-check: a layer's own config, shrunk as far as the kernel allows.

All that decides which code a kernel runs stays: scheme, operands, layouts, dtypes, bias, strides
of the output. Only extents shrink, to two blocks of each kind; a second case lies off the tile
where the kernel allows that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import lcm
from typing import TYPE_CHECKING, Any, Final

from quantmux.config.layers import (
    InverseRopeQuantizeConfig,
    LinearConfig,
    QuantizeConfig,
    RelayoutConfig,
    RopeQuantizeConfig,
)
from quantmux.config.layouts import Layout, padding_multiple, round_up
from quantmux.config.settings import Settings
from quantmux.dispatch.eligible import judge
from quantmux.dispatch.inventory import Inventory
from quantmux.dispatch.join import required_input
from quantmux.errors import ConfigError

if TYPE_CHECKING:
    from quantmux.capability.capability import Capability
    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LayerConfig, Operand
    from quantmux.registry.kernel_spec import KernelSpec

_WIDTH: Final = 64
"""Least N and K where blocks ask for no more."""

_ROWS: Final = (9, 35)
"""Rows of the two cases: a tail of tiles of 8, and of 32."""

_LADDER: Final = (1, 2, 4, 8, 16, 32)
"""How much larger than the least extents a kernel may ask for."""

_LARGEST: Final = 1 << 24
"""Elements of a weight, or of rows, beyond which a case is no longer small."""


@dataclass(frozen=True, slots=True)
class SmallCase:
    """One small case.

    Attributes:
        config: Config of the kernel's op.
        m: Rows.
        kind: What the inputs hold, a name of `quantmux.ops.inputs.KINDS`.
        reads: Quantized input of a linear, None where it takes a plain tensor.
    """

    config: LayerConfig
    m: int
    kind: str
    reads: QuantizeConfig | None = None

    @property
    def digest(self) -> str:
        """A short hash, the same for all layers that shrink to the same case."""
        reads = "" if self.reads is None else self.reads.digest()
        return f"{self.config.digest()}{reads}:{self.m}:{self.kind}"


def small_cases(
    spec: KernelSpec, config: LayerConfig, device: DeviceProfile, reads: QuantizeConfig | None
) -> tuple[SmallCase, ...]:
    """Give the cases that show whether a kernel computes what a layer asks of it; cached.

    Args:
        spec: The kernel.
        config: What it is bound to.
        device: Where.
        reads: Quantized input of a linear, None where it takes a plain tensor.

    Returns:
        Two cases; none where nothing small is legal, or where a plugin's own layout stands
        between it and the reference.
    """
    # a spec's equality leaves its veto out
    return _cases(spec, spec.veto, config, device, reads)


@lru_cache(maxsize=4096)
def _cases(
    spec: KernelSpec,
    veto: Any,  # noqa: ARG001 - a part of the key
    config: LayerConfig,
    device: DeviceProfile,
    reads: QuantizeConfig | None,
) -> tuple[SmallCase, ...]:
    if any(":" in layout.scales for layout in _layouts(config, reads)):
        return ()
    capability = spec.capability
    first, second = (_m(capability, rows) for rows in _ROWS)
    on_tile = next(_legal(spec, device, reads, first, _on_tile(capability, config, reads)), None)
    if on_tile is None:
        return ()
    off_tile = next(_legal(spec, device, reads, second, _off_tile(capability, on_tile)), on_tile)
    return (
        SmallCase(on_tile, first, "normal", _small_reads(capability, on_tile, reads)),
        SmallCase(off_tile, second, "outliers", _small_reads(capability, off_tile, reads)),
    )


def _layouts(config: Any, reads: QuantizeConfig | None) -> list[Layout]:
    if isinstance(config, RelayoutConfig):
        return [config.source, config.target]
    if isinstance(config, LinearConfig):
        return [] if reads is None else [reads.layout]
    return [config.layout]


def _m(capability: Capability, rows: int) -> int:
    """Give the least legal M from ``rows`` on, else the greatest one below."""
    multiple = capability.m_multiple
    m = round_up(max(rows, capability.m_min), multiple)
    if m % 8 == 0 and multiple == 1:
        m += 1  # a multiple of 8 has no tail
    if capability.m_max is not None and m > capability.m_max:
        m = max(capability.m_max // multiple * multiple, multiple)
    return m


def _legal(
    spec: KernelSpec,
    device: DeviceProfile,
    reads: QuantizeConfig | None,
    m: int,
    configs: Iterator[LayerConfig],
) -> Iterator[LayerConfig]:
    """Give those of the configs that the kernel serves and that are small."""
    inventory, settings = Inventory((spec,)), Settings()
    for config in configs:
        if _elements(config, m) > _LARGEST:
            continue
        if judge(spec, config, device, settings, inventory).rejections:
            continue
        if reads is None or _small_reads(spec.capability, config, reads) is not None:
            yield config


def _elements(config: LayerConfig, m: int) -> int:
    if isinstance(config, LinearConfig):
        return config.k * max(config.n, m)
    if isinstance(config, InverseRopeQuantizeConfig | RopeQuantizeConfig):
        return m * config.heads * config.head_dim
    return m * config.n


def _on_tile(
    capability: Capability, config: LayerConfig, reads: QuantizeConfig | None
) -> Iterator[LayerConfig]:
    """Give configs of growing extents, multiples of blocks and pads; the layer's own at last."""
    if isinstance(config, InverseRopeQuantizeConfig):
        yield from _few_heads(config)
        return
    if isinstance(config, RopeQuantizeConfig):
        # the width of a head and what of it is rotated decide which code runs
        yield config.replace(heads=min(config.heads, 3))
        yield config
        return
    for factor in _LADDER:
        if isinstance(config, LinearConfig):
            weight = config.scheme.weight.block
            tile = lcm(capability.align_n, capability.pad_n_to, capability.output_row_multiple)
            n = round_up(_blocks(weight.rows), tile)
            widths = [weight.cols] + ([] if reads is None else [reads.operand.block.cols])
            k = round_up(max(map(_blocks, widths)), lcm(capability.align_k, capability.pad_k_to))
            yield config.replace(out_features=n * factor, in_features=k * factor)
        else:
            n = round_up(_blocks(config.operand.block.cols), capability.align_k)
            yield from _of_width(config, n * factor)
    yield config


def _off_tile(capability: Capability, config: LayerConfig) -> Iterator[LayerConfig]:
    """Give configs a little wider than one on the tile: both extents, then one of them."""
    if isinstance(config, InverseRopeQuantizeConfig | RopeQuantizeConfig):
        return
    if not isinstance(config, LinearConfig):
        yield from _of_width(config, config.n + _step(capability.align_k))
        return
    n = config.n + _step(capability.align_n)
    k = config.k + _step(capability.align_k)
    for wider in ({"out_features": n, "in_features": k}, {"out_features": n}, {"in_features": k}):
        yield config.replace(**wider)


def _blocks(extent: int) -> int:
    """Give two blocks, where a block does not span everything."""
    return max(2 * extent, _WIDTH) if extent > 0 else _WIDTH


def _step(alignment: int) -> int:
    return alignment if alignment > 1 else 5


def _of_width(config: Any, n: int) -> Iterator[LayerConfig]:
    """Give a producer's or a relayout's config with another row width, padded as it was."""
    try:
        if isinstance(config, RelayoutConfig):
            source = _layout(config.source, config.operand, config.n, n)
            target = _layout(config.target, config.operand, config.n, n)
            yield config.replace(n=n, source=source, target=target)
        else:
            yield config.replace(n=n, layout=_layout(config.layout, config.operand, config.n, n))
    except ConfigError:
        return


def _layout(layout: Layout, operand: Operand, was: int, n: int) -> Layout:
    base = padding_multiple(operand)
    if layout.padded_n == was:
        return layout.replace(padded_n=round_up(n, 16) if operand.is_nvfp4 else n)
    # padded as coarsely as before: a kernel may count on it
    coarse = min(layout.padded_n & -layout.padded_n, 256)
    return layout.replace(padded_n=round_up(n + 1, lcm(base, coarse)))


def _few_heads(config: InverseRopeQuantizeConfig) -> Iterator[LayerConfig]:
    a_group = config.heads // config.groups
    for heads in sorted({min(a_group, 2), min(a_group, 4), a_group}):
        groups = min(config.groups, 2)
        yield InverseRopeQuantizeConfig(
            heads=heads * groups,
            head_dim=config.head_dim,
            rope_dim=config.rope_dim,
            groups=groups,
            operand=config.operand,
            layout=config.layout.scales,
            in_dtype=config.in_dtype,
        )
    yield config


def _small_reads(
    capability: Capability, config: LayerConfig, reads: QuantizeConfig | None
) -> QuantizeConfig | None:
    if reads is None or not isinstance(config, LinearConfig):
        return None
    return required_input(
        reads.operand,
        config.k,
        reads.layout.scales,
        capability.pad_k_to,
        capability.pad_m_to,
        config.in_dtype,
    )
