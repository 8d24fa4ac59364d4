"""flashinfer/linear_nvfp4_w4a16_*: bf16 by NVFP4 weights, by the back ends of ``mm_bf16_fp4``.

Every back end but one has weights prepared by the library, in a form that is its own affair and may
be another one in the next release: it is tagged with the kernel and cannot be undone, so policy
``keep_canonical`` decides what becomes of the checkpoint's tensors. ``cute-dsl-native`` reads codes
as they are and scales in 128x4 tiles, which is the form `TILED`.

The library wants x in one piece. An x whose rows lie apart is copied first, one more launch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.config.layouts import round_up
from quantmux.errors import LayoutError
from quantmux.ops.layouts import swizzle_128x4
from quantmux.ops.quantized import DTYPES
from quantmux.registry.protocol import PreparedWeights
from quantmux_flashinfer.layouts.matrices import aligned, padded
from quantmux_flashinfer.layouts.scale_bytes import as_bytes
from quantmux_flashinfer.library import functions
from quantmux_flashinfer.library.failures import LIBRARY_ERRORS, translate, translated
from quantmux_flashinfer.linear import nvfp4_entries as entries
from quantmux_flashinfer.linear.dry_run import dry_run
from quantmux_flashinfer.linear.nvfp4_weights import ALIGNMENT, GROUP, TILED, moved
from quantmux_flashinfer.linear.outputs import whole_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LinearConfig
    from quantmux.ops.quantized import LinearWeights
    from quantmux_flashinfer.entries import Entry

X_ALIGNMENT: Final = 16
"""Bytes at whose multiples x begins: the DSL's loads are as wide."""


class WeightOnlyNvfp4:
    """A consumer of plain bf16 on one back end of ``mm_bf16_fp4``, weights prepared by the library.

    Args:
        entry: What it calls.
        weight_layout: Name of the prepared form.
        pad_n: N is padded to a multiple of it.
    """

    def __init__(self, entry: Entry, weight_layout: str, pad_n: int) -> None:
        self.entry = entry
        self.weight_layout = weight_layout
        self.pad_n = pad_n

    def prepare(
        self, weights: LinearWeights, config: LinearConfig, device: DeviceProfile
    ) -> PreparedWeights:
        """Give the weights in the back end's own form; canonical tensors are not changed.

        Returns:
            ``weight`` and ``weight_scales`` as the library gave them, ``alpha`` fp32 [1], and the
            small canonical tensors. There is no ``restore``.

        Raises:
            BuildError: FlashInfer cannot prepare weights for this back end here.
        """
        here = moved(weights, device)
        n, k = config.n, config.k
        padded_n = round_up(n, self.pad_n)
        data = aligned(padded(here.data, padded_n, k // 2), ALIGNMENT)
        grid = padded(as_bytes(here.scales), round_up(n, 128), round_up(k // GROUP, 4))
        entry = entries.preparation_of(self.entry)
        prepare: Any = functions.function(entry, device)
        with translated(entry):
            weight, scales, alpha = prepare(
                b=data,
                b_descale=swizzle_128x4(grid),
                alpha=here.global_scale,
                backend=entry.backend,
            )
        others = {name: t for name, t in here.named().items() if name not in ("data", "scales")}
        tensors = {**others, "weight": weight, "weight_scales": scales}
        if alpha is not None:
            tensors["alpha"] = alpha
        return PreparedWeights(
            tensors=tensors,
            weight_layout=self.weight_layout,
            n=n,
            k=k,
            restore=None,
            facts={"padded_n": padded_n},
        )

    def bind(
        self, config: LinearConfig, prepared: PreparedWeights, device: DeviceProfile
    ) -> Callable[..., torch.Tensor]:
        """Give ``fn(x, *, out=None) -> y`` for x bf16 [M, K], rows of y N rounded up to the pad.

        Raises:
            BuildError: FlashInfer does not serve the device, or lacks something.
            NotBuiltError: A module is being compiled.
        """
        tensors = prepared.tensors
        operands = (tensors["weight"], tensors["weight_scales"], tensors.get("alpha"))
        return _bound(self.entry, operands, config, self.pad_n, device)

    def warmup(self, config: LinearConfig, ms: Sequence[int]) -> None:
        """Run once per M on zeros, so that the library compiles and loads what it launches."""
        dry_run(self, config, ms, None)


class NativeWeightOnlyNvfp4:
    """The same on a back end that reads weights as `TILED` has them."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.pad_n = TILED.pad_n

    def prepare(
        self, weights: LinearWeights, config: LinearConfig, device: DeviceProfile
    ) -> PreparedWeights:
        """Give the weights in the form `TILED`; see `Form.prepare`."""
        return TILED.prepare(weights, config, device)

    def bind(
        self, config: LinearConfig, prepared: PreparedWeights, device: DeviceProfile
    ) -> Callable[..., torch.Tensor]:
        """Give ``fn(x, *, out=None) -> y``; see `WeightOnlyNvfp4.bind`."""
        tensors = prepared.tensors
        operands = (tensors["data"], as_bytes(tensors["scales"]), tensors.get("global_scale"))
        return _bound(self.entry, operands, config, self.pad_n, device)

    def warmup(self, config: LinearConfig, ms: Sequence[int]) -> None:
        """Run once per M on zeros: the library compiles a kernel for every M of its own."""
        dry_run(self, config, ms, None)


def _bound(
    entry: Entry,
    operands: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None],
    config: LinearConfig,
    multiple: int,
    device: DeviceProfile,
) -> Callable[..., torch.Tensor]:
    call: Any = functions.function(entry, device)
    weight, weight_scales, alpha = operands
    backend, n = entry.backend, config.n
    padded_n = round_up(n, multiple)
    is_padded = padded_n != n
    dtype, home = DTYPES[config.out_dtype], weight.device
    off = X_ALIGNMENT - 1

    def run(x: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        m = x.shape[0]
        if out is None:
            y = torch.empty((m, padded_n), dtype=dtype, device=home)
        else:
            y = whole_rows(out, m, n, padded_n, dtype, home, alignment=ALIGNMENT)
        if m:
            if not x.is_contiguous():
                x = x.contiguous()
            elif x.data_ptr() & off:
                raise _misaligned(x)
            try:
                call(
                    a=x,
                    b=weight,
                    b_descale=weight_scales,
                    alpha=alpha,
                    out_dtype=dtype,
                    out=y,
                    backend=backend,
                )
            except LIBRARY_ERRORS as error:
                raise translate(error, entry) from error
        if out is not None:
            return out
        return y[:, :n] if is_padded else y

    return run


def _misaligned(x: torch.Tensor) -> LayoutError:
    return LayoutError(
        f"x needs to begin at a multiple of {X_ALIGNMENT} bytes",
        facts={"found": f"{x.data_ptr() % X_ALIGNMENT} bytes after one"},
        hint="pass x.clone()",
    )


cudnn: Final = WeightOnlyNvfp4(entries.W4A16_CUDNN, "flashinfer:nvfp4_w4a16_cudnn", 32)
cute_dsl: Final = WeightOnlyNvfp4(entries.W4A16_CUTE_DSL, "flashinfer:nvfp4_w4a16_cute_dsl", 64)
cute_dsl_native: Final = NativeWeightOnlyNvfp4(entries.W4A16_CUTE_DSL_NATIVE)
blackwell_native: Final = WeightOnlyNvfp4(
    entries.W4A16_BLACKWELL_NATIVE, "flashinfer:nvfp4_w4a16_blackwell_native", 64
)
blackwell_tiled: Final = WeightOnlyNvfp4(
    entries.W4A16_BLACKWELL_TILED, "flashinfer:nvfp4_w4a16_blackwell_tiled", 64
)
