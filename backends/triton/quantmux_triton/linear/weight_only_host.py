"""The host's side of the linears that widen their weights: bind, warm up, compile ahead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

import torch

from quantmux.capability.arch import Arch
from quantmux.capability.detect import arch_facts, device_here
from quantmux.capability.device import DeviceProfile
from quantmux.errors import LayoutError
from quantmux.ops.checks import check_matrix
from quantmux.ops.quantized import DTYPES
from quantmux_triton.interpreter import interpreting
from quantmux_triton.launcher import Launcher, compiled_count
from quantmux_triton.linear.weight_only_bound import BoundLinear, stored_dtype
from quantmux_triton.linear.weight_only_config import M_CLASSES, Tile, tile_for
from quantmux_triton.linear.workspace import reserve

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from quantmux.config import LinearConfig
    from quantmux.ops.quantized import LinearWeights
    from quantmux.registry.protocol import CompiledCode, PreparedWeights

    Reader = Callable[[Any], tuple[tuple[torch.Tensor, ...], tuple[int, ...]]]

_ALIGNMENT: Final = 16
"""Bytes: what is loaded at a time."""


class WidenedLinear:
    """A consumer whose weights are widened to 16 bit on their way to the matrix unit.

    The device function of a subclass takes: the weights' tensors, x's tensors, the weights' global
    multiplier if there is one, bias, y, partial sums, counters, then the integers M, N, those of x
    (the distance of its rows first), y_stride, whole, shares.
    """

    function: ClassVar[Any]
    """The ``@triton.jit`` function."""

    stem: ClassVar[str]
    """Name of the file, under which tiles are measured."""

    row_bytes: ClassVar[int]
    """Bytes of weights and scales in a row of 256 columns."""

    x_integers: ClassVar[int] = 1
    """How many integers x has."""

    def weights_of(self, prepared: PreparedWeights) -> tuple[torch.Tensor, ...]:
        """Give the weights' tensors and the global multipliers apart from x's, in order."""
        raise NotImplementedError

    def reader(self, config: LinearConfig) -> Reader:
        """Give what checks x and gives its tensors and its integers."""
        raise NotImplementedError

    def numbers(self, config: LinearConfig) -> Mapping[str, Any]:
        """Give the constexprs that follow from the config alone."""
        raise NotImplementedError

    def stand_ins(self, config: LinearConfig) -> tuple[torch.dtype, ...]:
        """Give the dtypes of the tensors before ``bias``, in order."""
        raise NotImplementedError

    def kind(self, config: LinearConfig) -> str:
        """Give the kind under which tiles are measured."""
        raise NotImplementedError

    def bind(
        self, config: LinearConfig, prepared: PreparedWeights, device: DeviceProfile
    ) -> Callable[..., torch.Tensor]:
        """Give ``fn(x, *, out=None) -> y``, y [M, N] contiguous unless ``out`` is given.

        ``out`` may have rows farther apart.
        """
        return BoundLinear(self, config, prepared, device)

    def warmup(self, config: LinearConfig, ms: Sequence[int]) -> None:
        """Compile the variants of these M for the current GPU."""
        here = _current_device()
        if here is None:
            return
        if here.is_cuda:
            reserve(torch.device(here.torch_name))
        tiles = dict.fromkeys(self.tile(config, here, m) for m in ms if m > 0)
        for tile in tiles:
            self.launcher(config, tile).warm(*self._arguments(config))

    def compile_for(self, config: LinearConfig, arch: Arch) -> list[CompiledCode]:
        """Give the machine code of what the calls with every number of rows launch on ``arch``.

        Raises:
            BuildError: Triton refuses, or is not here.
        """
        there = DeviceProfile(name="there", title=str(arch), arch=arch, **arch_facts(arch))
        tiles = dict.fromkeys(self.tile(config, there, m) for m in M_CLASSES)
        arguments = self._arguments(config)
        return [self.launcher(config, tile).compile_for(arch, *arguments) for tile in tiles]

    def compiled_variants(self) -> int:
        """Give how many variants were compiled in this process."""
        return compiled_count(self.function)

    def declared_variants(self, config: LinearConfig) -> int:
        """Give how many variants a config may need: one a class of M."""
        del config
        return len(M_CLASSES)

    def tile(self, config: LinearConfig, device: DeviceProfile, m: int) -> Tile:
        """Give the tile for m tokens."""
        return tile_for(
            device,
            self.stem,
            self.kind(config),
            n=config.n,
            k=config.k,
            m=m,
            row_bytes=self.row_bytes,
        )

    def launcher(self, config: LinearConfig, tile: Tile) -> Launcher:
        """Give the launcher of a variant."""
        constexprs: dict[str, Any] = {
            "K": config.k,
            "X_IS_8": config.k % 8 == 0,
            "BN": tile.block_n,
            "BM": tile.block_m,
            "HAS_BIAS": config.bias,
            "IS_SHARED": tile.shares > 0,
            "PDL": tile.pdl,
            "PREFETCH": tile.prefetch,
            "PLAIN": interpreting(),
            **self.numbers(config),
        }
        if "JOINED" in self.function.arg_names:
            constexprs.setdefault("JOINED", tile.joined)
        options: dict[str, Any] = {
            "num_warps": tile.warps,
            "num_stages": tile.stages,
            "enable_fp_fusion": True,
        }
        if tile.registers:
            options["maxnreg"] = tile.registers
        if tile.pdl:
            options["launch_pdl"] = True
        return Launcher(self.function, constexprs, options)

    def _arguments(self, config: LinearConfig) -> tuple[Any, ...]:
        before = self.stand_ins(config)
        y = stored_dtype(config)
        integers = (1 for _ in range(5 + self.x_integers))
        return (*before, torch.float32, y, torch.float32, torch.int32, *integers)


def plain_reader(config: LinearConfig) -> Reader:
    """Give what checks a plain x [M, K] and gives it with the distance of its rows.

    Rows may lie apart. Where K is a multiple of 8 they must begin at multiples of 16 bytes, which
    decides how they are loaded.
    """
    k, dtype, wanted = config.k, config.in_dtype, DTYPES[config.in_dtype]
    multiple = 8 if k % 8 == 0 else 1

    def read(x: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], tuple[int, ...]]:
        if x.dim() != 2 or x.shape[1] != k or x.dtype is not wanted:
            check_matrix(x, k, dtype)
        row, column = x.stride()
        if x.shape[0] < 2:
            row = k
        if (column != 1 and k > 1) or row % multiple or x.data_ptr() % _ALIGNMENT:
            raise LayoutError(
                "rows of x need to be whole and to begin at multiples of 16 bytes",
                facts={
                    "strides": list(x.stride()),
                    "first byte": f"{x.data_ptr() % _ALIGNMENT} beyond a multiple of 16",
                },
                hint="pass x.contiguous()",
            )
        return (x,), (row,)

    return read


def at_home(weights: LinearWeights, device: DeviceProfile) -> LinearWeights:
    """Give the weights on the kind of device they are prepared for; those there are shared."""
    wanted = device.torch_name
    if not device.is_present or weights.data.device.type == wanted.partition(":")[0]:
        return weights
    return weights.to(wanted)


def _current_device() -> DeviceProfile | None:
    """Give the current GPU, the host in the interpreter, None without either."""
    if interpreting():
        return DeviceProfile(name="cpu", title="the interpreter", arch=Arch.parse("cpu"))
    if not torch.cuda.is_available():
        return None
    return device_here(torch.device("cuda", torch.cuda.current_device()))
