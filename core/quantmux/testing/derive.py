"""Cases made from a kernel's own capability: every value it declares, and the edges between."""

from __future__ import annotations

from itertools import chain, islice
from math import lcm
from typing import TYPE_CHECKING, Any, Final

from quantmux.config import (
    InverseRopeQuantizeConfig,
    LinearConfig,
    QuantizeConfig,
    RelayoutConfig,
    RmsNormQuantizeConfig,
    RopeQuantizeConfig,
    SiluMulQuantizeConfig,
    default_layout,
    layouts_for,
)
from quantmux.config.layouts import padding_multiple, round_up
from quantmux.config.operands import OPERANDS, Operand
from quantmux.config.schemes import SCHEMES
from quantmux.dispatch.join import reads
from quantmux.errors import ConfigError
from quantmux.ops.quantize.cases import padded_widths
from quantmux.ops.spec import Case
from quantmux.testing.pairwise import pairwise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from quantmux.capability.capability import Capability, OperandOffer
    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux.testing.stage import Stage

MS: Final = (0, 1, 7, 8, 9, 31, 32, 33, 127, 128, 129)
LARGE_M: Final = {"cpu": 517, "cuda": 4099}
"""Not a multiple of anything, on the way over many tiles."""

DEEP: Final = (5 * 1024, 7 * 1024 + 128, 16 * 1024 + 128)
"""Long K on any device; real layers are asked where they are quick."""
WIDE: Final = 9 * 1024 + 64
"""Many N."""

_LINEAR_CONTENTS: Final = (
    ("normal", 1.0),
    ("normal", 1e-4),
    ("normal", 1e4),
    ("zeros", 1.0),
    ("one_hot", 1.0),
    ("outliers", 1.0),
    ("equal", 1.0),
    ("nan", 1.0),
    ("inf", 1.0),
)
_CONTENTS: Final = (
    *_LINEAR_CONTENTS,
    ("wide", 1.0),
    ("pow2_edges", 1.0),
    ("ties", 1.0),
    ("rising", 1.0),
    ("signed_zeros", 1.0),
    ("mixed", 1.0),
)
_PRODUCERS: Final[dict[str, Callable[..., Any]]] = {
    "quantize": QuantizeConfig,
    "silu_mul_quantize": SiluMulQuantizeConfig,
    "rmsnorm_quantize": RmsNormQuantizeConfig,
}

_PLAIN_FEW: Final = 6
"""Configs of ops whose fields are too many to take each."""

Derived = tuple[Case, dict[str, Any]]
"""A case, and what the trial needs besides (see `Stage.trial`)."""


def derived(spec: KernelSpec, stage: Stage) -> tuple[Derived, ...]:
    """Give cases that cover every pair of what the capability declares.

    Only configs that mean something are given; whether the kernel serves them is asked later.
    """
    found: Iterable[Derived]
    match spec.op:
        case "linear":
            found = chain(_linears(spec, stage), _extents(spec, stage))
        case "quantize" | "silu_mul_quantize" | "rmsnorm_quantize":
            found = _producers(spec, _PRODUCERS[spec.op], stage)
        case "inverse_rope_quantize":
            found = _inverse_ropes(spec, stage)
        case "rope_quantize":
            found = _ropes(spec, stage)
        case _:
            found = _relayouts(spec, stage)
    return tuple(found)


def rows(capability: Capability, stage: Stage) -> tuple[int, ...]:
    """Give the numbers of rows to try: the usual edges, and those of the kernel's own limits."""
    large = LARGE_M["cuda" if stage.device.is_cuda else "cpu"]
    least, step = capability.m_min, capability.m_multiple
    own = [round_up(least, step), round_up(least, step) + step]
    if capability.m_max is not None:
        own.append(capability.m_max // step * step)
    wanted = {*MS, large, *own}
    most = large if capability.m_max is None else capability.m_max
    return tuple(sorted(m for m in wanted if m == 0 or (least <= m <= most and m % step == 0)))


def operands_made(capability: Capability) -> tuple[Operand, ...]:
    """Give the preset operands that a producer makes, and variants of them that it offers."""
    found: list[Operand] = [
        operand for operand in OPERANDS.values() if offers_of(capability, operand)
    ]
    for offer in capability.produces:
        made = _operand_of(offer)
        if made is not None and made not in found and offers_of(capability, made):
            found.append(made)
    return tuple(found)


def offers_of(capability: Capability, operand: Operand) -> tuple[OperandOffer, ...]:
    """Give the offers that cover making an operand."""
    if operand.block.kind == "block":
        return ()
    return tuple(o for o in capability.produces if not reads(o, operand, makes=True))


def layouts_made(capability: Capability, operand: Operand) -> tuple[str, ...]:
    """Give the layouts of core that a producer writes the operand in."""
    named = {name for offer in offers_of(capability, operand) for name in offer.layouts}
    return tuple(name for name in layouts_for(operand) if name in named)


def schemes_served(spec: KernelSpec, stage: Stage) -> tuple[str, ...]:
    """Give the preset schemes that a consumer serves at a shape that suits it."""
    n, k = suiting(spec.capability)
    found = []
    for name in SCHEMES:
        for asked in (name, f"{name}+exact"):
            config = LinearConfig(
                in_features=k,
                out_features=n,
                scheme=asked,
                in_dtype=spec.capability.in_dtypes[0],
                out_dtype=spec.capability.out_dtypes[0],
            )
            if stage.verdict(spec, config).is_eligible:
                found.append(asked)
    return tuple(found)


def suiting(capability: Capability) -> tuple[int, int]:
    """Give a small (N, K) that every alignment of the kernel divides, K of whole blocks."""
    return (
        round_up(64, lcm(capability.align_n, capability.pad_n_to, 8)),
        round_up(128, lcm(capability.align_k, capability.pad_k_to, 128)),
    )


def beside(value: int, align: int, pad: int) -> tuple[int, ...]:
    """Give extents on the alignment: the value, one step either side, and off the padding."""
    found = (value, value + align, value - align, value + pad, value + pad // 2)
    return tuple(dict.fromkeys(v for v in found if v > 0 and v % align == 0))


def plain_cases(spec: KernelSpec, stage: Stage, wanted: Iterable[int]) -> tuple[Derived, ...]:
    """Give one aligned case per scheme or operand that the kernel serves, and numbers of rows.

    What is not a question of shapes is asked of these: every scheme of a consumer (and the first
    with a bias), every operand of a producer in the last of its layouts.

    Args:
        spec: The kernel.
        stage: Where.
        wanted: Numbers of rows; those are taken that the kernel serves, or else its least.
    """
    ms = rows_served(spec.capability, wanted)
    found: list[Derived] = []
    for config in _plain_configs(spec, stage):
        if stage.verdict(spec, config).is_eligible:
            found += [(Case(config, m, source="plain"), {}) for m in ms]
    return tuple(found)


def rows_served(capability: Capability, wanted: Iterable[int]) -> tuple[int, ...]:
    """Give the numbers of rows that a kernel serves among some, or the least that it does."""
    least, step = round_up(capability.m_min, capability.m_multiple), capability.m_multiple
    last = capability.m_max
    found = tuple(m for m in wanted if m >= least and (last is None or m <= last) and m % step == 0)
    return found or (least,)


def _plain_configs(spec: KernelSpec, stage: Stage) -> Iterator[Any]:
    capability = spec.capability
    match spec.op:
        case "linear":
            n, k = suiting(capability)
            fields: dict[str, Any] = {
                "in_features": k,
                "out_features": n,
                "in_dtype": capability.in_dtypes[0],
                "out_dtype": capability.out_dtypes[0],
            }
            names = schemes_served(spec, stage)
            for name in names:
                yield LinearConfig(scheme=name, **fields)
            if names and capability.takes_bias:
                yield LinearConfig(scheme=names[0], bias=True, **fields)
        case "quantize" | "silu_mul_quantize" | "rmsnorm_quantize":
            for operand in operands_made(capability):
                for layout in layouts_made(capability, operand)[-1:]:
                    configs = (
                        _config(
                            _PRODUCERS[spec.op],
                            operand=operand,
                            n=_width(capability, operand, choice),
                            layout=layout,
                            in_dtype=capability.in_dtypes[0],
                        )
                        for choice in range(4)
                    )
                    # whole blocks, or the first width that a veto leaves
                    served = (c for c in configs if c and stage.verdict(spec, c).is_eligible)
                    yield from islice(served, 1)
        case "inverse_rope_quantize" | "rope_quantize" | "relayout":
            seen: set[str] = set()
            for case, _ in derived(spec, stage):
                kind = str(case.config).partition(" padded")[0]
                if not stage.verdict(spec, case.config).is_eligible:
                    continue
                if kind not in seen and len(seen) < _PLAIN_FEW:
                    seen.add(kind)
                    yield case.config


def _linears(spec: KernelSpec, stage: Stage) -> Iterator[Derived]:
    capability = spec.capability
    n, k = suiting(capability)
    readable = max((o.activation and len(o.activation.layouts)) or 1 for o in capability.schemes)
    for row in pairwise(
        {
            "scheme": schemes_served(spec, stage),
            "m": rows(capability, stage),
            "n": beside(n, capability.align_n, capability.pad_n_to),
            "k": (*beside(k, capability.align_k, capability.pad_k_to), 2 * k),
            "content": _LINEAR_CONTENTS,
            "in_dtype": capability.in_dtypes,
            "out_dtype": capability.out_dtypes,
            "bias": ("", "fp32", "bf16", "fp16", "large") if capability.takes_bias else ("",),
            "reads": tuple(range(min(readable, 4))),
        }
    ):
        kind, magnitude = row["content"]
        is_large = row["bias"] == "large"
        config = _config(
            LinearConfig,
            in_features=row["k"],
            out_features=row["n"],
            scheme=row["scheme"],
            in_dtype=row["in_dtype"],
            out_dtype=row["out_dtype"],
            bias=bool(row["bias"]),
        )
        if config is None or (config.out_dtype == "fp16" and magnitude > 1):
            continue  # such products are beyond fp16, whoever multiplies
        detail: dict[str, Any] = {"reads": row["reads"]}
        if row["bias"] in ("bf16", "fp16"):
            detail["bias"] = row["bias"]
        yield (
            Case(config, row["m"], "large_bias" if is_large else kind, magnitude, "declared"),
            detail,
        )


def _extents(spec: KernelSpec, stage: Stage) -> Iterator[Derived]:
    """Give few outputs of long sums, and many outputs of short ones.

    A kernel may cut long sums into parts by any power of two: of each there is an odd number in one
    of `DEEP`.
    """
    capability = spec.capability
    n, k = suiting(capability)
    shapes = [(n, round_up(deep, k)) for deep in DEEP] + [(round_up(WIDE, n), k)]
    for name in schemes_served(spec, stage):
        for width, depth in shapes:
            config = LinearConfig(
                in_features=depth,
                out_features=width,
                scheme=name,
                in_dtype=capability.in_dtypes[0],
                out_dtype=capability.out_dtypes[0],
            )
            for m in rows_served(capability, (1, 17) if depth > k else (17,)):
                yield Case(config, m, source="long sums, many outputs"), {}


def _producers(spec: KernelSpec, kind: Callable[..., Any], stage: Stage) -> Iterator[Derived]:
    capability = spec.capability
    for row in pairwise(
        {
            "operand": operands_made(capability),
            "m": rows(capability, stage),
            "layout": tuple(range(4)),
            "width": tuple(range(4)),
            "padding": tuple(range(5)) if capability.takes_padded_n else (0,),
            "rows": (1, 16) if capability.takes_padded_m else (1,),
            "in_dtype": capability.in_dtypes,
            "content": _CONTENTS,
        }
    ):
        operand: Operand = row["operand"]
        layouts = layouts_made(capability, operand)
        if not layouts:
            continue
        n = _width(capability, operand, row["width"])
        padded = (None, *padded_widths(operand, n))
        content, magnitude = row["content"]
        config = _config(
            kind,
            operand=operand,
            n=n,
            layout=layouts[row["layout"] % len(layouts)],
            padded_n=padded[row["padding"] % len(padded)],
            padded_m_multiple=row["rows"],
            in_dtype=row["in_dtype"],
        )
        if config is not None:
            yield Case(config, row["m"], content, magnitude, "declared"), {}


def _width(capability: Capability, operand: Operand, choice: int) -> int:
    """Give a row width on the alignment: whole blocks, one step either side of them, or few."""
    align = capability.align_k
    block = lcm(align, padding_multiple(operand))
    whole = block * (3 if block > 16 else 5)
    return (whole, whole + align, whole - align, align if align > 1 else block)[choice]


def _inverse_ropes(spec: KernelSpec, stage: Stage) -> Iterator[Derived]:
    capability = spec.capability
    for row in pairwise(
        {
            "operand": tuple(
                o
                for o in operands_made(capability)
                if o.block.kind == "group" and o.scale_rounding == "pow2"
            ),
            "m": rows(capability, stage),
            "layout": ("col_major_aligned4", "packed_pow2"),
            "heads": ((4, 2), (1, 1), (6, 3), (8, 1)),
            "rope_dim": (64, 2, 128),
            "in_dtype": capability.in_dtypes,
            "content": _CONTENTS,
        }
    ):
        if row["layout"] not in layouts_made(capability, row["operand"]):
            continue
        heads, groups = row["heads"]
        content, magnitude = row["content"]
        config = _config(
            InverseRopeQuantizeConfig,
            heads=heads,
            groups=groups,
            head_dim=128,
            rope_dim=row["rope_dim"],
            operand=row["operand"],
            layout=row["layout"],
            in_dtype=row["in_dtype"],
        )
        if config is not None:
            yield Case(config, row["m"], content, magnitude, "declared"), {}


def _ropes(spec: KernelSpec, stage: Stage) -> Iterator[Derived]:
    """Give both kinds of pairs at both ends of a head, the scale from the call and the config."""
    capability = spec.capability
    width = round_up(128, capability.align_k)
    for row in pairwise(
        {
            "operand": operands_made(capability),
            "rope_at": ("first", "last"),
            "interleaved": (False, True),
            # powers of two divide like they multiply
            "static_scale": (0.003, None, 0.25, 1.0),
            "rope_dim": (64, 128, width, 2, 96),
            "heads": (4, 1, 9),
            "head_dim": (width, 2 * width, width + capability.align_k),
            "m": rows(capability, stage),
            "in_dtype": capability.in_dtypes,
            "content": _CONTENTS,
        }
    ):
        content, magnitude = row.pop("content")
        m = row.pop("m")
        config = _config(RopeQuantizeConfig, **row)
        if config is not None:
            yield Case(config, m, content, magnitude, "declared"), {}


def _relayouts(spec: KernelSpec, stage: Stage) -> Iterator[Derived]:
    capability = spec.capability
    operands = tuple(o for o in OPERANDS.values() if o.block.kind != "block")
    for row in pairwise(
        {
            "operand": operands,
            "m": rows(capability, stage),
            "source": tuple(range(4)),
            "target": tuple(range(4)),
            "width": (0, 1),
            "padding": (0, 1, 2) if capability.takes_padded_n else (0,),
        }
    ):
        operand = row["operand"]
        names = layouts_for(operand)
        source, target = (names[row[key] % len(names)] for key in ("source", "target"))
        block = padding_multiple(operand)
        n = block * (3 if block > 16 else 5) - row["width"]
        padded = (None, *padded_widths(operand, n))[row["padding"]]
        plain = default_layout(operand, n)
        wide = plain if padded is None else plain.replace(padded_n=padded)
        config = _config(
            RelayoutConfig,
            operand=operand,
            n=n,
            source=plain.replace(scales=source),
            target=wide.replace(scales=target),
        )
        if config is not None:
            yield Case(config, row["m"], source="declared"), {}


def _operand_of(offer: OperandOffer) -> Operand | None:
    """Give the operand that an offer names, where no preset does."""
    if offer.block is None:
        return None
    mode = offer.scale_modes[0] == "dynamic"
    try:
        return Operand(
            element=offer.element,
            block=offer.block,
            scale_type=offer.scale_type,
            scale_rounding=offer.roundings[0],
            dynamic=mode,
            global_scale=offer.global_scales[0],
            eps=offer.eps,
        )
    except ConfigError:
        return None


def _config(kind: Callable[..., Any], **fields: Any) -> Any:
    """Build a config, or give None where the choice of fields means nothing."""
    try:
        return kind(**fields)
    except ConfigError:
        return None


def labelled(cases: Iterable[Derived]) -> Iterator[tuple[str, Case, dict[str, Any]]]:
    """Give every case with a label that no other of them has."""
    seen: dict[str, int] = {}
    for case, detail in cases:
        text = label_of(case, detail)
        seen[text] = seen.get(text, 0) + 1
        yield (text if seen[text] == 1 else f"{text}~{seen[text]}"), case, detail


def label_of(case: Case, detail: dict[str, Any]) -> str:
    """Give a case in few characters, without spaces."""
    config = case.config
    name = str(config).removeprefix(config.op).strip().replace("->", "_")
    parts = [name.replace(" ", "-"), f"M{case.m}"]
    if getattr(config, "contiguous_output", False):
        parts.append("contiguous")
    if case.kind != "normal":
        parts.append(case.kind)
    if case.magnitude != 1.0:
        parts.append(f"{case.magnitude:g}")
    parts += [f"{key}={value}" for key, value in detail.items() if value]
    return "-".join(parts)
