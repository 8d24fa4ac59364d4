"""cutlass/quantize_nvfp4 and …_dynamic: rows into NVFP4, in one launch or two."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.config import QuantizeConfig
from quantmux.errors import ConfigError
from quantmux_cutlass import native
from quantmux_cutlass.instructions import require_instruction
from quantmux_cutlass.quantize.bound import Bound
from quantmux_cutlass.quantize.nvfp4_config import choose
from quantmux_cutlass.quantize.units import NVFP4

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux.capability.arch import Arch
    from quantmux.capability.device import DeviceProfile
    from quantmux.config.layers import ProducerConfig
    from quantmux.ops.quantized import QuantizedTensor
    from quantmux.registry.protocol import CompiledCode


_CONVERTS: Final = r"F2FP\..*E2M1.*"
"""The instruction of sm_100 and sm_120."""


class NvFp4Quantize:
    """A kernel that makes NVFP4; see `quantmux.registry.protocol.Producer`.

    Attributes:
        pdl: Launches of functions bound from now on may overlap the end of the kernel before
            (docs/decisions/0010).
    """

    def __init__(self) -> None:
        self.pdl = True

    def bind(self, config: ProducerConfig, device: DeviceProfile) -> Callable[..., QuantizedTensor]:
        """Give ``fn(x, *, scale=None, global_scale=None, out=None)`` for x [M, n] of any strides.

        Rows that begin at multiples of 16 bytes and have no gaps between columns are read 16 bytes
        at a time, others element by element. The value of a given global scale is not looked at, as
        that would wait for the GPU.

        Raises:
            ConfigError: The config is of another op.
            BuildError: The library is not built (code ``not_built``) or is broken.
        """
        asked = _quantize_config(config)
        index = device.index or 0
        libraries = {index: native.opened((NVFP4,), device)[NVFP4]}

        def open_library(there: int) -> Any:
            found = libraries.get(max(there, 0))
            if found is None:
                found = libraries[there] = native.opened((NVFP4,), _device(there))[NVFP4]
            return found

        bound = Bound(asked, device, open_library, choose(asked, device, 1), pdl=self.pdl)
        if device.is_cuda:
            bound.plan(index)  # now, since a first call may come while a stream is captured
        return bound.function()

    def warmup(self, config: ProducerConfig, ms: Sequence[int]) -> None:
        """Open the library, which serves every config and M; without a GPU do nothing."""
        del ms
        _quantize_config(config)
        if torch.cuda.is_available():
            native.opened((NVFP4,), _device(torch.cuda.current_device()))

    def compile_for(self, config: ProducerConfig, arch: Arch) -> list[CompiledCode]:
        """Give the machine code of the library for ``arch``.

        Raises:
            BuildError: The compiler refuses or is not here, or the code for a GPU that converts to
                e2m1 by an instruction does it otherwise.
        """
        from quantmux_cutlass.compile_ahead import compiled

        _quantize_config(config)
        code = compiled(NVFP4, arch)
        return [code if code.target == "sm_90a" else require_instruction(code, _CONVERTS)]

    def compiled_variants(self) -> int:
        """Give how many libraries this process has opened, of all kernels of this backend."""
        return native.opened_count()

    def declared_variants(self, config: ProducerConfig) -> int:
        """Give how many libraries a config needs."""
        del config
        return 1


def _device(index: int) -> DeviceProfile:
    from quantmux.capability.detect import device_here

    return device_here(torch.device("cuda", index))


def _quantize_config(config: ProducerConfig) -> QuantizeConfig:
    if not isinstance(config, QuantizeConfig):
        raise ConfigError(f"a kernel of quantize was given {type(config).__name__}")
    return config


kernel: Final = NvFp4Quantize()
"""With a global scale that is given: one launch."""

dynamic: Final = NvFp4Quantize()
"""With one that is computed from x: two launches."""
