"""Running one linear of a checkpoint: select, prepare, run, compare with the reference, time."""

from __future__ import annotations

import math
import time
import zlib
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.checkpoint import load_linear
from quantmux.config.formats import NVFP4_GLOBAL_DENOMINATOR
from quantmux.dispatch.reference_config import reference_config
from quantmux.ops.inputs import make_matrix
from quantmux.ops.linear.reference import linear_exact
from quantmux.ops.linear.tolerance import compare, linear_magnitude
from quantmux.runtime.binding import BoundLinear, bind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux.capability.device import DeviceProfile
    from quantmux.checkpoint import Checkpoint, LayerEntry
    from quantmux.config import LinearConfig
    from quantmux.ops.quantized import LinearWeights
    from quantmux.runtime.context import Context

_SIGMAS: Final = 4.0
"""Standard deviations that a static scale is taken to cover."""

_REPEATS: Final = 5
_LONG_S: Final = 1.0
"""A call that takes longer than this is not timed a second time."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One linear at one M.

    Attributes:
        name: Module name.
        n: Output width.
        k: Input width.
        m: Rows of x.
        scheme: Name of the scheme asked.
        pipeline: Kernel ids in the order of the call.
        tier: Tier of the pipeline.
        rel_error: Relative Frobenius error against the reference of the pipeline taken.
        tolerance: What it may be at most.
        worst: Largest elementwise error in units of what was allowed for its element.
        scheme_distance: Relative distance of that reference from the reference of the scheme.
        us: Median time of a call, µs.
        fallbacks: What was taken instead of what was wanted.
        ok: Every element and the whole are within tolerance.
    """

    name: str
    n: int
    k: int
    m: int
    scheme: str
    pipeline: tuple[str, ...]
    tier: str
    rel_error: float
    tolerance: float
    worst: float
    scheme_distance: float
    us: float
    fallbacks: tuple[dict[str, Any], ...]
    ok: bool

    def to_dict(self) -> dict[str, Any]:
        """Give the row as JSON-ready data; a number that is not finite is null."""
        return {
            "name": self.name,
            "n": self.n,
            "k": self.k,
            "m": self.m,
            "scheme": self.scheme,
            "pipeline": list(self.pipeline),
            "tier": self.tier,
            "rel_error": _finite(self.rel_error),
            "tolerance": _finite(self.tolerance),
            "worst": _finite(self.worst),
            "scheme_distance": _finite(self.scheme_distance),
            "us": _finite(self.us),
            "fallbacks": list(self.fallbacks),
            "ok": self.ok,
        }


class Runner:
    """Measures the linears of one checkpoint on one device.

    Args:
        context: Plugins and policy.
        checkpoint: Where the weights are.
        device: A device that is here.
        tokens: The Ms.
        seed: Of the activations.
        force: A backend or kernel id that must be taken, or None.
    """

    def __init__(
        self,
        context: Context,
        checkpoint: Checkpoint,
        device: DeviceProfile,
        *,
        tokens: Sequence[int],
        seed: int,
        force: str | None = None,
    ) -> None:
        self._context = context
        self._checkpoint = checkpoint
        self._device = device
        self._tokens = tuple(tokens)
        self._seed = seed
        self._overrides = None if force is None else {"force": force}

    def run(self, entry: LayerEntry) -> list[Measured]:
        """Measure one linear at every M.

        Raises:
            CheckpointError: A tensor is missing, or a scale is no scale.
            SelectionError: Nothing can serve it.
            RunError: A kernel raised, and no other could take over.
        """
        weights = load_linear(self._checkpoint, entry, self._device.torch_name)
        selection = self._context.select(
            entry.config, self._device, layer=entry.name, call_overrides=self._overrides
        )
        # "run" speaks of the kernels that were chosen, so it has time for their compilers
        bound = bind(selection, weights, context=self._context, layer=entry.name, wait=True)
        bound.warmup(self._tokens)
        return [self._measure(entry, weights, bound, m) for m in self._tokens]

    def _measure(
        self, entry: LayerEntry, weights: LinearWeights, bound: BoundLinear, m: int
    ) -> Measured:
        config = entry.config
        x = self._activations(entry, weights, m)
        y = bound.call(x)
        pipeline = bound.pipeline_for(m)
        taken = reference_config(config, pipeline)
        exact = linear_exact(x, weights, taken)
        found = compare(y, exact, config=taken, magnitude=linear_magnitude(x, weights, taken))
        own = pipeline.rel_tolerance
        tolerance = found.tolerance if own is None else max(found.tolerance, own)
        is_ok = found.ok or (own is not None and found.rel_error <= own)
        # x is finite: a reference that is not tells of broken weights, and agrees with anything
        is_ok = is_ok and bool(torch.isfinite(exact).all())
        distance = 0.0
        if taken != config:
            distance = _relative(exact, linear_exact(x, weights, config))
        return Measured(
            name=entry.name,
            n=config.n,
            k=config.k,
            m=m,
            scheme=config.scheme.name,
            pipeline=pipeline.ids,
            tier=str(pipeline.tier),
            rel_error=found.rel_error,
            tolerance=tolerance,
            worst=found.worst,
            scheme_distance=distance,
            us=self._time(lambda: bound.call(x)),
            fallbacks=tuple(event.to_dict() for event in bound.events),
            ok=is_ok,
        )

    def _activations(self, entry: LayerEntry, weights: LinearWeights, m: int) -> torch.Tensor:
        """Give x [m, K], normal; as large as a static scale expects, else of deviation 1."""
        config = entry.config
        seed = zlib.crc32(f"{self._seed} {entry.name} {m}".encode())
        return make_matrix(
            "normal",
            m,
            config.k,
            config.in_dtype,
            magnitude=_magnitude(config, weights),
            seed=seed,
            device=self._device.torch_name,
        )

    def _time(self, call: Callable[[], Any]) -> float:
        timer = _cuda_us if self._device.is_cuda else _host_us
        first = timer(call)
        if first > _LONG_S * 1e6:
            return first
        return median(timer(call) for _ in range(_REPEATS))


def _magnitude(config: LinearConfig, weights: LinearWeights) -> float:
    activation = config.scheme.activation
    if activation is None:
        return 1.0
    if weights.input_global_scale is not None and activation.global_scale == "static":
        return float(weights.input_global_scale) * NVFP4_GLOBAL_DENOMINATOR / _SIGMAS
    if weights.input_scale is not None and not activation.dynamic:
        return float(weights.input_scale) * activation.max_value / _SIGMAS
    return 1.0


def _relative(found: torch.Tensor, asked: torch.Tensor) -> float:
    if not found.numel():
        return 0.0
    size = float(asked.norm())
    distance = float((found - asked).norm())
    return distance / size if size else distance


def _host_us(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e6


def _cuda_us(call: Callable[[], Any]) -> float:
    event: Any = torch.cuda.Event  # torch has no types for it
    start, end = event(enable_timing=True), event(enable_timing=True)
    start.record()
    call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1e3


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
