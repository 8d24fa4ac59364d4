"""Offers: which fused producers write exactly what is read, and why the others do not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from quantmux.capability.rejection import Rejection, RejectionCode
from quantmux.errors import ConfigError
from quantmux.runtime.traced.agreed import agreed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LayerConfig, QuantizeConfig
    from quantmux.config.policy import Policy
    from quantmux.config.settings import Settings
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
    """Asks which producers serve a range of M, and keeps why those that do not do not.

    Args:
        programs: All that would read what the producer writes; of one device and context.
        prologue: What the producer does before it quantizes.
        policy: Over what the policy says of the producer's op. It may forbid more than the programs
            were bound under, not allow more.
        first: First M.
        last: Last M, None is unbounded.
    """

    def __init__(
        self,
        programs: Sequence[LinearProgram | ProducerProgram],
        prologue: Prologue,
        policy: Policy | None,
        first: int,
        last: int | None,
    ) -> None:
        self._programs = programs
        self._prologue = prologue
        self._policy = policy
        self._first, self._last = first, last
        self.refusals: list[Refusal] = []

    def offer(
        self, reads: QuantizeConfig, quantizers: Sequence[KernelSpec], *, traded: bool = False
    ) -> Selection | None:
        """Give the producers that write what is read at every M; None where there are none.

        Args:
            reads: What is read.
            quantizers: The kernels that quantize when nothing is fused, one per program.
            traded: A consumer stands for another one, which no lesser producer may bring about.
        """
        try:
            config = self._prologue.producer(reads)
        except ConfigError as error:
            why = Rejection(Code.OPERAND, "config", "a config that the op has", error.headline)
            self.refusals.append(Refusal(self._prologue.op, why))
            return None
        forced = self._forced(quantizers)
        if len(forced) > 1 or (forced and config.op != "quantize" and "/" in next(iter(forced))):
            self._refuse_forced(forced)
            return None
        found = self._survey(config, next(iter(forced), None))
        begin = self._first
        for choice in found.ranges:
            if choice.m_max is not None and choice.m_max < begin:
                continue
            if choice.m_min > begin:
                break
            kernel = choice.pipeline.main
            lesser = _lesser(kernel, quantizers, traded=traded)
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

    def _survey(self, config: LayerConfig, forced: str | None) -> Selection:
        """Ask under settings to which all programs agree."""
        program, policy = self._programs[0], self._policy
        context, device = program.context, device_of(program)
        layers = [getattr(one, "layer", None) for one in self._programs]
        found = context.survey(config, device, layer=layers[0], call_overrides=policy)
        others = [context.settings(config, device, one, policy) for one in layers[1:]]
        members = [settings_of(one) for one in self._programs]
        settings = agreed([found.settings, *others], members, forced)
        if settings == found.settings:
            return found
        return context.reselect(replace(found, settings=settings))

    def _forced(self, quantizers: Sequence[KernelSpec]) -> set[str]:
        """Give what the programs force to quantize.

        A kernel by its id; a backend only where the program is a quantizer: a linear may have its
        producers from anywhere.
        """
        found: set[str] = set()
        for program, quantizer in zip(self._programs, quantizers, strict=True):
            settings = settings_of(program)
            force = settings.force
            is_one = force is not None and ("/" in force or not hasattr(program, "selection"))
            if force is not None and is_one and settings.forces(quantizer.id):
                found.add(force)
        return found

    def _refuse_forced(self, forced: set[str]) -> None:
        need = " and ".join(sorted(forced))
        have = f"a kernel of {self._prologue.op} in its place"
        why = Rejection(Code.NOT_FORCED, "force", f"{need} (by the layer's policy)", have)
        self.refusals.append(within(Refusal(self._prologue.op, why), self._first, self._last))

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
    found: DeviceProfile = _selection(program).device
    return found


def settings_of(program: LinearProgram | ProducerProgram) -> Settings:
    """Give the settings under which a program was selected: its own policy is among them."""
    found: Settings = _selection(program).settings
    return found


def _selection(program: LinearProgram | ProducerProgram) -> Any:
    owner: Any = program if hasattr(program, "selection") else program.bound
    return owner.selection


def within(refusal: Refusal, first: int, last: int | None) -> Refusal:
    """Restrict a refusal to a range of M."""
    why = refusal.rejection
    low = max(why.m_min, first)
    high = last if why.m_max is None else min(why.m_max, last or why.m_max)
    return Refusal(refusal.who, why.replace(m_min=low, m_max=high))


def _lesser(
    kernel: KernelSpec, quantizers: Sequence[KernelSpec], *, traded: bool
) -> Rejection | None:
    """Say why a fused kernel must not stand for the quantizers: it is lower than one of them."""
    mine = kernel.capability
    for quantizer in quantizers:
        other = quantizer.capability
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


__all__ = ["Asked", "Refusal", "device_of", "settings_of", "within"]
