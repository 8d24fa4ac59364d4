"""Stage: what the checks of one registry on one device share: kernels, inputs, bound functions."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.capability.rejection import Rejection, RejectionCode
from quantmux.config.settings import Settings
from quantmux.dispatch.eligible import Verdict, judge
from quantmux.dispatch.gather import gather
from quantmux.dispatch.inventory import Inventory
from quantmux.dispatch.join import input_of
from quantmux.dispatch.tier import Tier
from quantmux.ops.linear.spec import make_weights, make_x, with_input_scales
from quantmux.ops.quantize.reference import quantize
from quantmux.ops.quantized import DTYPES
from quantmux.ops.spec import Call, Case, op_spec
from quantmux.testing.fences import fenced

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LayerConfig, LinearConfig
    from quantmux.ops.quantized import LinearWeights, QuantizedTensor
    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux.registry.manager import Registry

PERMISSIVE: Final = Settings(allow_lossy="allow")
"""A kernel is judged by what it offers: no policy stands between it and the cells."""

_KEPT: Final = 48
"""Bound kernels that are kept, and sets of weights."""


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """One kernel bound for one case, with its inputs and what they shall be judged by.

    Attributes:
        spec: The kernel.
        case: The case; its config is what the kernel was bound for.
        judged: Config whose reference judges it: a weight-only stand-in for a scheme with an
            activation operand is judged as the weight-only scheme that it is.
        call: What the reference takes.
        run: The bound function.
        prepared: Prepared weights of a linear, else None.
    """

    spec: KernelSpec
    case: Case
    judged: LayerConfig
    call: Call
    run: Callable[..., Any]
    prepared: Any = None

    @property
    def inputs(self) -> tuple[Any, ...]:
        """What the bound function takes: without the weights of a linear."""
        return self.call.args[:1] if self.spec.op == "linear" else self.call.args

    def __call__(self, out: Any = None) -> Any:
        """Call the kernel."""
        given = {} if out is None else {"out": out}
        return self.run(*self.inputs, **self.call.kwargs, **given)


@dataclass(eq=False)
class Stage:
    """One registry on one device, with one seed.

    Attributes:
        registry: The plugins.
        device: Where.
        seed: Of every input.
        lost: The cell in which the CUDA context was lost; nothing can run here any more.
    """

    registry: Registry
    device: DeviceProfile
    seed: int = 0
    lost: str = ""
    _blocked: Mapping[str, tuple[Rejection, ...]] = field(init=False)
    _verdicts: dict[tuple[str, LayerConfig], Verdict] = field(default_factory=dict)
    _weights: OrderedDict[Any, LinearWeights] = field(default_factory=OrderedDict)
    _bound: OrderedDict[Any, tuple[Any, Callable[..., Any]]] = field(default_factory=OrderedDict)
    _elsewhere: dict[DeviceProfile, Stage] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Ask what blocks the kernels here; a quarantined one is looked at like any other."""
        self._blocked = gather(self.registry, self.device).blocked

    @property
    def home(self) -> torch.device:
        """The torch device."""
        return torch.device(self.device.torch_name)

    def spec(self, kernel_id: str) -> KernelSpec:
        """Give a kernel."""
        return self.registry.get(kernel_id)

    def blocked(self, spec: KernelSpec) -> Rejection | None:
        """Give why the kernel cannot run on this machine whatever it is asked, or None."""
        if not any(self.device.arch in arch for arch in spec.capability.arch):
            need = ", ".join(str(a) for a in spec.capability.arch)
            return Rejection(RejectionCode.ARCH, "arch", need, str(self.device.arch))
        found = self._blocked.get(spec.id, ())
        if found:
            return found[0]
        if self.device.is_cuda and not self.device.is_present:
            text = "a profile: nothing runs on it"
            return Rejection(RejectionCode.UNAVAILABLE, "device", f"{self.device.name} here", text)
        return None

    def verdict(self, spec: KernelSpec, config: LayerConfig) -> Verdict:
        """Give dispatch's verdict on the kernel alone, under no policy."""
        key = (spec.id, config)
        found = self._verdicts.get(key)
        if found is None:
            found = judge(spec, config, self.device, PERMISSIVE, self._inventory(spec))
            self._verdicts[key] = found
        return found

    def verdict_on(self, spec: KernelSpec, config: LayerConfig, device: DeviceProfile) -> Verdict:
        """Give dispatch's verdict for another device."""
        return judge(spec, config, device, PERMISSIVE, Inventory((spec,)))

    def refusals(self, spec: KernelSpec, config: LayerConfig, m: int) -> tuple[Rejection, ...]:
        """Give every reason why the kernel does not serve the config at M rows; () if it does."""
        verdict = self.verdict(spec, config)
        limits = tuple(limit for limit in verdict.limits if _holds(limit, spec, m))
        return (*verdict.rejections, *limits)

    def trial(
        self, spec: KernelSpec, case: Case, *, reads: int = 0, bias: str = "", other: int = 0
    ) -> Trial:
        """Bind the kernel for a case that it serves, and make the inputs.

        Args:
            spec: The kernel.
            case: What is asked.
            reads: Which of the layouts that a consumer reads x shall have.
            bias: Dtype of a linear's bias; "" leaves it fp32.
            other: Another number gives other contents of the same inputs (the same weights).
        """
        if case.config.op == "linear":
            return self._linear(spec, case, reads, bias, other)
        made = op_spec(case.config.op).inputs(case, self.home, self.seed + 1000 * other)
        call = replace(made, args=(fenced(made.args[0]), *made.args[1:]))
        kernel = self.registry.load_kernel(spec.id)
        run = self._keep(
            self._bound,
            (spec.id, case.config),
            lambda: (None, kernel.bind(case.config, self.device)),
        )[1]
        return Trial(spec, case, case.config, call, run)

    def on(self, device: DeviceProfile) -> Stage:
        """Give the same registry on another device, where selection can be asked."""
        if device not in self._elsewhere:
            self._elsewhere[device] = Stage(self.registry, device, self.seed)
        return self._elsewhere[device]

    def any_config(self, spec: KernelSpec) -> LayerConfig:
        """Give a config of the kernel's op, served or not."""
        config: LayerConfig = op_spec(spec.op).cases()[0].config
        return config

    def inputs_read(self, spec: KernelSpec, config: LinearConfig) -> int:
        """Give how many quantized inputs a consumer may be given; 0 where it takes a plain x."""
        return len(self._reads(spec, config))

    def _linear(self, spec: KernelSpec, case: Case, reads: int, bias: str, other: int) -> Trial:
        config: LinearConfig = case.config
        x = make_x(case, self.home, self.seed + 1000 * other)
        made = self._keep(
            self._weights, _weights_key(case), lambda: make_weights(case, self.home, self.seed)
        )
        # other contents of x meet the weights, and the static scales, that the case has
        first = make_x(case, self.home, self.seed) if other else x
        weights = with_input_scales(made, config, first)
        if bias and weights.bias is not None:
            weights = replace(weights, bias=weights.bias.to(DTYPES[bias]))
        key = (*_bound_key(case), bias)
        kernel = self.registry.load_kernel(spec.id)

        def bind() -> tuple[Any, Callable[..., Any]]:
            prepared = kernel.prepare(weights, config, self.device)
            return prepared, kernel.bind(config, prepared, self.device)

        prepared, run = self._keep(self._bound, (spec.id, config, key), bind)
        given, judged = self._as_read(spec, config, x, weights, reads)
        return Trial(spec, case, judged, Call((given, weights)), run, prepared)

    def _as_read(
        self,
        spec: KernelSpec,
        config: LinearConfig,
        x: torch.Tensor,
        weights: LinearWeights,
        reads: int,
    ) -> tuple[torch.Tensor | QuantizedTensor, LinearConfig]:
        if self.verdict(spec, config).tier is Tier.WEIGHT_ONLY:
            plain = config.scheme.replace(activation=None)
            return fenced(x), config.replace(scheme=plain)
        wanted = self._reads(spec, config)
        activation = config.scheme.activation
        if not wanted or activation is None:
            return fenced(x), config
        scale = None if activation.dynamic else weights.input_scale
        g = weights.input_global_scale if activation.global_scale == "static" else None
        given = quantize(x, wanted[reads % len(wanted)], scale=scale, global_scale=g)
        return fenced(given), config

    def _reads(self, spec: KernelSpec, config: LinearConfig) -> tuple[Any, ...]:
        offer = self.verdict(spec, config).offer
        activation = config.scheme.activation
        if offer is None or offer.activation is None or activation is None:
            return ()
        if offer.quantizes_inside:
            return ()
        asked = offer.activation
        return input_of(spec.capability, asked, activation, config.k, config.in_dtype)

    def _inventory(self, spec: KernelSpec) -> Inventory:
        return Inventory((spec,), blocked=self._blocked)

    @staticmethod
    def _keep(store: OrderedDict[Any, Any], key: Any, make: Callable[[], Any]) -> Any:
        found = store.get(key)
        if found is None:
            found = store[key] = make()
            while len(store) > _KEPT:
                store.popitem(last=False)
        else:
            store.move_to_end(key)
        return found


def _weights_key(case: Case) -> tuple[Any, ...]:
    """Give what weights without their input scales depend on."""
    config: LinearConfig = case.config
    if not config.bias:
        return (config,)
    return config, case.kind == "large_bias", case.magnitude


def _bound_key(case: Case) -> tuple[Any, ...]:
    """Give what a bound linear depends on: for most cases the config alone."""
    key = _weights_key(case)
    if case.config.scheme.needs_static_activation_scale:
        key += (case.m, case.kind, case.magnitude)
    return key


def _holds(limit: Rejection, spec: KernelSpec, m: int) -> bool:
    """Tell whether a limit speaks of M rows; M = 0 launches nothing, so everybody serves it."""
    if m == 0:
        return False
    if limit.code is RejectionCode.M_MULTIPLE:
        return m % spec.capability.m_multiple != 0
    return limit.m_min <= m and (limit.m_max is None or m <= limit.m_max)
