"""What a peer is to the harness: a name, what its time covers, and calls that can be checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from quantmux.bench.gate import Checked, check_linear
from quantmux.ops.spec import op_spec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from quantmux.bench.materials import Materials
    from quantmux.bench.rows import BenchCase
    from quantmux.bench.traffic import Part
    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LinearConfig
    from quantmux.config.layers import ProducerConfig
    from quantmux.ops.spec import Call

_STEP: Final = 0.125
"""A step of an e4m3 code, relative."""

_VALUES: Final = 3e-2
"""Relative Frobenius distance of a quantizer's values from the reference's."""


@dataclass(frozen=True, slots=True)
class BoundPeer:
    """A peer's calls on one case.

    Attributes:
        calls: One per copy of the buffers.
        compare: Compares a result with the reference.
    """

    calls: tuple[Callable[[], Any], ...]
    compare: Callable[[Any], Checked]

    def check(self) -> Checked:
        """Run the first call and compare its result."""
        return self.compare(self.calls[0]())


class Peer(Protocol):
    """One peer.

    Attributes:
        name: As shown in tables.
        part: ``pipeline`` when it takes a plain x, ``gemm`` when the quantizing of x is not in
            its time.
    """

    name: str
    part: Part

    def unavailable(self, device: DeviceProfile) -> str:
        """Give why it cannot run here, "" when it can. Never raises."""
        ...

    def refuses(self, case: BenchCase) -> str:
        """Give why it does not do this case, "" when it does."""
        ...

    def bind(self, case: BenchCase, materials: Materials, inputs: Sequence[Call]) -> BoundPeer:
        """Give its calls, one per input; may raise anything."""
        ...


def linear_peer(
    calls: Sequence[Callable[[], torch.Tensor]],
    config: LinearConfig,
    materials: Materials,
    inputs: Sequence[Call],
    tolerance: float,
) -> BoundPeer:
    """Give a bound peer whose y is compared with the reference of a config.

    Args:
        calls: One per copy; each gives y [M, N].
        config: What it computes.
        materials: The weights.
        inputs: Plain inputs.
        tolerance: Bound on the relative Frobenius error.
    """

    def compare(y: Any) -> Checked:
        return check_linear(config, inputs[0].args[0], materials, y, tolerance=tolerance)

    return BoundPeer(tuple(calls), compare)


def producer_peer(
    calls: Sequence[Callable[[], Any]],
    config: ProducerConfig,
    materials: Materials,
    inputs: Sequence[Call],
) -> BoundPeer:
    """Give a bound peer whose quantized result is compared with the reference by its values.

    Not bit by bit: peers multiply by a rounded reciprocal, or round in between. Judged are the
    scales and what the codes stand for, so that a wrong layout, a scale of another row or memory
    that was not written is seen.

    Args:
        calls: One per copy; each gives a `QuantizedTensor`.
        config: What it computes.
        materials: Of the config.
        inputs: Arguments of the calls.
    """

    def compare(q: Any) -> Checked:
        want = (
            op_spec(materials.config.op)
            .reference(*inputs[0].args, config, **inputs[0].kwargs)
            .dequantize()
        )
        found = q.dequantize()
        # a step of a code is 1/8 of it at most, and half of all may be one off by a scale's ulp
        apart = float((found - want).norm() / want.norm())
        worst = float(((found - want).abs() - _STEP * want.abs()).max() / want.abs().max())
        if apart <= _VALUES and worst <= _STEP:
            return Checked(True, f"values, {apart:.1e} off")
        return Checked(False, reason=f"values are {apart:.3g} off, at most {_VALUES}")

    return BoundPeer(tuple(calls), compare)
