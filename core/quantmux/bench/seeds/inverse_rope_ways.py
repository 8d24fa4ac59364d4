"""The ways of launching inverse RoPE and quantization that are held against each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from quantmux.config import InverseRopeQuantizeConfig
from quantmux.ops.inverse_rope_quantize.reference import inverse_rope_quantize
from quantmux.ops.inverse_rope_quantize.spec import empty_grouped
from quantmux.runtime.binding import bind_producer

if TYPE_CHECKING:
    import torch

    from quantmux.capability.device import DeviceProfile
    from quantmux.ops.quantized import QuantizedTensor
    from quantmux.runtime.binding import BoundProducer
    from quantmux.runtime.context import Context

Call = Callable[["torch.Tensor", "torch.Tensor", "torch.Tensor", "QuantizedTensor"], object]
"""(o [T, H, 512], positions [T], cos_sin_cache [P, 64], out) → written into out."""

PINNED: Final[dict[str, tuple[str, ...]]] = {"before": (), "seed": ("num_tokens",)}
"""Way → arguments that Triton may not specialise on."""

TOKENS: Final = (1, 2, 7, 13, 16, 17, 33, 48, 100, 128, 500, 512, 1000, 1024, 4096)
"""T in the order in which traffic brings them: 1, multiples of 16, and neither."""

SHAPES: Final = ((64, 8), (8, 1))
"""(heads, groups) of DeepSeek-V4 Flash: whole, and one of eight tensor-parallel ranks."""

READY: Final = "ready"
"""What a process says that has set up and waits to be told to measure."""

HEAD_DIM: Final = 512
ROPE_DIM: Final = 64


def rope_config(heads: int, groups: int, head_dim: int = HEAD_DIM) -> InverseRopeQuantizeConfig:
    """Give the config: power-of-two scales per 128 columns, fp32, columns along the tokens."""
    return InverseRopeQuantizeConfig(
        heads=heads,
        head_dim=head_dim,
        rope_dim=ROPE_DIM,
        groups=groups,
        operand="fp8_group128_pow2",
        layout="col_major_aligned4",
    )


def one_head_call(config: InverseRopeQuantizeConfig, pinned: tuple[str, ...]) -> Call:
    """Give the launch of one head a program, its kernel decorated anew with what is pinned.

    Args:
        config: What is made; rows of scales along the tokens.
        pinned: Arguments that Triton may not specialise on.
    """
    import triton

    from quantmux.bench.seeds.inverse_rope_one_head_kernel import one_head

    kernel: Any = triton.jit(one_head, do_not_specialize=list(pinned))
    operand, heads, groups = config.operand, config.heads, config.groups

    def call(
        o: torch.Tensor, positions: torch.Tensor, cache: torch.Tensor, out: QuantizedTensor
    ) -> None:
        t = o.shape[0]
        if t == 0:
            return
        data, scales = out.data, out.scales
        rows = -(-t // 4) * 4
        kernel[(rows, heads)](
            o, positions, cache, data, scales, t,
            o.stride(0), o.stride(1), cache.stride(0),
            data.stride(1), data.stride(0), scales.stride(1), scales.stride(2),
            HEADS_OF_GROUP=heads // groups, D=config.head_dim, ROPE=config.rope_dim,
            GROUP=operand.block.cols, FMAX=operand.max_value, EPS=operand.eps,
            num_warps=1, num_stages=1,
        )  # fmt: skip

    return call


def reference_call(config: InverseRopeQuantizeConfig) -> Call:
    """Give the definition itself: stands in for a Triton kernel where there is no GPU."""
    return lambda o, positions, cache, out: inverse_rope_quantize(
        o, positions, cache, config, out=out
    )


def bound(
    config: InverseRopeQuantizeConfig, device: DeviceProfile, context: Context
) -> BoundProducer:
    """Give what selection takes here, bound."""
    return bind_producer(context.select(config, device), context=context)


def bound_call(producer: BoundProducer) -> Call:
    """Give the call of a bound producer that writes into ``out``."""
    run = producer.call
    return lambda o, positions, cache, out: run(o, positions, cache, out=out)


def new_out(
    config: InverseRopeQuantizeConfig, t: int, device: torch.device | str
) -> QuantizedTensor:
    """Allocate a result for t tokens."""
    return empty_grouped(config, t, device)
