"""A layer bound to a linear that widens its weights: what a call does on the host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from quantmux.errors import InputError
from quantmux.ops.quantized import DTYPES
from quantmux_triton.interpreter import interpreting
from quantmux_triton.linear.outputs import checked_output
from quantmux_triton.linear.weight_only_config import m_class
from quantmux_triton.linear.workspace import reserve, split_workspace

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LinearConfig
    from quantmux.registry.protocol import PreparedWeights
    from quantmux_triton.launcher import Launcher
    from quantmux_triton.linear.weight_only_config import Tile
    from quantmux_triton.linear.weight_only_host import WidenedLinear


class _Plan(NamedTuple):
    """What calls of one class of M launch.

    Attributes:
        tile: How the product is cut up.
        launcher: Of the variant.
        tiles_n: Tiles along N.
        whole: Those that have a program each.
        programs: Programs for each tile of tokens.
        floats: Workspace for each tile of tokens.
    """

    tile: Tile
    launcher: Launcher
    tiles_n: int
    whole: int
    programs: int
    floats: int


class BoundLinear:
    """A layer bound to a kernel: ``fn(x, *, out=None) -> y``."""

    def __init__(
        self,
        kernel: WidenedLinear,
        config: LinearConfig,
        prepared: PreparedWeights,
        device: DeviceProfile,
    ) -> None:
        self._kernel, self._config, self._device = kernel, config, device
        self._weights = kernel.weights_of(prepared)
        self._multipliers = tuple(
            prepared.tensors[name] for name in ("global_scale",) if name in prepared.tensors
        )
        self._home = self._weights[0].device
        # stand in for what a variant does not read
        self._no_sums = torch.empty(4, dtype=torch.float32, device=self._home)
        self._no_counters = torch.empty(4, dtype=torch.int32, device=self._home)
        bias = prepared.tensors.get("bias") if config.bias else None
        self._bias = self._no_sums if bias is None else bias.to(torch.float32).contiguous()
        self._read = kernel.reader(config)
        self._out, self._stored = DTYPES[config.out_dtype], stored_dtype(config)
        self._n = config.n
        self._plans: dict[int, _Plan] = {}
        reserve(self._home)

    def __call__(self, x: Any, *, out: torch.Tensor | None = None) -> torch.Tensor:
        """Give y [M, N] for x [M, K]."""
        tensors, sizes = self._read(x)
        m, n, home = x.shape[0] if isinstance(x, torch.Tensor) else x.m, self._n, self._home
        if tensors[0].device != home:
            raise InputError(
                f"x is on {tensors[0].device}, the weights are on {home}", code="device"
            )
        if out is None:
            y = torch.empty((m, n), dtype=self._out, device=home)
        else:
            y = checked_output(out, m, n, self._out, home)
        if m == 0:
            return y
        if self._stored is self._out:
            self._launch(tensors, sizes, y, m)
            return y
        wide = torch.empty((m, n), dtype=self._stored, device=home)
        self._launch(tensors, sizes, wide, m)
        return y.copy_(wide)

    def _launch(
        self, tensors: tuple[torch.Tensor, ...], sizes: tuple[int, ...], y: torch.Tensor, m: int
    ) -> None:
        block_m = m_class(m)
        plan = self._plans.get(block_m)
        if plan is None:
            plan = self._plans[block_m] = self._plan(block_m)
        tile, n = plan.tile, self._n
        tiles_m = -(-m // tile.block_m)
        if tile.shares:
            partial, counters = split_workspace(
                self._home, tiles_m * plan.floats, tiles_m * plan.tiles_n
            )
        else:
            partial, counters = self._no_sums, self._no_counters
        plan.launcher(
            (tiles_m * plan.programs,),
            *self._weights,
            *tensors,
            *self._multipliers,
            self._bias,
            y,
            partial,
            counters,
            m,
            n,
            *sizes,
            y.stride(0) if m > 1 else n,
            plan.whole,
            tile.shares,
        )

    def _plan(self, block_m: int) -> _Plan:
        tile = self._kernel.tile(self._config, self._device, block_m)
        tiles_n = -(-self._n // tile.block_n)
        whole = tile.whole if tile.shares else tiles_n
        return _Plan(
            tile=tile,
            launcher=self._kernel.launcher(self._config, tile),
            tiles_n=tiles_n,
            whole=whole,
            programs=whole + tile.shares,
            floats=2 * tile.shares * tile.block_m * tile.block_n,
        )


def stored_dtype(config: LinearConfig) -> torch.dtype:
    """Give the dtype that the device function stores.

    The interpreter's cast to 16 bit cuts off (3.6 and 3.9); torch rounds what it gives in fp32.
    """
    return torch.float32 if interpreting() else DTYPES[config.out_dtype]
