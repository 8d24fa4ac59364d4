"""flashinfer/silu_mul_quantize_nvfp4: silu(gate) · up of x [M, 2n] into NVFP4.

By ``silu_and_mul_nvfp4_quantize``, which is written in the CuTe DSL. It rounds the product to bf16
before it quantizes: by the definition that is an error, of up to 2^-9, which the capability
declares. Its global scale is the *encode* scale: G = RN(1 / g) is made here, one launch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.config import SiluMulQuantizeConfig
from quantmux.errors import ConfigError
from quantmux.ops.checks import check_matrix
from quantmux.ops.quantized import DTYPES
from quantmux_flashinfer.library.failures import LIBRARY_ERRORS, translate
from quantmux_flashinfer.library.functions import function
from quantmux_flashinfer.quantize.dry_run import dry_run
from quantmux_flashinfer.quantize.nvfp4_outputs import checked_scale, into, packed, without_rows
from quantmux_flashinfer.quantize.outputs import NvFp4Outputs
from quantmux_flashinfer.quantize.pieces import ALIGNMENT, in_one_piece
from quantmux_flashinfer.silu_mul_quantize.entries import SILU_MUL

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux.capability.device import DeviceProfile
    from quantmux.config.layers import ProducerConfig
    from quantmux.ops.quantized import QuantizedTensor


class SiluMulNvFp4:
    """The kernel; see `quantmux.registry.protocol.Producer`."""

    def bind(self, config: ProducerConfig, device: DeviceProfile) -> Callable[..., QuantizedTensor]:
        """Give ``fn(x, *, scale=None, global_scale, out=None)`` for x [M, 2n] = [gate | up].

        An x that does not lie in one piece is copied first. ``out`` costs copies: the library
        allocates what it gives.

        Raises:
            ConfigError: The config is of another op.
            BuildError: FlashInfer does not have it, or cannot be used here.
        """
        if not isinstance(config, SiluMulQuantizeConfig):
            raise ConfigError(f"a kernel of silu_mul_quantize was given {type(config).__name__}")
        entry = SILU_MUL
        call = function(entry, device)
        operand, layout, n = config.operand, config.layout, config.n
        dtype, width = DTYPES[config.in_dtype], 2 * n
        plain = (width, 1)
        outputs = NvFp4Outputs(operand, layout, n)
        fixed: dict[str, Any] = {
            "is_sf_swizzled_layout": layout.scales != "row_major",
            "is_sf_8x4_layout": layout.scales == "swizzled_8x4",
            "enable_pdl": False,
            # given, as the library else asks the environment for another way to choose scales
            "nvfp4_4over6": None,
        }

        def run(
            x: torch.Tensor,
            *,
            scale: torch.Tensor | None = None,
            global_scale: torch.Tensor | None = None,
            out: QuantizedTensor | None = None,
        ) -> QuantizedTensor:
            if x.dim() != 2 or x.shape[1] != width or x.dtype is not dtype:
                check_matrix(x, width, config.in_dtype)
            m, home, g = x.shape[0], x.device, global_scale
            if (
                g is None
                or scale is not None
                or g.shape != (1,)
                or g.dtype is not torch.float32
                or g.device != home
            ):
                g = checked_scale(operand, scale, g, home)
            if out is not None:
                outputs.require(out, m, home)
            if m == 0:
                return without_rows(outputs.new(0, home) if out is None else out, g)
            if x.stride() != plain or x.data_ptr() % ALIGNMENT:
                x = in_one_piece(x)
            try:
                codes, scales = call(input=x, global_scale=torch.reciprocal(g), **fixed)
            except LIBRARY_ERRORS as error:
                raise translate(error, entry) from error
            if out is None:
                return packed(codes, scales, g, operand, layout, (m, n))
            return into(out, codes, scales, g)

        return run

    def warmup(self, config: ProducerConfig, ms: Sequence[int]) -> None:
        """Call once per M on zeros: its code compiles once for every n."""
        dry_run(self, config, ms)


kernel: Final = SiluMulNvFp4()
