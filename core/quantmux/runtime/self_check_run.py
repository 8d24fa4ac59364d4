"""Running one small case: poisoned output, the reference, and nobody else disturbed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from threading import Thread
from typing import TYPE_CHECKING, Any, Final, TypeVar

import torch

from quantmux.config.layers import LinearConfig, QuantizeConfig
from quantmux.errors import NumericsError, RunError
from quantmux.ops.agreement import agreement
from quantmux.ops.linear.spec import make_x
from quantmux.ops.poison import poisoned_output
from quantmux.ops.quantized import QuantizedTensor
from quantmux.ops.spec import Call, Case, op_spec
from quantmux.registry.guard import Outcome, guarded
from quantmux.runtime.failures import Failure, classify
from quantmux.runtime.results import result_problem

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LayerConfig
    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux.runtime.self_check_case import SmallCase

T = TypeVar("T")
_SEEDS: Final = (11, 12, 13)


class NotMade(Exception):  # noqa: N818 - it is caught inside this room, never shown
    """The inputs of a case could not be made; its cause says why."""


def apart(device: DeviceProfile, action: Callable[[], T]) -> T:
    """Run something in a thread of its own, on a device, and give what it gives or raises.

    Grad mode, inference mode, autocast, default device, current device and stream, and every
    torch mode belong to a thread: a new one has none of the caller's and leaves the caller's alone.
    """
    outcome: list[Any] = []

    def run() -> None:
        def quietly() -> T:
            with torch.no_grad():
                if device.is_cuda:
                    with torch.cuda.device(device.index or 0):
                        return action()
                return action()

        try:
            outcome.append(guarded(quietly))
        # no signal reaches this thread: whatever else ends it is the kernel's
        except BaseException as error:  # noqa: BLE001
            text = f"it ended the check: {type(error).__name__}"
            outcome.append(Outcome(error=RunError(text, code="self_check")))

    thread = Thread(target=run, name="quantmux-self-check", daemon=True)
    thread.start()
    thread.join()
    (found,) = outcome
    if found.error is not None:
        raise found.error
    value: T = found.value
    return value


def run_case(
    case: SmallCase,
    spec: KernelSpec,
    kernel: Any,
    device: DeviceProfile,
    bias_dtype: torch.dtype | None = None,
) -> float:
    """Run one case; gives the greatest error of its results.

    The kernel is called once with ``out=`` and twice without, on other numbers: what ignores
    ``out``, returns memory as it found it, or returns the same memory twice is found.

    Args:
        case: The case.
        spec: The kernel.
        kernel: What was loaded for it.
        device: Where.
        bias_dtype: Of the layer's bias.

    Raises:
        NotMade: There are no inputs to try it with.
        NumericsError: A result disagrees, memory was left untouched, or written beside.
        Exception: What the kernel raises.
    """
    given, plain, again = _inputs(case, device, bias_dtype)
    run = _bound(case, kernel, device, given.args[-1])
    poisoned = poisoned_output(
        case.config,
        case.m,
        device.torch_name,
        row_multiple=spec.capability.output_row_multiple,
    )
    result = run(given, poisoned.out)
    _check_type(case, result, given)
    if poisoned.overrun:
        raise _wrong(case, f"it wrote beside its output: {', '.join(poisoned.overrun)}")
    if poisoned.untouched:
        raise _wrong(case, f"it left its output untouched: {', '.join(poisoned.untouched)}")
    if _places(result) != _places(poisoned.out):
        raise _wrong(case, "it returned other memory than out")
    worst = _compare(case, spec, given, result)
    first = run(plain, None)
    _check_type(case, first, plain)
    second = run(again, None)
    _check_type(case, second, again)
    if _places(first) & _places(second):
        raise _wrong(case, "it returned the same memory for two calls")
    errors = [_compare(case, spec, plain, first), _compare(case, spec, again, second)]
    return max(worst, *errors)


def _inputs(
    case: SmallCase, device: DeviceProfile, bias_dtype: torch.dtype | None
) -> tuple[Call, ...]:
    """Give three calls with different numbers; those of a linear multiply by the same weights.

    Raises:
        NotMade: They cannot be made: no fault of the kernel.
    """
    config, where = case.config, device.torch_name
    make = op_spec(config.op).inputs
    source = Case(config, case.m, case.kind)
    try:
        if not isinstance(config, LinearConfig):
            return tuple(make(source, where, seed) for seed in _SEEDS)
        x, weights = make(source, where, _SEEDS[0]).args
        if weights.bias is not None and bias_dtype is not None:
            weights = replace(weights, bias=weights.bias.to(bias_dtype))
        xs = [x, *(make_x(source, where, seed) for seed in _SEEDS[1:])]
        return tuple(Call((_operand(case.reads, x, weights), weights)) for x in xs)
    except Exception as error:
        if classify(error) in (Failure.OUT_OF_MEMORY, Failure.POISONED):
            raise
        raise NotMade(case) from error


def _bound(
    case: SmallCase, kernel: Any, device: DeviceProfile, weights: Any
) -> Callable[[Call, Any], Any]:
    """Give the kernel's function of a call and an output."""
    config = case.config
    if isinstance(config, LinearConfig):
        consume = kernel.bind(config, kernel.prepare(weights, config, device), device)

        def multiply(call: Call, out: Any) -> Any:
            extra = {} if out is None else {"out": out}
            return consume(call.args[0], **extra)

        return multiply
    bound = kernel.bind(config, device)

    def produce(call: Call, out: Any) -> Any:
        extra = {} if out is None else {"out": out}
        return bound(*call.args, **call.kwargs, **extra)

    return produce


def _operand(reads: QuantizeConfig | None, x: torch.Tensor, weights: Any) -> Any:
    """Give x as the consumer reads it, made by the reference."""
    if reads is None:
        return x
    from quantmux.ops.quantize.reference import quantize
    from quantmux.runtime.steps import static_scales

    scales: dict[str, Any] = {
        **static_scales(reads.operand, weights.input_scale, weights.input_global_scale)
    }
    return quantize(x, reads, **scales)


def _compare(case: SmallCase, spec: KernelSpec, call: Call, result: Any) -> float:
    config = _meant(case, spec)
    capability = spec.capability
    found = agreement(
        config, call, result, rel_tolerance=capability.rel_tolerance, tags=capability.tags
    )
    if not found.ok:
        raise _wrong(case, found.reason)
    return found.error


def _meant(case: SmallCase, spec: KernelSpec) -> LayerConfig:
    """Give the config whose reference a result must agree with.

    A kernel that reads plain activations and does not quantize them itself leaves them in 16 bit;
    a quantized x may have stricter scales (powers of two) than was asked.
    """
    config = case.config
    if not isinstance(config, LinearConfig) or config.scheme.activation is None:
        return config
    scheme = config.scheme
    if case.reads is not None:
        if case.reads.operand == scheme.activation:
            return config
        return config.replace(scheme=scheme.replace(activation=case.reads.operand))
    quantizes = any(o.quantizes_inside for o in spec.capability.schemes)
    return config if quantizes else config.replace(scheme=scheme.replace(activation=None))


def _check_type(case: SmallCase, result: Any, call: Call) -> None:
    x = call.args[0]
    problem = result_problem(case.config, result, case.m, x.device)
    if problem is not None:
        raise _wrong(case, f"it {problem}")


def _places(value: Any) -> set[int]:
    """Give the addresses at which the parts of a result begin, those that are the kernel's own."""
    if isinstance(value, QuantizedTensor):
        return {value.data.data_ptr(), value.scales.data_ptr()}
    return {value.data_ptr()}


def _wrong(case: SmallCase, reason: str) -> NumericsError:
    return NumericsError(
        reason,
        facts=[f"{case.config}, M = {case.m}, {case.kind} inputs"],
        hint='policy self_check = "never" would take it as it is',
        code="self_check",
    )
