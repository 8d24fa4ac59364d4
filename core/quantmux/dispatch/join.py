"""The join rule: when what a producer writes is what a consumer reads.

produced ⊑ required: same element, block, eps and scale_ub; rounding at least as strict (``pow2``
satisfies ``none``, never the reverse); same scale layout, padded_n and padded rows.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from quantmux.capability.rejection import Rejection, RejectionCode
from quantmux.config.layers import QuantizeConfig
from quantmux.config.layouts import Layout, padding_multiple, round_up

if TYPE_CHECKING:
    from quantmux.capability.capability import Capability, OperandOffer
    from quantmux.config.formats import Dtype
    from quantmux.config.operands import Operand

Code = RejectionCode


def satisfies(produced: Operand, required: Operand) -> tuple[Rejection, ...]:
    """Give the reasons why an operand at hand is not the one required; empty if it is."""
    found: list[Rejection] = []
    for name, code in (
        ("element", Code.OPERAND),
        ("block", Code.OPERAND),
        ("scale_type", Code.OPERAND),
        ("eps", Code.EPS),
        ("scale_ub", Code.SCALE_UB),
    ):
        need, have = getattr(required, name), getattr(produced, name)
        if need != have:
            found.append(_reject(code, name, need, have))
    if required.scale_rounding == "pow2" and produced.scale_rounding != "pow2":
        found.append(_reject(Code.SCALE_ROUNDING, "scale_rounding", "pow2", "none"))
    return tuple(found)


def satisfies_layout(produced: Layout, required: Layout) -> tuple[Rejection, ...]:
    """Give the reasons why a layout at hand is not the one required; empty if it is."""
    found: list[Rejection] = []
    if produced.scales != required.scales:
        found.append(_reject(Code.LAYOUT, "layout", required.scales, produced.scales))
    if produced.padded_n != required.padded_n:
        found.append(_reject(Code.PADDED_N, "padded_n", required.padded_n, produced.padded_n))
    if produced.padded_m_multiple != required.padded_m_multiple:
        need, have = required.padded_m_multiple, produced.padded_m_multiple
        found.append(_reject(Code.PADDED_M, "padded_m_multiple", need, have))
    return tuple(found)


def reads(
    offer: OperandOffer, asked: Operand, *, makes: bool, of: str = ""
) -> tuple[Rejection, ...]:
    """Give the reasons why an offer does not cover the operand that the scheme asks.

    With ``makes`` the kernel itself computes the scales (a producer, or a consumer that
    quantizes inside), so eps, scale_ub, the source of scales, and the rounding must be exactly
    what was asked. A reader only multiplies by scales and cares for none of them, save that a
    reader of ``pow2`` alone cannot take others. ``of`` is put before the field's name.
    """
    found: list[Rejection] = []
    if offer.element != asked.element:
        return (_reject(Code.OPERAND, of + "element", offer.element, asked.element),)
    if offer.block is not None and offer.block != asked.block:
        need, have = str(offer.block), str(asked.block)
        return (_reject(Code.OPERAND, of + "block", need, have),)
    if offer.scale_type != asked.scale_type:
        return (_reject(Code.OPERAND, of + "scale_type", offer.scale_type, asked.scale_type),)
    if asked.scale_rounding not in offer.roundings and (makes or "none" not in offer.roundings):
        need = " or ".join(offer.roundings)
        found.append(
            _reject(Code.SCALE_ROUNDING, of + "scale_rounding", need, asked.scale_rounding)
        )
    if not makes:
        return tuple(found)
    mode = "dynamic" if asked.dynamic else "static"
    if mode not in offer.scale_modes:
        found.append(_reject(Code.OPERAND, of + "dynamic", " or ".join(offer.scale_modes), mode))
    if asked.global_scale not in offer.global_scales:
        need = " or ".join(offer.global_scales)
        found.append(_reject(Code.GLOBAL_SCALE, of + "global_scale", need, asked.global_scale))
    if not offer.any_eps and asked.dynamic and asked.eps != offer.eps:
        found.append(_reject(Code.EPS, of + "eps", f"{offer.eps:g}", f"{asked.eps:g}"))
    if asked.scale_ub is not None and not offer.takes_scale_ub:
        found.append(_reject(Code.SCALE_UB, of + "scale_ub", "none", f"{asked.scale_ub:g}"))
    return tuple(found)


@lru_cache(maxsize=4096)
def required_input(
    operand: Operand, k: int, scales: str, pad_k_to: int, pad_m_to: int, in_dtype: Dtype
) -> QuantizeConfig | None:
    """Give what must stand before a consumer, or None if the operand has no such layout."""
    base = padding_multiple(operand)
    padded_n = round_up(k, pad_k_to)
    if padded_n != k and padded_n % base:
        padded_n = round_up(padded_n, base)
    if operand.is_nvfp4:
        padded_n = round_up(padded_n, 16)
    layout = Layout(scales=scales, padded_n=padded_n, padded_m_multiple=pad_m_to)
    from quantmux.errors import ConfigError

    try:
        return QuantizeConfig(operand=operand, n=k, layout=layout, in_dtype=in_dtype)
    except ConfigError:
        return None


def input_of(
    capability: Capability, offer: OperandOffer, operand: Operand, k: int, in_dtype: Dtype
) -> tuple[QuantizeConfig, ...]:
    """Give the quantized inputs a consumer reads, in the order of its preference."""
    configs = (
        required_input(operand, k, name, capability.pad_k_to, capability.pad_m_to, in_dtype)
        for name in offer.layouts
    )
    return tuple(c for c in configs if c is not None)


def _reject(code: RejectionCode, field: str, need: object, have: object) -> Rejection:
    return Rejection(code=code, field=field, required=str(need), actual=str(have))
