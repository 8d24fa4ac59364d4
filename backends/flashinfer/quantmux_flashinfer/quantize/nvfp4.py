"""flashinfer/quantize_nvfp4 and …_cute_dsl: x [M, n] into NVFP4 with a given global scale.

By ``fp4_quantize``, whose global scale is the *encode* scale G = 1 / g. The CUDA form takes g
itself with ``is_global_scale_inversed`` and inverts it by an instruction that is off by an ulp; the
CuTe form takes no notice of that flag, so G = RN(1 / g) is made here, one launch more. Both
multiply by approximate reciprocals where the definition divides, and lose NaN: their kernels are
tagged so.

On sm90 these functions return memory as they found it, without an error (H200, 2026-11-21: 100 %
of the codes). Nothing here looks at the architecture: the capability does, and the first-use check.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.config import QuantizeConfig
from quantmux.errors import ConfigError
from quantmux.ops.checks import check_matrix
from quantmux.ops.quantized import DTYPES
from quantmux_flashinfer.library.failures import LIBRARY_ERRORS, translate
from quantmux_flashinfer.library.functions import function
from quantmux_flashinfer.quantize.dry_run import dry_run
from quantmux_flashinfer.quantize.nvfp4_entries import CUDA, CUTE_DSL
from quantmux_flashinfer.quantize.nvfp4_outputs import checked_scale, into, packed, without_rows
from quantmux_flashinfer.quantize.outputs import NvFp4Outputs
from quantmux_flashinfer.quantize.pieces import ALIGNMENT, in_one_piece

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux.capability.device import DeviceProfile
    from quantmux.config.layers import ProducerConfig
    from quantmux.ops.quantized import QuantizedTensor
    from quantmux_flashinfer.entries import Entry


class NvFp4Quantize:
    """A quantizer of one of the library's back ends."""

    def __init__(self, entry: Entry, *, inverts: bool) -> None:
        """Say what is called.

        Args:
            entry: ``fp4_quantize`` with a back end.
            inverts: It takes g and inverts it itself.
        """
        self.entry = entry
        self._inverts = inverts

    def bind(self, config: ProducerConfig, device: DeviceProfile) -> Callable[..., QuantizedTensor]:
        """Give ``fn(x, *, scale=None, global_scale, out=None)`` for x [M, n].

        An x that does not lie in one piece is copied first. ``out`` costs copies: the library
        allocates what it gives. The value of the global scale is not looked at.

        Raises:
            ConfigError: The config is of another op.
            BuildError: FlashInfer does not have it, or cannot be used here.
            NotBuiltError: Its module is being compiled.
        """
        if not isinstance(config, QuantizeConfig):
            raise ConfigError(f"a kernel of quantize was given {type(config).__name__}")
        entry, inverts = self.entry, self._inverts
        call = function(entry, device)
        operand, layout, n = config.operand, config.layout, config.n
        dtype, plain = DTYPES[config.in_dtype], (n, 1)
        outputs = NvFp4Outputs(operand, layout, n)
        fixed: dict[str, Any] = {
            "is_sf_swizzled_layout": layout.scales != "row_major",
            "is_sf_8x4_layout": layout.scales == "swizzled_8x4",
            "enable_pdl": False,
            "backend": entry.backend,
            # given, as the library else asks the environment for another way to choose scales
            "nvfp4_4over6": None,
        }
        if inverts:
            fixed["is_global_scale_inversed"] = True

        def run(
            x: torch.Tensor,
            *,
            scale: torch.Tensor | None = None,
            global_scale: torch.Tensor | None = None,
            out: QuantizedTensor | None = None,
        ) -> QuantizedTensor:
            if x.dim() != 2 or x.shape[1] != n or x.dtype is not dtype:
                check_matrix(x, n, config.in_dtype)
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
                codes, scales = call(
                    input=x, global_scale=g if inverts else torch.reciprocal(g), **fixed
                )
            except LIBRARY_ERRORS as error:
                raise translate(error, entry) from error
            if out is None:
                return packed(codes, scales, g, operand, layout, (m, n))
            return into(out, codes, scales, g)

        return run

    def warmup(self, config: ProducerConfig, ms: Sequence[int]) -> None:
        """Call once per M on zeros: modules load, and tiles compile, outside of a capture."""
        dry_run(self, config, ms)


kernel: Final = NvFp4Quantize(CUDA, inverts=True)
cute_dsl: Final = NvFp4Quantize(CUTE_DSL, inverts=False)
