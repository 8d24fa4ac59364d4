"""The first-use self-check: a kernel that nobody has seen agree here runs one small case first.

It runs when a kernel is bound, in milliseconds, against the reference; a kernel that disagrees,
leaves its output untouched or raises is quarantined and the next candidate serves. What agreed is
remembered: in this process, and on disk for the next ones.
"""

from __future__ import annotations

import logging
import time
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from quantmux.capability.evidence import EvidenceLevel
from quantmux.errors import RunError
from quantmux.runtime.failures import Failure, classify, is_capturing
from quantmux.runtime.self_check_case import small_cases
from quantmux.runtime.self_check_kept import Passed, SelfChecks
from quantmux.runtime.self_check_run import NotMade, apart, run_case

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux.config import QuantizeConfig
    from quantmux.dispatch.pipeline import Step
    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux.runtime.context import Context
    from quantmux.runtime.prepare import WeightStore
    from quantmux.runtime.self_check_case import SmallCase
    from quantmux.runtime.steps import Examine

_log: Final = logging.getLogger("quantmux.build")
_checks: Final = SelfChecks()
_gates_lock: Final = Lock()
_gates: Final[dict[Any, Lock]] = {}


def examiner(context: Context, device: DeviceProfile, store: WeightStore | None) -> Examine:
    """Give the function that `steps.build` calls with every kernel it has loaded.

    Args:
        context: Tells what is known of the kernel.
        device: Where it will run.
        store: Weights of a linear, for the dtype of their bias.
    """
    bias = None if store is None else store.small("bias")
    bias_dtype = None if bias is None else bias.dtype

    def examine(step: Step, kernel: Any, reads: QuantizeConfig | None) -> None:
        spec = step.kernel
        if spec.capability.is_reference or _is_proved(context, spec.id, device):
            return
        if is_capturing():
            return  # it would wait for the device; the next bind outside a capture looks again
        cases = small_cases(spec, step.config, device, reads)
        if not cases:
            _log.info("%s is not checked: nothing small to compare with", spec.id)
            return
        ground = context.ground(spec.id, device)
        if ground is None:
            return
        is_lasting = _has_own_digest(context, spec)
        key = Passed.of(spec.id, device.name, ground, cases, str(bias_dtype))
        mark = None if is_lasting else kernel
        with _gate((key, id(kernel))):
            if _checks.has(key, mark):
                return
            start = time.perf_counter()
            try:
                error = apart(device, lambda: _run(spec, kernel, cases, device, bias_dtype))
            except NotMade as reason:
                _log.warning("%s is not checked: no inputs: %r", spec.id, reason.__cause__)
                return
            ms = (time.perf_counter() - start) * 1e3
            _log.info("%s agrees on %s: %d small cases, %.1f ms", spec.id, device, len(cases), ms)
            _checks.add(key, error, ms, mark)

    return examine


def _run(
    spec: KernelSpec,
    kernel: Any,
    cases: tuple[SmallCase, ...],
    device: DeviceProfile,
    bias_dtype: Any,
) -> float:
    try:
        return max(run_case(case, spec, kernel, device, bias_dtype) for case in cases)
    except NotMade:
        raise
    except Exception as error:
        if classify(error) is not Failure.CALLER:
            raise
        # the inputs are ours and right: who refuses them is not what it says it is
        text = " ".join(str(error).split())
        raise RunError(f"it refused its inputs: {type(error).__name__}: {text}") from error


def _is_proved(context: Context, kernel: str, device: DeviceProfile) -> bool:
    """Tell whether a run on this device, with this driver, has shown that the kernel agrees."""
    inventory = context.inventory(device)
    proof = inventory.proof(kernel)
    return (
        inventory.level(kernel).reaches(EvidenceLevel.VERIFIED)
        and not proof.failed
        and proof.driver == device.driver
    )


def _has_own_digest(context: Context, spec: KernelSpec) -> bool:
    """Tell whether the digest changes with the kernel's code; else no verdict is kept on disk."""
    has_sources = bool(spec.sources) and context.registry.folder(spec.backend) is not None
    return has_sources or bool(spec.version)


def _gate(key: Any) -> Lock:
    """Give the lock behind which one kernel is checked once, however many threads bind it."""
    with _gates_lock:
        return _gates.setdefault(key, Lock())
