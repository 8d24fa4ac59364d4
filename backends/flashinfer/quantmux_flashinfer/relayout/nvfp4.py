"""flashinfer/relayout_nvfp4: row-major NVFP4 scales into 128x4, by ``block_scale_interleave``.

The library moves bytes and fills the padding with zeros; bit-exact on an H200 (2026-11-21), where
the other functions of its module write nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux.config import RelayoutConfig
from quantmux.errors import ConfigError, LayoutError, ShapeError
from quantmux_flashinfer.layouts.scale_bytes import as_bytes, flat
from quantmux_flashinfer.library.failures import LIBRARY_ERRORS, translate
from quantmux_flashinfer.library.functions import function
from quantmux_flashinfer.quantize.dry_run import dry_run
from quantmux_flashinfer.quantize.outputs import NvFp4Outputs
from quantmux_flashinfer.relayout.entries import INTERLEAVE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux.capability.device import DeviceProfile
    from quantmux.ops.quantized import QuantizedTensor


class NvFp4Relayout:
    """Scales by the library, codes by a copy: a result shares no codes with what it is made of."""

    def bind(self, config: RelayoutConfig, device: DeviceProfile) -> Callable[..., QuantizedTensor]:
        """Give ``fn(q, *, out=None)`` for q [M, n] with row-major scales.

        Raises:
            ConfigError: The config is of another op.
            BuildError: FlashInfer does not have it, or cannot be used here.
            NotBuiltError: Its module is being compiled.
        """
        if not isinstance(config, RelayoutConfig):
            raise ConfigError(f"a kernel of relayout was given {type(config).__name__}")
        entry = INTERLEAVE
        call = function(entry, device)
        operand, source, n = config.operand, config.source, config.n
        outputs = NvFp4Outputs(operand, config.target, n)

        def run(q: QuantizedTensor, *, out: QuantizedTensor | None = None) -> QuantizedTensor:
            if (q.operand is not operand or q.layout is not source or q.n != n) and (
                q.operand != operand or q.layout != source or q.n != n
            ):
                raise _another(q, config)
            m, g, home = q.logical_shape[0], q.global_scale, q.data.device
            if out is None:
                made = outputs.new(m, home)
            else:
                made = out
                outputs.require(made, m, home)
            if g is not None and made.global_scale is not None:
                made.global_scale.copy_(g)  # a result's own: it may be the out of a later call
            if m == 0:
                return made
            made.data.copy_(q.data)
            try:
                call(unswizzled_sf=as_bytes(q.scales), out=flat(as_bytes(made.scales)))
            except LIBRARY_ERRORS as error:
                raise translate(error, entry) from error
            return made

        return run

    def warmup(self, config: RelayoutConfig, ms: Sequence[int]) -> None:
        """Call once per M: the module loads outside of a capture."""
        dry_run(self, config, ms)


def _another(q: QuantizedTensor, config: RelayoutConfig) -> LayoutError | ShapeError:
    if q.n != config.n:
        return ShapeError(
            "q has the wrong logical shape",
            facts={"need": f"[M, {config.n}]", "found": list(q.logical_shape)},
        )
    return LayoutError(
        "q is not in the source layout of the relayout",
        facts={
            "need": f"{config.operand.name} {config.source}",
            "found": f"{q.operand.name} {q.layout}",
        },
    )


kernel: Final = NvFp4Relayout()
