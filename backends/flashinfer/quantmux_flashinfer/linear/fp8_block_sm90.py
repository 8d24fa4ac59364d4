"""FP8 1x128 by 128x128 blocks on Hopper, by FlashInfer's ``fp8_blockscale_gemm_sm90`` (DeepGEMM).

Two forms of one function: x quantized before, and x in bf16, which it quantizes itself into
workspace: no producer, no scale tensor, no fill. That one has an amax in bf16 (exact), no eps, and
multiplies by RN(448 / amax) where the definition divides by RN(amax / 448): about one code in a
thousand is a step off, 0.2 to 1.2 % of y against the definition, none against the exact product
(H200, 2026-11-21: 0.020 to 0.033 of it both, for M from 1 to 4096).

What it would misread without a word is kept from it here: it looks at no strides, reads scales of
x as [K / 128, R4(M)] and scales of weights as [ceil(N / 128), K / 128] whatever their shape says,
and stores bf16 bits into an fp16 output.

Every tile of DeepGEMM is compiled by nvcc at the first call that wants it, 1.2 to 2.7 s (H200,
2026-11-21), and kept on disk: below M = 32 there are at most three for a layer, above that the
tile's width follows M. `warmup` calls it with the Ms that are to come.

Every call borrows N · K + M · K bytes and more from torch's allocator, whichever form it is: the
library asks for what its third form, two bf16 matrices, would need, with the largest M it has seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from quantmux.config.layouts import round_up
from quantmux.dispatch.join import required_input
from quantmux.errors import LayoutError
from quantmux.ops.quantized import DTYPES
from quantmux_flashinfer.library.failures import LIBRARY_ERRORS, translate
from quantmux_flashinfer.library.functions import function
from quantmux_flashinfer.linear.call_order import require_order
from quantmux_flashinfer.linear.dry_run import dry_run
from quantmux_flashinfer.linear.fp8_entries import BLOCK_SM90, BLOCK_SM90_INSIDE
from quantmux_flashinfer.linear.fp8_inputs import require_readable
from quantmux_flashinfer.linear.fp8_weights import codes_of, padded_weights
from quantmux_flashinfer.linear.outputs import whole_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LinearConfig
    from quantmux.ops.quantized import LinearWeights, QuantizedTensor
    from quantmux.registry.protocol import PreparedWeights

_ORDER: Final = ("input", "weight", "input_scale", "weight_scale", "out")

PAD_N: Final = 64
PAD_K: Final = 128
PADDED: Final = "flashinfer:padded_n64_k128"
"""Codes [R64(N), R128(K)]; the scales' shape is the canonical one, as 64 divides 128."""


def _prepared(
    weights: LinearWeights, config: LinearConfig, device: DeviceProfile
) -> PreparedWeights:
    return padded_weights(
        weights, config, device, pad_n_to=PAD_N, pad_k_to=PAD_K, weight_layout=PADDED
    )


def _scales_of(prepared: PreparedWeights, padded_n: int, padded_k: int) -> torch.Tensor:
    """Give scales of the weights as the kernel reads them, and nothing else under that name.

    Raises:
        LayoutError: They are no grid of 128x128 blocks.
    """
    scales = prepared.tensors["scales"].contiguous()
    need = (-(-padded_n // 128), padded_k // 128)
    if tuple(scales.shape) != need or scales.dtype != torch.float32:
        raise LayoutError(
            "scales of the weights are not those of 128x128 blocks",
            facts={"need": f"fp32 {list(need)}", "found": f"{scales.dtype} {list(scales.shape)}"},
            hint="prepare the weights with this kernel",
        )
    return scales


class Fp8BlockSm90:
    """x arrives as ``col_major_aligned4``, K padded to 128."""

    entry: Final = BLOCK_SM90

    def prepare(
        self, weights: LinearWeights, config: LinearConfig, device: DeviceProfile
    ) -> PreparedWeights:
        """Pad N to 64 and K to 128; weights that need no pad are the checkpoint's own."""
        return _prepared(weights, config, device)

    def bind(
        self, config: LinearConfig, prepared: PreparedWeights, device: DeviceProfile
    ) -> Callable[..., torch.Tensor]:
        """Give ``fn(q, *, out=None) -> y``; rows of y [M, N], bf16, have stride R64(N).

        Raises:
            BuildError: FlashInfer does not have it, or cannot be used here.
            NotBuiltError: Its module is being compiled.
            LayoutError: The weights cannot be read.
        """
        entry, n, dtype = self.entry, config.n, DTYPES[config.out_dtype]
        padded_n, padded_k = round_up(n, PAD_N), round_up(config.k, PAD_K)
        weight = codes_of(prepared, padded_n, padded_k)
        scale_w = _scales_of(prepared, padded_n, padded_k)
        call = function(entry, device)
        require_order(entry, _ORDER)
        home, empty = weight.device, torch.empty

        def run(q: QuantizedTensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
            m, x, scales = q.logical_shape[0], q.data, q.scales
            if out is not None:
                y = whole_rows(out, m, n, padded_n, dtype, home)
            else:
                y = empty((m, padded_n), dtype=dtype, device=home)
            if m == 0:
                return y[:, :n] if out is None else out
            if (
                not x.is_contiguous()
                or scales.stride() != (1, (m + 3) & -4)
                or (x.data_ptr() | scales.data_ptr()) & 15
            ):
                require_readable(q, "col_major_aligned4")
            try:
                call(x, weight, scales, scale_w, y)
            except LIBRARY_ERRORS as error:
                raise translate(error, entry) from error
            if out is not None:
                return out
            return y if padded_n == n else y[:, :n]

        return run

    def warmup(self, config: LinearConfig, ms: Sequence[int]) -> None:
        """Call once per M on zeros: the tiles of these Ms are compiled then."""
        activation = config.scheme.activation
        if activation is not None:
            source = required_input(
                activation, config.k, "col_major_aligned4", PAD_K, 1, config.in_dtype
            )
            dry_run(self, config, ms, source)


class Fp8BlockSm90Inside:
    """x arrives in bf16; its codes and scales exist in workspace only."""

    entry: Final = BLOCK_SM90_INSIDE

    def prepare(
        self, weights: LinearWeights, config: LinearConfig, device: DeviceProfile
    ) -> PreparedWeights:
        """Pad N to 64; weights that need no pad are the checkpoint's own."""
        return _prepared(weights, config, device)

    def bind(
        self, config: LinearConfig, prepared: PreparedWeights, device: DeviceProfile
    ) -> Callable[..., torch.Tensor]:
        """Give ``fn(x, *, out=None) -> y``; rows of y [M, N], bf16, have stride R64(N).

        An x [M, K] whose rows lie apart, or that begins within a word, is brought into one piece
        first: one launch more.

        Raises:
            BuildError: FlashInfer does not have it, or cannot be used here.
            NotBuiltError: Its module is being compiled.
            LayoutError: The weights cannot be read.
        """
        entry, n, k, dtype = self.entry, config.n, config.k, DTYPES[config.out_dtype]
        padded_n = round_up(n, PAD_N)
        weight = codes_of(prepared, padded_n, k)
        scale_w = _scales_of(prepared, padded_n, k)
        call = function(entry, device)
        require_order(entry, _ORDER)
        home, empty = weight.device, torch.empty

        def run(x: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
            m = x.shape[0]
            if out is not None:
                y = whole_rows(out, m, n, padded_n, dtype, home)
            else:
                y = empty((m, padded_n), dtype=dtype, device=home)
            if m == 0:
                return y[:, :n] if out is None else out
            if not x.is_contiguous() or x.data_ptr() & 3:
                x = x.clone(memory_format=torch.contiguous_format)
            try:
                call(x, weight, None, scale_w, y)
            except LIBRARY_ERRORS as error:
                raise translate(error, entry) from error
            if out is not None:
                return out
            return y if padded_n == n else y[:, :n]

        return run

    def warmup(self, config: LinearConfig, ms: Sequence[int]) -> None:
        """Call once per M on zeros: the tiles of these Ms are compiled then."""
        dry_run(self, config, ms, None)


kernel: Final = Fp8BlockSm90()
inside: Final = Fp8BlockSm90Inside()
