"""flashinfer/rope_quantize_fp8_tensor: RoPE into FP8 with one scale, by ``rope_quantize_fp8``.

All heads go in as queries, with no key head beside them: a key's part would only cost a second
scale. The parts of a head, rotated and not, are views of one input and one output, whose strides
the library honours (H200, 2026-11-21, bit-equal in six forms). Its scale is a number that it
multiplies by, 1 / s, which differs from the division next to ties: the kernel is ``approximate``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from quantmux.config import RopeQuantizeConfig
from quantmux.errors import ConfigError, LayoutError
from quantmux.ops.quantized import DATA_DTYPES, DTYPES, QuantizedTensor
from quantmux.ops.rope import check_rope_inputs
from quantmux.ops.rope_quantize.reference import given_scale
from quantmux_flashinfer.library.failures import LIBRARY_ERRORS, translate
from quantmux_flashinfer.library.functions import function
from quantmux_flashinfer.quantize.dry_run import dry_run
from quantmux_flashinfer.quantize.outputs import require_scaled_out
from quantmux_flashinfer.rope_quantize.entries import ROPE
from quantmux_flashinfer.rope_quantize.parts import Parts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux.capability.device import DeviceProfile
    from quantmux.config.layers import ProducerConfig

_LOADED: Final = 15
"""Bytes of a vector, as a mask: x, its strides and the output must be multiples of 16 bytes."""


class RopeFp8:
    """The kernel; see `quantmux.registry.protocol.Producer`."""

    def bind(self, config: ProducerConfig, device: DeviceProfile) -> Callable[..., QuantizedTensor]:
        """Give ``fn(x, positions, cos_sin_cache, *, scale=None, out=None)``.

        x [T, heads, head_dim] may be heads within a wider row. One whose heads do not begin at
        multiples of 16 bytes is copied first, and so are positions or a cache with gaps. Each
        result holds a scale of its own, which is a launch of its own.

        Raises:
            ConfigError: The config is of another op, or has no ``static_scale``.
            BuildError: FlashInfer does not have it, or cannot be used here.
            NotBuiltError: Its module is being compiled.
        """
        if not isinstance(config, RopeQuantizeConfig) or config.static_scale is None:
            raise ConfigError(f"rope_quantize with static_scale is asked for, found {config}")
        entry = ROPE
        call = function(entry, device)
        operand, layout, is_neox = config.operand, config.layout, not config.interleaved
        heads, dim, static_scale = config.heads, config.head_dim, config.static_scale
        inverse = 1.0 / static_scale
        dtype, made_dtype = DTYPES[config.in_dtype], DATA_DTYPES[operand.element]
        cache_width = config.rope_dim
        parts = Parts(config, dtype, made_dtype)
        nothing, sizes, is_first = parts.nothing, parts.sizes, parts.is_first
        empty, full = torch.empty, torch.full

        def run(
            x: torch.Tensor,
            positions: torch.Tensor,
            cos_sin_cache: torch.Tensor,
            *,
            scale: torch.Tensor | None = None,
            out: QuantizedTensor | None = None,
        ) -> QuantizedTensor:
            home, extents, held = x.device, x.shape, cos_sin_cache.shape
            if (
                len(extents) != 3
                or extents[1] != heads
                or extents[2] != dim
                or x.dtype is not dtype
                or positions.dim() != 1
                or positions.numel() != extents[0]
                or positions.dtype is not torch.int64
                or positions.device != home
                or len(held) != 2
                or held[1] != cache_width
                or cos_sin_cache.dtype is not torch.float32
                or cos_sin_cache.device != home
            ):
                check_rope_inputs(
                    x, positions, cos_sin_cache, config, name="x", reads_positions=False
                )
            if scale is not None:
                given_scale(scale, config, home)
            t = extents[0]
            if out is None:
                shape = (t, heads, dim)
                data = empty(shape, dtype=made_dtype, device=home)
                scales = full((1,), static_scale, dtype=torch.float32, device=home)
                out = QuantizedTensor(data, scales, None, operand, layout, shape)
            else:
                require_scaled_out(out, operand, layout, (t, heads, dim), made_dtype, home, None)
                data = out.data
                out.scales.fill_(static_scale)
            if t == 0:
                return out
            token, head, column = x.stride()
            if column != 1 or (x.data_ptr() | 2 * token | 2 * head) & _LOADED:
                x = empty(x.shape, dtype=dtype, device=home).copy_(x)
            if not positions.is_contiguous():
                positions = positions.contiguous()
            if not cos_sin_cache.is_contiguous() or cos_sin_cache.data_ptr() & _LOADED:
                cos_sin_cache = cos_sin_cache.clone(memory_format=torch.contiguous_format)
            if data.data_ptr() & _LOADED:
                raise _off_vectors(data)
            none = nothing(t, home)
            if sizes is None:
                rotated, plain, rotated_out, plain_out = x, none.q_nope, data, none.q_nope_out
            elif is_first:
                rotated, plain = x.split_with_sizes(sizes, -1)
                rotated_out, plain_out = data.split_with_sizes(sizes, -1)
            else:
                plain, rotated = x.split_with_sizes(sizes, -1)
                plain_out, rotated_out = data.split_with_sizes(sizes, -1)
            try:
                call(
                    rotated,
                    none.k_rope,
                    plain,
                    none.k_nope,
                    cos_sin_cache,
                    positions,
                    is_neox,
                    made_dtype,
                    inverse,
                    inverse,
                    rotated_out,
                    none.k_rope_out,
                    plain_out,
                    none.k_nope_out,
                    False,  # no launch before the kernel ahead of it has ended
                )
            except LIBRARY_ERRORS as error:
                raise translate(error, entry) from error
            return out

        return run

    def warmup(self, config: ProducerConfig, ms: Sequence[int]) -> None:
        """Call once per T on zeros: the module loads outside of a capture."""
        dry_run(self, config, ms)


def _off_vectors(data: torch.Tensor) -> LayoutError:
    return LayoutError(
        "out needs to begin at a multiple of 16 bytes",
        facts={"found": f"{data.data_ptr() & _LOADED} bytes after one"},
    )


kernel: Final = RopeFp8()
