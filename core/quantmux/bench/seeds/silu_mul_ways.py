"""Ways to quantize silu(gate) · up in groups: what was done before, and what vllm#32996 does.

Each is a function of x [M, 2n] = [gate | up], contiguous, that allocates its result as a layer does
and gives it with row-major scales. On a CPU the Triton kernels are stood in for by torch, and
nothing is compiled: that proves the plumbing, and no figure.
"""

from __future__ import annotations

from types import FunctionType
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.nn import functional

from quantmux.bench.seeds.silu_mul_launch import Launch
from quantmux.ops.numerics import saturating_cast
from quantmux.ops.quantized import QuantizedTensor
from quantmux.ops.silu_mul_quantize.reference import silu_mul

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantmux.config import SiluMulQuantizeConfig

    Way = Callable[[torch.Tensor], QuantizedTensor]

SEED_LEAST_SCALE: Final = 1.0 / (448.0 * 512.0)
"""What the seed floors scales at; the op floors amax, at 1e-10."""

_BLOCK: Final = 1024
"""Columns of a program of the product kernel: 4 warps of 8 elements a lane."""

_WARP: Final = 32


def torch_pair(config: SiluMulQuantizeConfig, quantize: Way) -> Way:
    """Give ``quantize(silu(gate) * up)`` in torch's eager operations: three kernels.

    Args:
        config: Of the fused op.
        quantize: Quantizes the product [M, n].
    """
    n = config.n

    def run(x: torch.Tensor) -> QuantizedTensor:
        return quantize(functional.silu(x[:, :n]) * x[:, n:])

    return run


def two_kernels(config: SiluMulQuantizeConfig, quantize: Way) -> Way:
    """Give one kernel that makes the product in 16 bit, and the quantization of it."""
    n = config.n
    product = _product(n)

    def run(x: torch.Tensor) -> QuantizedTensor:
        return quantize(product(x))

    return run


def compiled_pair(config: SiluMulQuantizeConfig, *, backend: str = "inductor") -> Way:
    """Give silu·mul and the quantization written in plain torch, through torch.compile.

    One graph serves every M, as a host compiles its model.

    Args:
        config: Of the fused op.
        backend: Of torch.compile.
    """
    n, width = config.n, config.operand.block.cols
    eps, limit = config.operand.eps, config.operand.max_value

    def formula(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        product = functional.silu(x[:, :n]) * x[:, n:]
        groups = product.view(-1, n // width, width).to(torch.float32)
        scales = groups.abs().amax(dim=2).clamp(min=eps) / limit
        codes = (groups / scales.unsqueeze(2)).clamp(-limit, limit).to(torch.float8_e4m3fn)
        return codes.flatten(1), scales

    # Code and a name of its own. dynamo keeps all graphs of one code in one list, which every call
    # walks, and takes for dynamic whatever has changed between graphs of one name: that would be n.
    # Compiled so, 2048x14336 took three kernels and 290 µs in the place of one (H200, 2026-11-21).
    own: Any = FunctionType(
        formula.__code__.replace(co_name=f"silu_mul_{n}_{width}_{config.in_dtype}"),
        formula.__globals__,
        None,
        None,
        formula.__closure__,
    )
    graph: Any = torch.compile(own, backend=backend, fullgraph=True)
    seen: set[torch.dtype] = set()

    def run(x: torch.Tensor) -> QuantizedTensor:
        if x.dtype not in seen:
            seen.add(x.dtype)
            torch._dynamo.mark_dynamic(x, 0)  # noqa: SLF001 - its documented, only name
        return _wrap(config, *graph(x))

    return run


def seed(config: SiluMulQuantizeConfig) -> Way:
    """Give the fused kernel of the seed's semantics: see `silu_mul_seed_kernel`."""
    n, width = config.n, config.operand.block.cols
    limit = config.operand.max_value
    launch: Launch | None = None

    def run(x: torch.Tensor) -> QuantizedTensor:
        nonlocal launch
        if not x.is_cuda:
            return _wrap(config, *seed_in_torch(x, width, limit))
        if launch is None:
            from quantmux.bench.seeds.silu_mul_seed_kernel import silu_mul_seed_kernel

            constants = {"G": width, "FMAX": limit, "LEAST": SEED_LEAST_SCALE}
            launch = Launch(silu_mul_seed_kernel, constants, width // _WARP)
        m, groups = x.shape[0], n // width
        codes = torch.empty((m, n), dtype=torch.float8_e4m3fn, device=x.device)
        scales = torch.empty((m, groups), dtype=torch.float32, device=x.device)
        launch((m, groups, 1), x, codes, scales, n)
        return _wrap(config, codes, scales)

    return run


def seed_in_torch(x: torch.Tensor, width: int, limit: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Give codes [M, n] and scales [M, n / width] by the seed's semantics, in plain torch.

    Args:
        x: [M, 2n].
        width: Columns of a group.
        limit: Largest magnitude of a code.
    """
    groups = silu_mul(x).view(x.shape[0], -1, width)
    # tensors, not numbers: dividing by a number of the host rounds differently on a GPU
    top, least = (torch.tensor(v, device=x.device) for v in (limit, SEED_LEAST_SCALE))
    scales = torch.maximum(groups.abs().amax(dim=2) / top, least)
    quotient = groups / scales.unsqueeze(2)
    return saturating_cast(quotient, torch.float8_e4m3fn).flatten(1), scales


def _product(n: int) -> Callable[[torch.Tensor], torch.Tensor]:
    launch: Launch | None = None
    across = -(-n // _BLOCK)

    def run(x: torch.Tensor) -> torch.Tensor:
        nonlocal launch
        if not x.is_cuda:
            return silu_mul(x).to(x.dtype)
        if launch is None:
            from quantmux.bench.seeds.silu_mul_product_kernel import silu_mul_product_kernel

            launch = Launch(silu_mul_product_kernel, {"BLOCK": _BLOCK}, _BLOCK // 256)
        made = torch.empty((x.shape[0], n), dtype=x.dtype, device=x.device)
        launch((x.shape[0], across, 1), x, made, n)
        return made

    return run


def _wrap(
    config: SiluMulQuantizeConfig, codes: torch.Tensor, scales: torch.Tensor
) -> QuantizedTensor:
    return QuantizedTensor(
        codes, scales, None, config.operand, config.layout, (codes.shape[0], config.n)
    )
