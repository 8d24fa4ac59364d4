"""What ``KernelSpec.load`` must name: one protocol per role, the same for every backend.

The functions that ``bind`` gives are called without look-ups, hooks or host synchronisation. They
allocate outputs and stream-ordered workspace only, write every byte of the padded extents, and
launch nothing for M = 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from quantmux.capability.arch import Arch
    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LayerConfig, LinearConfig, RelayoutConfig
    from quantmux.config.layers import ProducerConfig
    from quantmux.ops.quantized import LinearWeights, QuantizedTensor


@runtime_checkable
class Producer(Protocol):
    """Kernels of ``quantize`` and of the ops that end in it, ``…_quantize``."""

    def bind(self, config: ProducerConfig, device: DeviceProfile) -> Callable[..., QuantizedTensor]:
        """Give the function for this config.

        quantize and silu_mul_quantize: ``fn(x, *, scale=None, global_scale=None, out=None)`` with
        x [M, n] ([M, 2n] for silu_mul), ``scale`` fp32 [1] for static operands, ``global_scale``
        fp32 [1] for NVFP4 with a static global scale. inverse_rope_quantize:
        ``fn(o, positions, cos_sin_cache, *, out=None)``. rmsnorm_quantize:
        ``fn(x, weight, *, scale=None, global_scale=None, out=None)`` with weight [n] in
        ``config.weight_dtype``. rope_quantize: ``fn(x, positions, cos_sin_cache, *, scale=None,
        out=None)`` with x [T, heads, head_dim], ``scale`` fp32 [1] unless the config says it.
        """
        ...

    def warmup(self, config: ProducerConfig, ms: Sequence[int]) -> None:
        """Compile everything that calls with these M need; threads may do so at once."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class PreparedWeights:
    """Weights in the form one kernel (or several, by ``weight_layout``) reads.

    Attributes:
        tensors: Named tensors; those of the checkpoint that needed no change are shared.
        weight_layout: Name of the form.
        n: Logical N, from the config.
        k: Logical K, from the config.
        restore: Gives the canonical weights back, bit for bit, when preparation was lossless.
        facts: Small numbers a kernel wants to keep (padded sizes).
    """

    tensors: Mapping[str, torch.Tensor]
    weight_layout: str
    n: int
    k: int
    restore: Callable[[], LinearWeights] | None = None
    facts: Mapping[str, int] = field(default_factory=dict)

    @property
    def bytes_held(self) -> int:
        """Bytes of the tensors, each storage counted once."""
        storages = {
            (t.untyped_storage().data_ptr(), t.device): t.untyped_storage().nbytes()
            for t in self.tensors.values()
        }
        return sum(storages.values())


@runtime_checkable
class Consumer(Protocol):
    """Kernels of ``linear``."""

    def prepare(
        self, weights: LinearWeights, config: LinearConfig, device: DeviceProfile
    ) -> PreparedWeights:
        """Give the weights in this kernel's form. Pure and idempotent: ``weights`` stay as is."""
        ...

    def bind(
        self, config: LinearConfig, prepared: PreparedWeights, device: DeviceProfile
    ) -> Callable[..., torch.Tensor]:
        """Give ``fn(x, *, out=None) -> y`` with y [M, N].

        x is a QuantizedTensor for schemes with an activation operand, else (weight-only, or the
        kernel quantizes inside) a plain tensor [M, K].
        """
        ...

    def warmup(self, config: LinearConfig, ms: Sequence[int]) -> None:
        """Compile everything that calls with these M need; threads may do so at once."""
        ...


@runtime_checkable
class Relayouter(Protocol):
    """Kernels of ``relayout``."""

    def bind(self, config: RelayoutConfig, device: DeviceProfile) -> Callable[..., QuantizedTensor]:
        """Give ``fn(q, *, out=None) -> QuantizedTensor`` in ``config.target``."""
        ...

    def warmup(self, config: RelayoutConfig, ms: Sequence[int]) -> None:
        """Compile everything that calls with these M need; threads may do so at once."""
        ...


@dataclass(frozen=True, slots=True)
class CompiledCode:
    """Machine code that a compiler made for a GPU that need not be here.

    Attributes:
        name: Name of the device function or of the source file.
        target: What it was assembled for: ``sm_90a``, ``sm_100f``, ``sm_89``.
        code: The machine code, an ELF object ("cubin").
        tool: The compiler: ``triton``, ``nvcc``.
        tool_version: Its version.
    """

    name: str
    target: str
    code: bytes = field(repr=False)
    tool: str
    tool_version: str


@runtime_checkable
class CompilesAhead(Protocol):
    """Optional, for a kernel with device code of its own: compiling it without the GPU.

    `quantmux.testing.compile_triton` and `quantmux.testing.compile_cuda` do the work. A kernel
    without the method runs as well as any; it only cannot be proved on a machine without the GPU.
    """

    def compile_for(self, config: LayerConfig, arch: Arch) -> Sequence[CompiledCode]:
        """Give the machine code of everything that a call with this config launches on ``arch``.

        Raises:
            BuildError: A compiler refuses; carries its last lines (code ``compile``), or the tool
                is not on this machine (code ``no_compiler``).
        """
        ...


Kernel = Producer | Consumer | Relayouter
ROLE_METHODS: Mapping[str, tuple[str, ...]] = {
    "linear": ("prepare", "bind", "warmup"),
    "quantize": ("bind", "warmup"),
    "silu_mul_quantize": ("bind", "warmup"),
    "inverse_rope_quantize": ("bind", "warmup"),
    "rmsnorm_quantize": ("bind", "warmup"),
    "rope_quantize": ("bind", "warmup"),
    "relayout": ("bind", "warmup"),
}
"""Methods that the loaded object of each op must have."""


def missing_methods(op: str, kernel: Any) -> tuple[str, ...]:
    """Give the methods of the op's role that the loaded object lacks."""
    return tuple(m for m in ROLE_METHODS[op] if not callable(getattr(kernel, m, None)))
