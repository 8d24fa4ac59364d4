"""Eligibility: every reason why one kernel cannot serve one config on one device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantmux.capability.evidence import EvidenceLevel
from quantmux.capability.rejection import Rejection, RejectionCode
from quantmux.config.layouts import round_up
from quantmux.dispatch.join import reads
from quantmux.dispatch.tier import Tier

if TYPE_CHECKING:
    from quantmux.capability.capability import Capability, SchemeOffer
    from quantmux.capability.device import DeviceProfile
    from quantmux.capability.evidence import Evidence
    from quantmux.config import LayerConfig, LinearConfig, RelayoutConfig
    from quantmux.config.layers import ProducerConfig
    from quantmux.config.settings import Settings
    from quantmux.dispatch.inventory import Inventory
    from quantmux.registry.kernel_spec import KernelSpec

Code = RejectionCode


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found about one kernel.

    Attributes:
        rejections: Reasons that hold for every M; empty when it can serve.
        limits: Reasons that hold for some M only.
        tier: Relation to the asked scheme; None when no operand fits.
        offer: The operand pair that fits (consumers).
    """

    rejections: tuple[Rejection, ...]
    limits: tuple[Rejection, ...] = ()
    tier: Tier | None = None
    offer: SchemeOffer | None = None

    @property
    def is_eligible(self) -> bool:
        """Tell whether it can serve at least some M."""
        return not self.rejections


def reject(
    code: RejectionCode, field: str, need: object, have: object, hint: str | None = None
) -> Rejection:
    """Build a rejection for all M."""
    return Rejection(code=code, field=field, required=str(need), actual=str(have), hint=hint)


def judge(
    spec: KernelSpec,
    config: LayerConfig,
    device: DeviceProfile,
    settings: Settings,
    inventory: Inventory,
) -> Verdict:
    """Give the verdict on one kernel for a config of its own op."""
    capability = spec.capability
    found = [*_arch(capability, device), *inventory.blocked.get(spec.id, ())]
    tier: Tier | None = Tier.REFERENCE if capability.is_reference else Tier.NATIVE
    offer: SchemeOffer | None = None
    if config.op == "linear":
        mismatch, tier, offer = _scheme(capability, config, settings)
        found += mismatch
        found += _linear(capability, config, offer)
    elif config.op == "relayout":
        found += _relayout(capability, config)
    else:
        found += _producer(capability, config)
    found += _policy(spec, settings, inventory)
    if not found:
        found += _veto(spec, config, device)
    return Verdict(tuple(found), _limits(capability), tier, offer)


def _arch(capability: Capability, device: DeviceProfile) -> list[Rejection]:
    if any(device.arch in arch for arch in capability.arch):
        return []
    need = ", ".join(str(a) for a in capability.arch)
    return [reject(Code.ARCH, "arch", need, device.arch)]


def _scheme(
    capability: Capability, config: LinearConfig, settings: Settings
) -> tuple[list[Rejection], Tier | None, SchemeOffer | None]:
    """Find the best operand pair, or the mismatch that came nearest to fitting."""
    best: tuple[Tier, SchemeOffer] | None = None
    nearest: list[Rejection] | None = None
    for offer in capability.schemes:
        mismatch, tier = _pair(capability, offer, config)
        if mismatch:
            if nearest is None or _distance(mismatch) < _distance(nearest):
                nearest = mismatch
        elif tier is not None and (best is None or tier.rank < best[0].rank):
            best = (tier, offer)
    if best is None:
        return nearest or [], None, None
    tier, offer = best
    if tier is Tier.WEIGHT_ONLY and settings.allow_lossy == "forbid":
        asked = config.scheme.activation
        lossy = reject(
            Code.LOSSY,
            "allow_lossy",
            "warn or allow",
            "forbid",
            f"it would ignore the activation operand {asked}",
        )
        return [lossy], tier, offer
    return [], tier, offer


def _distance(mismatch: list[Rejection]) -> tuple[bool, int]:
    """Give how far a pair is off: one of other weights is farther than any of these weights."""
    return mismatch[0].field.startswith("scheme.weight"), len(mismatch)


def _pair(
    capability: Capability, offer: SchemeOffer, config: LinearConfig
) -> tuple[list[Rejection], Tier | None]:
    scheme = config.scheme
    weight = list(reads(offer.weight, scheme.weight, makes=False, of="scheme.weight."))
    if weight:  # another scheme altogether: what it says of activations tells nothing more
        return weight, None
    computes = Tier.REFERENCE if capability.is_reference else Tier(capability.compute)
    if offer.activation is None and scheme.activation is not None and capability.is_reference:
        # the definition ignores no part of a scheme; another of its offers covers this one
        weight.append(reject(Code.SCHEME, "scheme.activation", "none (16 bit)", scheme.activation))
        return weight, None
    if offer.activation is None:
        return weight, computes if scheme.activation is None else Tier.WEIGHT_ONLY
    if scheme.activation is None:
        need = offer.activation.element
        weight.append(reject(Code.SCHEME, "scheme.activation", need, "none (16 bit)"))
        return weight, None
    makes = offer.quantizes_inside
    of = "scheme.activation."
    activation = reads(offer.activation, scheme.activation, makes=makes, of=of)
    return [*weight, *activation], computes


def _linear(
    capability: Capability, config: LinearConfig, offer: SchemeOffer | None
) -> list[Rejection]:
    found: list[Rejection] = []
    takes_plain = offer is not None and (offer.activation is None or offer.quantizes_inside)
    if takes_plain and config.in_dtype not in capability.in_dtypes:
        found.append(_dtype(Code.IN_DTYPE, "in_dtype", capability.in_dtypes, config.in_dtype))
    if config.out_dtype not in capability.out_dtypes:
        found.append(_dtype(Code.OUT_DTYPE, "out_dtype", capability.out_dtypes, config.out_dtype))
    if config.bias and not capability.takes_bias:
        found.append(reject(Code.BIAS, "bias", "no bias", "bias"))
    accumulation = config.scheme.accumulation
    # exact is a promise, fast a permission: an exact kernel may serve a fast scheme
    if accumulation == "exact" and "exact" not in capability.accumulations:
        found.append(reject(Code.ACCUMULATION, "accumulation", "fast", "exact"))
    found += _aligned(Code.ALIGN_N, "out_features", capability.align_n, config.n)
    found += _aligned(Code.ALIGN_K, "in_features", capability.align_k, config.k)
    multiple = capability.output_row_multiple
    if config.contiguous_output and config.n % multiple:
        found.append(
            reject(
                Code.OUTPUT_STRIDE,
                "contiguous_output",
                f"rows of stride {round_up(config.n, multiple)}",
                f"contiguous rows of {config.n}",
                "drop contiguous_output, or pad N",
            )
        )
    return found


def _producer(capability: Capability, config: ProducerConfig) -> list[Rejection]:
    found: list[Rejection] = []
    nearest: list[Rejection] | None = None
    for offer in capability.produces:
        mismatch = list(reads(offer, config.operand, makes=True))
        if config.layout.scales not in offer.layouts:
            need = " or ".join(offer.layouts)
            mismatch.append(reject(Code.LAYOUT, "layout", need, config.layout.scales))
        if nearest is None or len(mismatch) < len(nearest):
            nearest = mismatch
    found += nearest or []
    if config.padded_n != config.n and not capability.takes_padded_n:
        found.append(reject(Code.PADDED_N, "padded_n", config.n, config.padded_n))
    if config.layout.padded_m_multiple > 1 and not capability.takes_padded_m:
        have = config.layout.padded_m_multiple
        found.append(reject(Code.PADDED_M, "padded_m_multiple", 1, have))
    if config.in_dtype not in capability.in_dtypes:
        found.append(_dtype(Code.IN_DTYPE, "in_dtype", capability.in_dtypes, config.in_dtype))
    found += _aligned(Code.ALIGN_K, "n", capability.align_k, config.n)
    return found


def _relayout(capability: Capability, config: RelayoutConfig) -> list[Rejection]:
    found: list[Rejection] = []
    asked = (config.source.scales, config.target.scales)
    if asked not in capability.relayouts and ("*", "*") not in capability.relayouts:
        need = ", ".join(f"{a} -> {b}" for a, b in capability.relayouts)
        found.append(reject(Code.LAYOUT, "layout", need, f"{asked[0]} -> {asked[1]}"))
    if config.source.padded_n != config.target.padded_n and not capability.takes_padded_n:
        stored, asked_n = config.source.padded_n, config.target.padded_n
        found.append(reject(Code.PADDED_N, "padded_n", stored, asked_n))
    return found


def _aligned(code: RejectionCode, field: str, multiple: int, value: int) -> list[Rejection]:
    if value % multiple == 0:
        return []
    hint = f"pad {field} from {value} to {round_up(value, multiple)}"
    return [reject(code, field, f"a multiple of {multiple}", value, hint)]


def _dtype(code: RejectionCode, field: str, need: tuple[str, ...], have: str) -> Rejection:
    return reject(code, field, " or ".join(need), have, f"use {field}={need[0]!r}")


def _policy(spec: KernelSpec, settings: Settings, inventory: Inventory) -> list[Rejection]:
    found: list[Rejection] = []
    if settings.deny:
        pattern = settings.denied_by(spec.id)
        if pattern is not None:
            need = f"not {pattern} (by {settings.origin('deny')})"
            found.append(reject(Code.DENIED, "deny", need, spec.id, "take it off the deny list"))
    required = settings.require_evidence
    if required != "declared" and not inventory.level(spec.id).reaches(EvidenceLevel(required)):
        found.append(_unproved(spec, required, inventory.proof(spec.id)))
    return found


def _unproved(spec: KernelSpec, required: str, proof: Evidence) -> Rejection:
    have = proof.text
    if proof.why_stale:
        have += f" ({proof.why_stale})"
    verb = "bench" if required == "measured" and proof.mark == "verified" else "sweep"
    how = f"{spec.op} --record" if verb == "bench" else f"--backend {spec.backend} --record"
    hint = f"run on the device: quantmux {verb} {how}"
    return reject(Code.EVIDENCE, "require_evidence", required, have, hint)


def _veto(spec: KernelSpec, config: LayerConfig, device: DeviceProfile) -> list[Rejection]:
    if spec.veto is None:
        return []
    try:
        answer = spec.veto(config, device)
    # a plugin may raise anything, SystemExit too; it must cost that candidate and nothing else
    except (Exception, SystemExit) as error:  # noqa: BLE001
        text = f"{type(error).__name__}: {error}"
        return [reject(Code.PLUGIN_ERROR, "veto", "an answer", text)]
    if answer is None:
        return []
    if not isinstance(answer, Rejection):
        text = f"{type(answer).__name__}"
        return [reject(Code.PLUGIN_ERROR, "veto", "a Rejection or None", text)]
    return [answer]


def _limits(capability: Capability) -> tuple[Rejection, ...]:
    found: list[Rejection] = []
    if capability.m_min > 1:
        need, last = f"M >= {capability.m_min}", capability.m_min - 1
        found.append(reject(Code.M_RANGE, "m", need, f"M <= {last}").replace(m_min=1, m_max=last))
    if capability.m_max is not None:
        need, first = f"M <= {capability.m_max}", capability.m_max + 1
        found.append(reject(Code.M_RANGE, "m", need, f"M >= {first}").replace(m_min=first))
    if capability.m_multiple > 1:
        need = f"a multiple of {capability.m_multiple}"
        found.append(reject(Code.M_MULTIPLE, "m", need, "any M"))
    return tuple(found)
