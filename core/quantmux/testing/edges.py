"""Both sides of every bound that a capability declares, one change at a time."""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm
from typing import TYPE_CHECKING, Any, Final

from quantmux.config.layouts import layouts_for, padding_multiple, round_up
from quantmux.config.operands import OPERANDS
from quantmux.config.schemes import SCHEMES
from quantmux.errors import ConfigError
from quantmux.ops.spec import Case
from quantmux.testing.derive import layouts_made, offers_of, plain_cases, suiting

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from quantmux.capability.capability import Capability
    from quantmux.config import LinearConfig
    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux.testing.stage import Stage

DTYPES: Final = ("bf16", "fp16", "fp32")
_OPERAND: Final = frozenset(
    {"operand", "scheme", "scale_rounding", "global_scale", "eps", "scale_ub"}
)
"""Codes that say: another operand."""


@dataclass(frozen=True, slots=True)
class Edge:
    """One side of one bound.

    Attributes:
        label: The bound and the side.
        case: A served case with one thing changed.
        due: Codes one of which is due; () if the kernel must serve it.
    """

    label: str
    case: Case
    due: frozenset[str] = frozenset()


def edges(spec: KernelSpec, stage: Stage) -> Iterator[Edge]:
    """Give both sides of every bound, beginning at the first plain case that is served."""
    plain = plain_cases(spec, stage, (33,))
    if not plain:
        return
    config, m = plain[0][0].config, plain[0][0].m
    yield from _rows(config, spec.capability)
    if spec.op == "linear":
        yield from _linear(config, m, spec, stage)
    elif spec.op in ("quantize", "silu_mul_quantize", "rmsnorm_quantize"):
        for case, _ in plain:
            yield from _operand(case.config, m, spec.capability)
        yield from _producer(config, m, spec.capability)
    elif spec.op in ("inverse_rope_quantize", "rope_quantize"):
        yield from _formats(config, m, spec.capability)
    elif spec.op == "relayout":
        yield from _relayout(config, m, spec.capability)


def arch_fits(declared: str, device: str) -> bool:
    """Tell whether a device is in an architecture set; written from DESIGN and not from `ArchSet`.

    Args:
        declared: ``90``, ``90a``, ``100f``, ``80+``, ``gfx942``, ``cpu`` or ``any``.
        device: ``sm90``, ``gfx942``, ``cpu``.
    """
    declared, device = declared.removeprefix("sm"), device.removeprefix("sm")
    if declared == "any":
        return True
    number = declared.rstrip("af+")
    if not (number.isdigit() and device.isdigit()):
        return declared == device
    have, want = int(device), int(number)
    if declared.endswith("+"):
        return have >= want
    if declared.endswith("f"):
        return have // 10 == want // 10 and have % 10 >= want % 10
    return have == want


def _rows(config: Any, capability: Capability) -> Iterator[Edge]:
    least, most, step = capability.m_min, capability.m_max, capability.m_multiple
    first = round_up(least, step)
    yield Edge("m-0", Case(config, 0))
    yield Edge(f"m_min-{first}", Case(config, first))
    if least > 1:
        below = frozenset({"m_range", "m_multiple"})
        yield Edge(f"m_min-{least - 1}", Case(config, least - 1), below)
    if most is not None:
        last = most // step * step
        yield Edge(f"m_max-{last}", Case(config, last))
        above = round_up(most + 1, step)
        yield Edge(f"m_max-{above}", Case(config, above), frozenset({"m_range"}))
    if step > 1:
        for m in (first + 1, first + step - 1):
            yield Edge(f"m_multiple-{m}", Case(config, m), frozenset({"m_multiple", "m_range"}))
        yield Edge(f"m_multiple-{first + step}", Case(config, first + step))


def _linear(config: LinearConfig, m: int, spec: KernelSpec, stage: Stage) -> Iterator[Edge]:
    capability = spec.capability
    n, k = suiting(capability)
    yield from _aligned("align_n", config, "out_features", n, capability.align_n, m)
    yield from _aligned("align_k", config, "in_features", k, capability.align_k, m)
    yield from _padded("n", config, "out_features", n, m, capability)
    yield from _padded("k", config, "in_features", k, m, capability)
    for dtype in DTYPES:
        due = _due("out_dtype", dtype in capability.out_dtypes)
        yield Edge(f"out_dtype-{dtype}", Case(config.replace(out_dtype=dtype), m), due)
    if not stage.inputs_read(spec, config):
        for dtype in DTYPES:
            due = _due("in_dtype", dtype in capability.in_dtypes)
            yield Edge(f"in_dtype-{dtype}", Case(config.replace(in_dtype=dtype), m), due)
    biased = config.replace(bias=True)
    yield Edge("bias", Case(biased, m), _due("bias", capability.takes_bias))
    for mode in ("fast", "exact"):
        # an exact kernel may serve a fast scheme
        due = _due("accumulation", mode == "fast" or mode in capability.accumulations)
        asked = config.replace(scheme=config.scheme.replace(accumulation=mode))
        yield Edge(f"accumulation-{mode}", Case(asked, m), due)
    for name in SCHEMES:
        other = config.replace(scheme=SCHEMES[name])
        if not stage.verdict(spec, other).is_eligible:
            due = _OPERAND | {"accumulation"}
            yield Edge(f"scheme-{name}", Case(other, m), due)


def _aligned(label: str, config: Any, field: str, value: int, align: int, m: int) -> Iterator[Edge]:
    """Give the multiple itself, both its neighbours, and the next multiple."""
    if align == 1:
        return
    for extent in (value, value - 1, value + 1, value + align, value - align):
        if extent > 0:
            due = _due(label, extent % align == 0)
            yield Edge(f"{label}-{extent}", Case(config.replace(**{field: extent}), m), due)


def _padded(
    axis: str, config: Any, field: str, value: int, m: int, capability: Capability
) -> Iterator[Edge]:
    """Give extents on the padding and beside it, by the least step that the alignment leaves."""
    pad: int = getattr(capability, f"pad_{axis}_to")
    align: int = getattr(capability, f"align_{axis}")
    if pad == 1:
        return
    whole = lcm(pad, align)
    for extent in dict.fromkeys(value + step for step in (0, -align, align, whole, -whole)):
        if extent > 0:
            yield Edge(f"pad_{axis}_to-{extent}", Case(config.replace(**{field: extent}), m))


def _operand(config: Any, m: int, capability: Capability) -> Iterator[Edge]:
    """Give the attributes of one operand: its layouts, eps, scale_ub."""
    operand = config.operand
    made = layouts_made(capability, operand)
    for name in layouts_for(operand):
        asked = _with(config, layout=config.layout.replace(scales=name))
        if asked is not None:
            label = f"layout-{operand.name}-{name}"
            yield Edge(label, Case(asked, m), _due("layout", name in made))
    for field, value in (("eps", 0.5), ("scale_ub", 1.0)):
        try:
            changed = operand.replace(**{field: value})
        except ConfigError:
            continue  # NVFP4 has neither
        asked = _with(config, operand=changed)
        if asked is not None and (operand.dynamic or field == "scale_ub"):
            due = frozenset() if offers_of(capability, changed) else frozenset({field})
            yield Edge(f"{field}-{operand.name}", Case(asked, m), due)


def _producer(config: Any, m: int, capability: Capability) -> Iterator[Edge]:
    yield from _formats(config, m, capability)
    step = padding_multiple(config.operand)
    wide = _with(config, layout=config.layout.replace(padded_n=config.padded_n + step))
    if wide is not None:
        yield Edge("padded_n", Case(wide, m), _due("padded_n", capability.takes_padded_n))
    tall = _with(config, layout=config.layout.replace(padded_m_multiple=16))
    if tall is not None:
        yield Edge("padded_m", Case(tall, m), _due("padded_m", capability.takes_padded_m))
    if capability.align_k > 1:
        for n in (config.n - 1, config.n + 1, config.n + capability.align_k):
            asked = _narrower(config, n)
            if asked is not None:
                due = _due("align_k", n % capability.align_k == 0)
                yield Edge(f"align_k-{n}", Case(asked, m), due)
    for operand in OPERANDS.values():
        if operand.block.kind == "block" or offers_of(capability, operand):
            continue
        asked = _another(config, operand)
        if asked is not None:
            yield Edge(f"operand-{operand.name}", Case(asked, m), _OPERAND | {"layout"})


def _formats(config: Any, m: int, capability: Capability) -> Iterator[Edge]:
    for dtype in DTYPES:
        due = _due("in_dtype", dtype in capability.in_dtypes)
        yield Edge(f"in_dtype-{dtype}", Case(config.replace(in_dtype=dtype), m), due)


def _relayout(config: Any, m: int, capability: Capability) -> Iterator[Edge]:
    pairs = capability.relayouts
    for source in layouts_for(config.operand):
        for target in layouts_for(config.operand):
            asked = _with(
                config,
                source=config.source.replace(scales=source),
                target=config.target.replace(scales=target),
            )
            if asked is not None:
                inside = (source, target) in pairs or ("*", "*") in pairs
                yield Edge(f"{source}-to-{target}", Case(asked, m), _due("layout", inside))
    wide = config.source.padded_n + padding_multiple(config.operand)
    asked = _with(config, target=config.target.replace(padded_n=wide))
    if asked is not None and config.source.padded_n == config.target.padded_n:
        yield Edge("padded_n", Case(asked, m), _due("padded_n", capability.takes_padded_n))


def _due(code: str, is_inside: bool) -> frozenset[str]:
    return frozenset() if is_inside else frozenset({code})


def _with(config: Any, **changes: Any) -> Any:
    try:
        return config.replace(**changes)
    except ConfigError:
        return None


def _narrower(config: Any, n: int) -> Any:
    """Give the config with another row width, in the same layout without padding."""
    padded = round_up(n, 16) if config.operand.is_nvfp4 else n
    return _with(config, n=n, layout=config.layout.replace(padded_n=padded))


def _another(config: Any, operand: Any) -> Any:
    """Give the config with another operand, in its plainest layout."""
    names: Iterable[str] = layouts_for(operand)
    n = round_up(config.n, 16)
    layout = config.layout.replace(scales=next(iter(names)), padded_n=n)
    return _with(config, operand=operand, n=n, layout=layout)
