"""Expected times of FP8 products: they order this backend's kernels where nothing is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LayerConfig

_COPY_GB_S: Final = 4000.0
_FP8_TFLOPS: Final = 1900.0
_SMS: Final = 132

_STARTED_US: Final = 3.0
"""Launch, first loads and last stores: what small layers take beyond their bytes (same run)."""

_SHARE_OF_COPY: Final = 0.75
_SHARE_OF_FLOPS: Final = 0.7
_MOSTLY_EMPTY: Final = 1.1
"""What a tile of 128 rows costs a stream of weights whose tokens fill a part of it."""

_TILE: Final = 128
_SM_GB_S: Final = 90.0
"""What the loads of one SM bring: a tile of 128 channels over K = 7168 took 14.2 µs at 16 tokens
(triton/linear_fp8, H200, cold L2, 2026-11-21)."""


def few_tokens_us(config: LayerConfig, device: DeviceProfile, m: int) -> float:
    """Give µs for a kernel that reads the weights with all of the GPU, and computes beside it."""
    if config.op != "linear":
        return float("inf")
    n, k = config.n, config.k
    moved = n * k + m * (k + 2 * n)
    return _STARTED_US + moved / ((device.copy_gb_s or _COPY_GB_S) * _SHARE_OF_COPY * 1e3)


def many_tokens_us(config: LayerConfig, device: DeviceProfile, m: int) -> float:
    """Give µs for a kernel of one program a tile of 128 × 128, over all of K."""
    if config.op != "linear":
        return float("inf")
    n, k = config.n, config.k
    tiles = -(-m // _TILE) * -(-n // _TILE)
    waves = -(-tiles // (device.sm_count or _SMS))
    loads = waves * k * (min(m, _TILE) + _TILE) / (_SM_GB_S * 1e3)
    flops = 2.0 * m * n * k / ((device.fp8_tflops or _FP8_TFLOPS) * _SHARE_OF_FLOPS * 1e6)
    least = _MOSTLY_EMPTY * few_tokens_us(config, device, m)
    return max(least, _STARTED_US + max(loads, flops))
