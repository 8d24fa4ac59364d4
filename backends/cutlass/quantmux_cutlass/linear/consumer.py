"""`CutlassLinear`: what every linear of this backend is to the rest of quantmux.

A kernel is one line beside its config module::

    kernel = CutlassLinear("fp8_stream", choose, row_multiple=1, m_max=128)

and ``choose(config, device, m) -> Choice(unit, options)`` is all that differs between kernels of
FP8 operands. ``choose`` must be pure and answer for every M from ``m_min`` to ``m_max`` (of every
M of one class the same unit or one that another class names, see `M_SAMPLES`); it is asked once for
an M and a layer, so it may compute. It must not import torch.

Capability of such a kernel (see `quantmux_cutlass.linear.padding`)::

    pad_k_to=16, weight_layout="cutlass:padded_k16", canonical_if_aligned=True
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from quantmux_cutlass import native
from quantmux_cutlass.linear.bound import bound_linear
from quantmux_cutlass.linear.choice import M_SAMPLES, Choice
from quantmux_cutlass.linear.padding import padded_k16

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux.capability.arch import Arch
    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LinearConfig
    from quantmux.ops.quantized import LinearWeights
    from quantmux.registry.protocol import CompiledCode, PreparedWeights
    from quantmux_cutlass.linear.choice import Choose
    from quantmux_cutlass.units import Unit

    Prepare = Callable[[LinearWeights, LinearConfig, DeviceProfile], PreparedWeights]

__all__ = ["Choice", "CutlassLinear"]


class CutlassLinear:
    """A consumer of quantized operands on a compiled library.

    Args:
        stem: Name in messages.
        choose: ``(config, device, m)`` → `Choice`.
        row_multiple: ``output_row_multiple`` of the capability: 8 for kernels that store by TMA
            (they overwrite what lies between N and the next row), 1 for those that store elements.
        m_min: Least M that it is asked for.
        m_max: Greatest M that it is asked for, None is unbounded.
        prepare: Gives the weights in the kernel's form.
        pdl: False switches off what choices allow, for measurements.
    """

    def __init__(
        self,
        stem: str,
        choose: Choose,
        *,
        row_multiple: int = 1,
        m_min: int = 1,
        m_max: int | None = None,
        prepare: Prepare = padded_k16,
        pdl: bool = True,
    ) -> None:
        self.stem = stem
        self.pdl = pdl
        self.row_multiple = row_multiple
        self._choose = choose
        self._prepare = prepare
        inside = [m for m in M_SAMPLES if m >= m_min and (m_max is None or m <= m_max)]
        ends = (m_min,) if m_max is None else (m_min, m_max)
        self._samples = tuple(sorted({*inside, *ends}))

    def prepare(
        self, weights: LinearWeights, config: LinearConfig, device: DeviceProfile
    ) -> PreparedWeights:
        """Give the weights in the kernel's form; tensors that fit as they are stay shared."""
        return self._prepare(weights, config, device)

    def bind(
        self, config: LinearConfig, prepared: PreparedWeights, device: DeviceProfile
    ) -> Callable[..., torch.Tensor]:
        """Give ``fn(q, *, out=None) -> y``, y [M, N] with rows N rounded up to ``row_multiple``.

        Every library that some M needs is opened here, so that no call waits for one.

        Raises:
            BuildError: A library is not built (code ``not_built``), or one is broken.
            LayoutError: The weights cannot be read as they lie.
        """
        return bound_linear(self, config, prepared, device)

    def warmup(self, config: LinearConfig, ms: Sequence[int]) -> None:
        """Open the libraries that calls with these M need; without a GPU do nothing."""
        if not torch.cuda.is_available():
            return
        from quantmux.capability.detect import device_here

        device = device_here(torch.device("cuda", torch.cuda.current_device()))
        wanted = (self.choice(config, device, m).unit for m in ms if m > 0)
        native.opened(tuple(dict.fromkeys(wanted)), device)

    def choice(self, config: LinearConfig, device: DeviceProfile, m: int) -> Choice:
        """Give what serves M rows."""
        return self._choose(config, device, m)

    def choices(self, config: LinearConfig, device: DeviceProfile) -> dict[int, Choice]:
        """Give what serves each of the sampled M that the kernel is asked for."""
        return {m: self._choose(config, device, m) for m in self._samples}

    def units(self, config: LinearConfig, device: DeviceProfile) -> tuple[Unit, ...]:
        """Give every unit that some M of this layer needs, in the order of M."""
        return tuple(dict.fromkeys(c.unit for c in self.choices(config, device).values()))

    def compile_for(self, config: LinearConfig, arch: Arch) -> list[CompiledCode]:
        """Give the machine code of everything that some M launches on ``arch``.

        Raises:
            BuildError: The compiler refuses, or is not here.
        """
        from quantmux.capability.device import DeviceProfile
        from quantmux_cutlass.compile_ahead import compiled

        there = DeviceProfile(name="there", title="named architecture", arch=arch)
        return [compiled(unit, arch) for unit in self.units(config, there)]

    def compiled_variants(self) -> int:
        """Give how many libraries this process has opened, of all kernels of this backend."""
        return native.opened_count()

    def declared_variants(self, config: LinearConfig) -> int:
        """Give how many libraries a config may need."""
        del config
        return len(self._samples)
