"""FP8 by FP8 with one scale each for few tokens on Blackwell, by FlashInfer's ``mm_fp8``.

Its low-latency kernels know one factor of the sum, alpha = RN(s_x · s_w), which is one more launch.
``trtllm_low_latency`` reads weights as panels of 128 columns with rows dealt out (`layouts.trtllm`)
and is machine code that the library would download: the files must be there.
``cutedsl_low_latency`` reads them as they lie, and fills neutral scales of blocks in every call.
Neither has been run by us.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.config.layouts import round_up
from quantmux.dispatch.join import required_input
from quantmux.ops.quantized import DTYPES, LinearWeights
from quantmux.registry.protocol import PreparedWeights
from quantmux_flashinfer.layouts.fp8_matrices import PANEL, from_panels, panels
from quantmux_flashinfer.layouts.matrices import padded, unpadded
from quantmux_flashinfer.layouts.trtllm import shuffled_rows, unshuffled_rows
from quantmux_flashinfer.library.failures import LIBRARY_ERRORS, translate
from quantmux_flashinfer.library.functions import function
from quantmux_flashinfer.linear.dry_run import dry_run
from quantmux_flashinfer.linear.fp8_entries import CUTEDSL_LOW_LATENCY, TRTLLM_LOW_LATENCY
from quantmux_flashinfer.linear.fp8_inputs import require_readable
from quantmux_flashinfer.linear.fp8_tensor import PADDED128
from quantmux_flashinfer.linear.fp8_weights import codes_of, on_device, padded_weights
from quantmux_flashinfer.linear.outputs import whole_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LinearConfig
    from quantmux.ops.quantized import QuantizedTensor
    from quantmux_flashinfer.entries import Entry

TRTLLM_PANELS: Final = "flashinfer:fp8_trtllm_panels"
"""Codes [K / 128, N, 128], N and K rounded up to 128, rows dealt out."""


class Fp8LowLatency:
    """What both have in common; subclasses say how weights lie."""

    def __init__(self, entry: Entry) -> None:
        """Say what is called."""
        self.entry = entry

    def _weight(self, prepared: PreparedWeights, padded_n: int, padded_k: int) -> torch.Tensor:
        return codes_of(prepared, padded_n, padded_k)

    def prepare(
        self, weights: LinearWeights, config: LinearConfig, device: DeviceProfile
    ) -> PreparedWeights:
        """Pad N and K to 128; weights that need no pad are the checkpoint's own."""
        return padded_weights(
            weights, config, device, pad_n_to=PANEL, pad_k_to=PANEL, weight_layout=PADDED128
        )

    def bind(
        self, config: LinearConfig, prepared: PreparedWeights, device: DeviceProfile
    ) -> Callable[..., torch.Tensor]:
        """Give ``fn(q, *, out=None) -> y``; rows of y [M, N], bf16, have stride R128(N).

        Raises:
            BuildError: FlashInfer does not have it, or cannot be used here.
            NotBuiltError: Its module is being compiled.
        """
        entry, n, dtype = self.entry, config.n, DTYPES[config.out_dtype]
        padded_n, padded_k = round_up(n, PANEL), round_up(config.k, PANEL)
        call = function(entry, device)
        weight = self._weight(prepared, padded_n, padded_k)
        scale_w = prepared.tensors["scales"]
        fixed: dict[str, Any] = {"out_dtype": dtype, "backend": entry.backend, "skip_check": True}
        empty, mul = torch.empty, torch.mul

        def run(q: QuantizedTensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
            m, x = q.logical_shape[0], q.data
            if out is not None:
                y = whole_rows(out, m, n, padded_n, dtype, x.device)
            else:
                y = empty((m, padded_n), dtype=dtype, device=x.device)
            if m == 0:
                return y[:, :n] if out is None else out
            if not x.is_contiguous() or x.data_ptr() & 15:
                require_readable(q, "scalar")
            alpha = mul(q.scales, scale_w)
            try:
                call(a=x, b=weight, alpha=alpha, out=y, **fixed)
            except LIBRARY_ERRORS as error:
                raise translate(error, entry) from error
            if out is not None:
                return out
            return y if padded_n == n else y[:, :n]

        return run

    def warmup(self, config: LinearConfig, ms: Sequence[int]) -> None:
        """Call once per M on zeros: what compiles or loads does so outside a capture."""
        activation = config.scheme.activation
        if activation is not None:
            source = required_input(activation, config.k, "scalar", PANEL, 1, config.in_dtype)
            dry_run(self, config, ms, source)


class Fp8TrtllmLowLatency(Fp8LowLatency):
    """Weights as panels with rows dealt out."""

    def prepare(
        self, weights: LinearWeights, config: LinearConfig, device: DeviceProfile
    ) -> PreparedWeights:
        """Pad N and K to 128, deal the rows out, and cut panels; no bit is lost."""
        here = on_device(weights, device)
        n, k = config.n, config.k
        padded_n, padded_k = round_up(n, PANEL), round_up(k, PANEL)
        codes = padded(here.data, padded_n, padded_k).view(torch.uint8)
        stored = panels(shuffled_rows(codes)).view(here.data.dtype)
        small = {name: tensor for name, tensor in here.named().items() if name != "data"}

        def restore() -> LinearWeights:
            codes = unshuffled_rows(from_panels(stored.view(torch.uint8)))
            return LinearWeights(data=unpadded(codes.view(stored.dtype), n, k), **small)

        return PreparedWeights(
            tensors={"data": stored, **small},
            weight_layout=TRTLLM_PANELS,
            n=n,
            k=k,
            restore=restore,
            facts={"padded_n": padded_n, "padded_k": padded_k},
        )

    def _weight(self, prepared: PreparedWeights, padded_n: int, padded_k: int) -> torch.Tensor:
        del padded_n, padded_k
        return prepared.tensors["data"]


trtllm: Final = Fp8TrtllmLowLatency(TRTLLM_LOW_LATENCY)
cutedsl: Final = Fp8LowLatency(CUTEDSL_LOW_LATENCY)
