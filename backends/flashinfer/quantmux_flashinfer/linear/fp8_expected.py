"""Times to expect of the FP8 linears, µs: they order the kernels of this backend, no others.

Fitted by hand to times in CUDA graphs with a cold L2 (one H200, 2026-11-21, FlashInfer 0.7.2.post1,
four shapes from 2112 x 7168 to 7168 x 2048, M = 1, 16, 64, 256 and 4096): within 30 %, the order of
the two block-scaled forms right at all of them. Other GPUs take the same numbers: there they only
tell launches apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LayerConfig

    Estimate = Callable[[LayerConfig, DeviceProfile, int], float]

_BYTES_US: Final = 2.5e6
"""What small products reach of the memory's rate."""

_TENSOR_FLOP_US: Final = 1.5e9
_BLOCK_FLOP_US: Final = 1.25e9
"""What large products reach, cuBLASLt's with one scale and DeepGEMM's with scales of blocks."""

_START_US: Final = 1.5
LAUNCH_US: Final = 1.5
"""A small kernel in front, such as the product of two scales."""

_QUANTIZE_US: Final = 2.2
_INSIDE_BYTES_US: Final = 2.0e6
_PRODUCER_BYTES_US: Final = 3.0e6
"""DeepGEMM's quantizer, and a good producer of another backend: 3 bytes an element either way."""


def tensor_us(extra: float = 0.0, factor: float = 1.0) -> Estimate:
    """Give the estimate of a product with one scale each.

    Args:
        extra: Launches in front, µs.
        factor: Against cuBLASLt's.
    """

    def expected(config: LayerConfig, device: DeviceProfile, m: int) -> float:
        del device
        return extra + factor * _product_us(config, m, _TENSOR_FLOP_US)

    return expected


def block_us(extra: float = 0.0) -> Estimate:
    """Give the estimate of a block-scaled product with the producer that it needs.

    Args:
        extra: Launches in front, µs.
    """

    def expected(config: LayerConfig, device: DeviceProfile, m: int) -> float:
        del device
        return (
            extra
            + 0.2
            + _product_us(config, m, _BLOCK_FLOP_US)
            + _quantizer_us(config, m, _PRODUCER_BYTES_US)
        )

    return expected


def inside_us(config: LayerConfig, device: DeviceProfile, m: int) -> float:
    """Give the estimate of a block-scaled product that quantizes x itself."""
    del device
    return _product_us(config, m, _BLOCK_FLOP_US) + _quantizer_us(config, m, _INSIDE_BYTES_US)


def _product_us(config: LayerConfig, m: int, flop_us: float) -> float:
    if config.op != "linear":
        return float("inf")
    n, k = config.n, config.k
    return _START_US + max((n * k + m * k + 2 * m * n) / _BYTES_US, 2 * m * n * k / flop_us)


def _quantizer_us(config: LayerConfig, m: int, bytes_us: float) -> float:
    return _QUANTIZE_US + 3 * m * config.k / bytes_us if config.op == "linear" else 0.0
