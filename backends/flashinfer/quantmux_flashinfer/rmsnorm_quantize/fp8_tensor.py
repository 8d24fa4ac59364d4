"""flashinfer/rmsnorm_quantize_fp8_tensor: RMSNorm into FP8 with one scale, by ``rmsnorm_quant``.

The library multiplies by 1 / s where the definition divides, takes the root of the mean by an
approximate instruction, and clamps in a way that turns NaN into the greatest number: the kernel is
tagged ``approximate`` and ``finite_only``. On an H200 (2026-11-21) it was bit-equal on random rows.

Its rows are found with 32-bit offsets, which wrap around from 2^32 elements on, and it loads as
many elements at once as divide n: both are looked after here.
"""

from __future__ import annotations

import sys
from math import gcd
from typing import TYPE_CHECKING, Final, cast

import torch

from quantmux.config import RmsNormQuantizeConfig
from quantmux.errors import BuildError, ConfigError, LayoutError
from quantmux.ops.checks import check_matrix, check_scalar, check_scales_given
from quantmux.ops.quantized import DATA_DTYPES, DTYPES, QuantizedTensor
from quantmux.ops.rmsnorm_quantize.reference import check_weight
from quantmux_flashinfer.library.failures import LIBRARY_ERRORS, translate
from quantmux_flashinfer.library.functions import function
from quantmux_flashinfer.quantize.dry_run import dry_run
from quantmux_flashinfer.quantize.outputs import require_scaled_out
from quantmux_flashinfer.rmsnorm_quantize.entries import RMSNORM

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux.capability.device import DeviceProfile
    from quantmux.config.layers import ProducerConfig

OFFSETS: Final = 2**32
"""Elements from the first row's begin to the last one's, beyond which offsets wrap around."""


class RmsNormFp8:
    """The kernel; see `quantmux.registry.protocol.Producer`."""

    def bind(self, config: ProducerConfig, device: DeviceProfile) -> Callable[..., QuantizedTensor]:
        """Give ``fn(x, weight, *, scale, out=None)`` for x [M, n], whose rows may lie apart.

        An x or a weight that does not begin, or go on, at a multiple of the vector is copied first.
        The result holds a copy of the given scale, which is a launch of its own.

        Raises:
            ConfigError: The config is of another op.
            BuildError: FlashInfer does not have it, cannot be used here, or takes its norms from
                the CuTe DSL in this process (code ``unsupported``).
            NotBuiltError: Its module is being compiled.
        """
        if not isinstance(config, RmsNormQuantizeConfig):
            raise ConfigError(f"a kernel of rmsnorm_quantize was given {type(config).__name__}")
        entry = RMSNORM
        call = function(entry, device)
        require_cuda_norms()
        operand, layout, n, eps = config.operand, config.layout, config.n, config.norm_eps
        dtype, made_dtype = DTYPES[config.in_dtype], DATA_DTYPES[operand.element]
        weight_shape, weight_dtype = (n,), DTYPES[config.weight_dtype]
        vector = gcd(8, n)
        loaded = 2 * vector - 1  # bytes of a vector, as a mask
        empty, fp32, one = torch.empty, torch.float32, (1,)

        def run(
            x: torch.Tensor,
            weight: torch.Tensor,
            *,
            scale: torch.Tensor | None = None,
            global_scale: torch.Tensor | None = None,
            out: QuantizedTensor | None = None,
        ) -> QuantizedTensor:
            extents, home = x.shape, x.device
            if len(extents) != 2 or extents[1] != n or x.dtype is not dtype:
                check_matrix(x, n, config.in_dtype)
            # its extents and its device are the library's to check; its format is not checked there
            if weight.dtype is not weight_dtype:
                check_weight(weight, config, home)
            if (
                scale is None
                or global_scale is not None
                or scale.shape != one
                or scale.dtype is not fp32
                or scale.device != home
            ):
                scale = checked_scale(config, scale, global_scale, home)
            m = extents[0]
            if out is None:
                data = empty(extents, dtype=made_dtype, device=home)
                out = QuantizedTensor(data, scale.clone(), None, operand, layout, (m, n))
            else:
                data = out.data
                require_scaled_out(out, operand, layout, (m, n), made_dtype, home, scale)
                if out.scales is not scale:
                    out.scales.copy_(scale)
                if data.data_ptr() & (vector - 1):
                    raise _off_vectors(data, vector)
            if m == 0:
                return out
            # one call for all strides: asking for one of them takes five times as long
            row, column = x.stride()
            if column != 1 or x.data_ptr() & loaded or 2 * row & loaded:
                x, row = empty((m, n), dtype=dtype, device=home).copy_(x), n
            if weight.data_ptr() & loaded or not weight.is_contiguous():
                check_weight(weight, config, home)
                weight = empty(weight_shape, dtype=weight_dtype, device=home).copy_(weight)
            try:
                # the last argument: no launch before the kernel ahead of it has ended
                if m * row < OFFSETS and m * n < OFFSETS:
                    call(data, x, weight, scale, eps, False)
                else:
                    for rows in _parts(m, max(row, n)):
                        call(data[rows], x[rows], weight, scale, eps, False)
            except LIBRARY_ERRORS as error:
                raise translate(error, entry) from error
            return out

        return run

    def warmup(self, config: ProducerConfig, ms: Sequence[int]) -> None:
        """Call once per M on zeros: the module loads outside of a capture."""
        dry_run(self, config, ms)


def require_cuda_norms() -> None:
    """Check that FlashInfer, once imported, takes its norms from the code that nvcc compiled.

    Where it finds the CuTe DSL it takes them from there, unless ``FLASHINFER_USE_CUDA_NORM`` was 1
    when it was imported. Those were never held against the definition.

    Raises:
        BuildError: It does not (code ``unsupported``).
    """
    module = sys.modules.get("flashinfer.norm")
    if module is None or getattr(module, "_USE_CUDA_NORM", True):
        return
    raise BuildError(
        "FlashInfer takes its norms from the CuTe DSL in this process",
        facts={"need": "FLASHINFER_USE_CUDA_NORM=1", "when": "before flashinfer is imported"},
        hint="set it in the environment of the process",
        code="unsupported",
    )


def checked_scale(
    config: RmsNormQuantizeConfig,
    scale: torch.Tensor | None,
    global_scale: torch.Tensor | None,
    home: torch.device,
) -> torch.Tensor:
    """Give the scale of a call, fp32 [1] on its device.

    Raises:
        InputError: It is missing, on another device, or a global scale was given.
        ShapeError, DtypeError: It is no fp32 [1].
    """
    check_scales_given(config.operand, scale, global_scale)
    given = cast("torch.Tensor", scale)  # check_scales_given has raised where it is None
    return check_scalar(given, "scale", home)


def _off_vectors(data: torch.Tensor, vector: int) -> LayoutError:
    return LayoutError(
        f"out needs to begin at a multiple of {vector} bytes",
        facts={"found": f"{data.data_ptr() & (vector - 1)} bytes after one"},
    )


def _parts(m: int, row: int) -> list[slice]:
    """Cut rows so that no offset within a part wraps around."""
    step = max(1, (OFFSETS - 1) // row)
    return [slice(first, min(first + step, m)) for first in range(0, m, step)]


kernel: Final = RmsNormFp8()
