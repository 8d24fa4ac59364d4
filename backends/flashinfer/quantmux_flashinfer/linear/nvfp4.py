"""flashinfer/linear_nvfp4_*: NVFP4 by NVFP4 by the back ends of ``mm_fp4``.

What the library takes, and from where: x as codes [M, padded K / 2] and scales in 128x4 or 8x4
tiles, both as a producer wrote them, scales seen as bytes; W as column-major views of the prepared
form; alpha = RN(g_x · g_w), one number on the device. alpha is made in each call, a launch of one
element, because g_x comes with x. Only where x carries the very tensor that is the layer's own
static scale is it the one that was made when the weights were prepared.

Zeros beyond M in the scales of x are counted on: trtllm-gen with 8x4 tiles reads the scales of rows
that do not exist into rows that do (flashinfer-ai/flashinfer#2861). Every producer of quantmux
writes them, by the contract of padding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.config import Layout
from quantmux.config.layouts import round_up
from quantmux.dispatch.join import required_input
from quantmux.errors import InputError, LayoutError, ShapeError
from quantmux.ops.quantized import DTYPES, QuantizedTensor
from quantmux_flashinfer.layouts.global_scales import alpha_of
from quantmux_flashinfer.layouts.matrices import column_major
from quantmux_flashinfer.layouts.scale_bytes import as_bytes
from quantmux_flashinfer.library import functions
from quantmux_flashinfer.library.failures import LIBRARY_ERRORS, translate
from quantmux_flashinfer.linear import nvfp4_entries as entries
from quantmux_flashinfer.linear.dry_run import dry_run
from quantmux_flashinfer.linear.nvfp4_weights import ALIGNMENT, SHUFFLED, TILED
from quantmux_flashinfer.linear.outputs import whole_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LinearConfig
    from quantmux.ops.quantized import LinearWeights
    from quantmux.registry.protocol import PreparedWeights
    from quantmux_flashinfer.entries import Entry
    from quantmux_flashinfer.linear.nvfp4_weights import Form


_NOBODY: Final = object()
"""The static scale of a layer that has none: no tensor is it."""


class Nvfp4Linear:
    """A consumer of NVFP4 operands on one back end of ``mm_fp4``.

    Args:
        entry: What it calls.
        form: The form of the weights that it reads.
        scales: The layout of the scales of x that it reads.
    """

    def __init__(self, entry: Entry, form: Form = TILED, scales: str = "swizzled_128x4") -> None:
        self.entry = entry
        self.form = form
        self.scales = scales

    def prepare(
        self, weights: LinearWeights, config: LinearConfig, device: DeviceProfile
    ) -> PreparedWeights:
        """Give the weights in the kernel's form; see `Form.prepare`."""
        return self.form.prepare(weights, config, device)

    def bind(
        self, config: LinearConfig, prepared: PreparedWeights, device: DeviceProfile
    ) -> Callable[..., torch.Tensor]:
        """Give ``fn(q, *, out=None) -> y``, y [M, N] with rows N rounded up to the form's pad.

        Raises:
            BuildError: FlashInfer does not serve the device, or lacks something.
            NotBuiltError: A module is being compiled.
        """
        call: Any = functions.function(self.entry, device)
        entry, backend, is_8x4 = self.entry, self.entry.backend, self.scales == "swizzled_8x4"
        tensors = prepared.tensors
        weight, weight_scales = tensors["data"], as_bytes(tensors["scales"])
        weight_t, weight_scales_t = column_major(weight), column_major(weight_scales)
        g_w, own_alpha = tensors["global_scale"], tensors.get("alpha")
        own: object = _NOBODY if own_alpha is None else tensors["input_global_scale"]
        n = config.n
        padded_n = weight.shape[0]
        is_padded = padded_n != n
        dtype, home = DTYPES[config.out_dtype], weight.device
        wanted = Layout(scales=self.scales, padded_n=round_up(config.k, self.form.pad_k))
        off = ALIGNMENT - 1
        seen: list[Layout | None] = [None]

        def run(q: QuantizedTensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
            data, scales, m = q.data, q.scales, q.logical_shape[0]
            g_x: Any = q.global_scale
            if (
                q.layout is not seen[0]
                or g_x is None
                or (data.data_ptr() | scales.data_ptr()) & off
                or not data.is_contiguous()
            ):
                _require_readable(q, wanted, config.k)
                seen[0] = q.layout
            if out is None:
                y = torch.empty((m, padded_n), dtype=dtype, device=home)
            else:
                y = whole_rows(out, m, n, padded_n, dtype, home, alignment=ALIGNMENT)
            if m:
                alpha = own_alpha if g_x is own else alpha_of(g_x, g_w)
                try:
                    call(
                        a=data,
                        b=weight_t,
                        a_descale=as_bytes(scales),
                        b_descale=weight_scales_t,
                        alpha=alpha,
                        out_dtype=dtype,
                        out=y,
                        use_8x4_sf_layout=is_8x4,
                        backend=backend,
                    )
                except LIBRARY_ERRORS as error:
                    raise translate(error, entry) from error
            if out is not None:
                return out
            return y[:, :n] if is_padded else y

        return run

    def warmup(self, config: LinearConfig, ms: Sequence[int]) -> None:
        """Run once per M on zeros, so that the library compiles and loads what it launches."""
        activation, pad = config.scheme.activation, self.form.pad_k
        if activation is not None:
            source = required_input(activation, config.k, self.scales, pad, 1, config.in_dtype)
            dry_run(self, config, ms, source)


def _require_readable(q: QuantizedTensor, wanted: Layout, k: int) -> None:
    """Check all of x; what passes may be given to the library, which looks at shapes only.

    Raises:
        InputError: It is no quantized matrix, or a part is missing or elsewhere.
        ShapeError: Its width is another.
        LayoutError: It lies otherwise, or begins at no multiple of 32 bytes.
    """
    if not isinstance(q, QuantizedTensor):
        raise InputError(
            f"x needs to be a QuantizedTensor, found {type(q).__name__}",
            hint="quantize it with the producer of the selection, or call the layer",
        )
    if not q.operand.is_nvfp4:
        raise LayoutError(
            "x is quantized to another operand than the layer reads",
            facts={"need": "nvfp4", "found": q.operand.name},
        )
    if len(q.logical_shape) != 2 or q.n != k:
        raise ShapeError(
            "x has the wrong logical shape",
            facts={"need": f"[M, {k}]", "found": list(q.logical_shape)},
        )
    if q.layout != wanted:
        raise LayoutError(
            "x lies in a layout that the kernel does not read",
            facts={"need": str(wanted), "found": str(q.layout)},
            hint="quantize x as the layer's input_layout() says",
        )
    q.check()
    for name, part in (("data", q.data), ("scales", q.scales)):
        if part.numel() and part.data_ptr() % ALIGNMENT:
            raise LayoutError(
                f"{name} of x need to begin at a multiple of {ALIGNMENT} bytes",
                facts={"found": f"{part.data_ptr() % ALIGNMENT} bytes after one"},
                hint="let the producer write it: its out= is the tensor that is read",
            )


cutlass: Final = Nvfp4Linear(entries.CUTLASS)
cudnn: Final = Nvfp4Linear(entries.CUDNN)
cute_dsl: Final = Nvfp4Linear(entries.CUTE_DSL)
cutedsl_low_latency: Final = Nvfp4Linear(entries.CUTEDSL_LOW_LATENCY)
b12x: Final = Nvfp4Linear(entries.B12X)
trtllm: Final = Nvfp4Linear(entries.TRTLLM, SHUFFLED)
trtllm_8x4: Final = Nvfp4Linear(entries.TRTLLM, SHUFFLED, "swizzled_8x4")
cute_dsl_sm120: Final = cute_dsl
