"""Offers: which fused producers write exactly what is read, and why the others do not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quantmux.capability.rejection import Rejection, RejectionCode
from quantmux.errors import ConfigError

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux.config import QuantizeConfig
    from quantmux.config.policy import Policy
    from quantmux.dispatch.selection import Selection
    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux.runtime.traced.keys import LinearProgram, ProducerProgram
    from quantmux.runtime.traced.prologue import Prologue

Code = RejectionCode


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something cannot be fused: which kernel or linear says so, and its rejection."""

    who: str
    rejection: Rejection

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON-ready data."""
        return {"who": self.who, **self.rejection.to_dict()}


class Asked:
    """Asks which producers serve a range of M, and keeps why those that do not do not."""

    def __init__(
        self,
        program: LinearProgram | ProducerProgram,
        prologue: Prologue,
        policy: Policy | None,
        first: int,
        last: int | None,
    ) -> None:
        self._program = program
        self._prologue = prologue
        self._policy = policy
        self._first, self._last = first, last
        self.refusals: list[Refusal] = []

    def offer(
        self, reads: QuantizeConfig, quantizer: KernelSpec, *, traded: bool = False
    ) -> Selection | None:
        """Give the producers that write what is read at every M; None where there are none.

        Args:
            reads: What is read.
            quantizer: The kernel that quantizes when nothing is fused.
            traded: The consumer stands for another one, which no lesser producer may bring about.
        """
        try:
            config = self._prologue.producer(reads)
        except ConfigError as error:
            why = Rejection(Code.OPERAND, "config", "a config that the op has", error.headline)
            self.refusals.append(Refusal(self._prologue.op, why))
            return None
        program = self._program
        layer = getattr(program, "layer", None)
        device = device_of(program)
        found = program.context.survey(config, device, layer=layer, call_overrides=self._policy)
        begin = self._first
        for choice in found.ranges:
            if choice.m_max is not None and choice.m_max < begin:
                continue
            if choice.m_min > begin:
                break
            kernel = choice.pipeline.main
            lesser = _lesser(kernel, quantizer, traded=traded)
            if lesser is not None:
                self._refuse(found)
                self.refusals.append(within(Refusal(kernel.id, lesser), self._first, self._last))
                return None
            if choice.m_max is None:
                return found
            begin = choice.m_max + 1
            if self._last is not None and begin > self._last:
                return found
        self._refuse(found)
        return None

    def _refuse(self, selection: Selection) -> None:
        """Remember why each producer that was asked cannot serve here."""
        if not selection.rejected and not selection.ranges:
            why = Rejection(Code.NO_PRODUCER, "op", f"a kernel of {self._prologue.op}", "none")
            self.refusals.append(Refusal(self._prologue.op, why))
        for name, reasons in selection.rejected.items():
            self.refusals += (
                within(Refusal(name, why), self._first, self._last)
                for why in reasons
                if why.code is not Code.OUTRANKED and self._is_here(why)
            )

    def _is_here(self, why: Rejection) -> bool:
        below = why.m_max is not None and why.m_max < self._first
        return not below and (self._last is None or why.m_min <= self._last)


def device_of(program: LinearProgram | ProducerProgram) -> DeviceProfile:
    """Give where a program runs."""
    owner: Any = program if hasattr(program, "selection") else program.bound
    found: DeviceProfile = owner.selection.device
    return found


def within(refusal: Refusal, first: int, last: int | None) -> Refusal:
    """Restrict a refusal to a range of M."""
    why = refusal.rejection
    low = max(why.m_min, first)
    high = last if why.m_max is None else min(why.m_max, last or why.m_max)
    return Refusal(refusal.who, why.replace(m_min=low, m_max=high))


def _lesser(kernel: KernelSpec, quantizer: KernelSpec, *, traded: bool) -> Rejection | None:
    """Say why a fused kernel must not stand for a quantizer: it is of a lower kind."""
    mine, other = kernel.capability, quantizer.capability
    for name, is_mine, is_other in (
        ("reference", mine.is_reference, other.is_reference),
        ("approximate", mine.is_approximate, other.is_approximate),
        ("experimental", mine.is_experimental, other.is_experimental),
    ):
        if is_mine and (traded or not is_other):
            return Rejection(
                Code.NO_PRODUCER,
                "kernel",
                f"one that is not {name}, as {quantizer.id} is not",
                f"{kernel.id}, the first that can serve",
            )
    return None


__all__ = ["Asked", "Refusal", "device_of", "within"]
