"""Inverse RoPE with one program of one warp per token and head, as a call of the op.

The kernel is that of `device/inverse_rope_variants.py`: the grid of vllm#42849 in our own writing.
"""

from __future__ import annotations

from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import triton

from quantmux.ops.inverse_rope_quantize.spec import empty_grouped

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from quantmux.config import InverseRopeQuantizeConfig
    from quantmux.ops.quantized import QuantizedTensor

_FILE = Path(__file__).parent / "device" / "inverse_rope_one_head_kernel.py"


def one_warp_per_head(config: InverseRopeQuantizeConfig) -> Callable[..., QuantizedTensor]:
    """Give the op of a config with `col_major_aligned4` scales: (o, positions, cache) → result."""
    spec: Any = util.spec_from_file_location(_FILE.stem, _FILE)
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    kernel: Any = triton.jit(module.one_head, do_not_specialize=["num_tokens"])

    def run(o: torch.Tensor, positions: torch.Tensor, cache: torch.Tensor) -> QuantizedTensor:
        tokens, rows = o.shape[0], -(-o.shape[0] // 4) * 4
        q = empty_grouped(config, tokens, o.device)
        kernel[(rows, config.heads)](
            o,
            positions,
            cache,
            q.data,
            q.scales,
            tokens,
            config.heads // config.groups,
            *o.stride()[:2],
            *(q.data.stride(1), q.data.stride(0)),
            *(q.scales.stride(1), q.scales.stride(0), q.scales.stride(2)),
            config.operand.eps,
            D=config.head_dim,
            ROPE_DIM=config.rope_dim,
            WIDTH=config.operand.block.cols,
            num_warps=1,
            num_stages=1,
        )
        return q

    return run
