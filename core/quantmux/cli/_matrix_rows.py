"""The rows of the matrix: every kernel asked for every scheme, at one representative shape."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from quantmux.capability.capability import OPS, OpName
from quantmux.capability.matrix import MatrixRow
from quantmux.config import (
    OPERANDS,
    SCHEMES,
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
from quantmux.config._base import closest
from quantmux.dispatch.candidates import Surveyor
from quantmux.errors import ConfigError

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux.config import Operand
    from quantmux.runtime.context import Context

SIZE: Final = 4096
"""N and K of the representative shape: a multiple of everything, so that only the scheme counts."""

_ROPE: Final = {"heads": 16, "head_dim": 256, "rope_dim": 64, "groups": 1}  # n = 4096
_ROPE_LAYOUTS: Final = ("col_major_aligned4", "packed_pow2")


@dataclass(frozen=True, slots=True)
class Question:
    """One config of the matrix, under the name its rows carry.

    Attributes:
        scheme: Name of the scheme (linear) or operand, without the layout: what ``--scheme`` takes.
        label: Scheme, or operand and layout.
        config: The representative config.
    """

    scheme: str
    label: str
    config: Any


def questions(schemes: Collection[str] = (), op: str | None = None) -> list[Question]:
    """Give the configs of the matrix.

    Args:
        schemes: Names of schemes and operands; empty takes all.
        op: One op, None takes all.

    Raises:
        ConfigError: A name is no scheme and no operand, or no such op.
    """
    if op is not None and op not in OPS:
        near = closest(op, OPS)
        raise ConfigError(
            f'there is no op "{op}"',
            facts=["ops: " + " ".join(OPS)],
            hint=f'did you mean "{near}"?' if near else None,
            code="op",
        )
    asked = list(_all(op))
    known = dict.fromkeys(question.scheme for question in _all(None))
    for name in schemes:
        if name not in known:
            near = closest(name, known)
            raise ConfigError(
                f'"{name}" is neither a scheme nor an operand of the matrix',
                facts=["schemes: " + " ".join(SCHEMES), "operands: " + " ".join(OPERANDS)],
                hint=f'did you mean "{near}"?' if near else None,
                code="scheme",
            )
    return [q for q in asked if not schemes or q.scheme in schemes]


def matrix_rows(
    context: Context, device: DeviceProfile, asked: Collection[Question]
) -> list[MatrixRow]:
    """Give a row for every registered kernel and every question of its op."""
    inventory = context.inventory(device)
    rows: list[MatrixRow] = []
    for question in asked:
        config = question.config
        settings = context.settings(config, device)
        found = Surveyor(config, device, settings, inventory).survey()
        serving = {p.main.id: p for p in reversed(found.pipelines)}
        for spec in inventory.of_op(config.op):
            pipeline = serving.get(spec.id)
            rows.append(
                MatrixRow(
                    id=spec.id,
                    op=spec.op,
                    backend=spec.backend,
                    scheme=question.label,
                    tier=str(pipeline.tier) if pipeline else None,
                    eligible=pipeline is not None,
                    rejections=() if pipeline else found.rejected.get(spec.id, ()),
                    evidence=inventory.proof(spec.id),
                    experimental=pipeline is not None and spec.capability.is_experimental,
                )
            )
    return rows


def _all(op: str | None) -> Iterator[Question]:
    makers: dict[OpName, Any] = {
        "linear": _linears,
        "quantize": lambda: _producers(QuantizeConfig),
        "silu_mul_quantize": lambda: _producers(SiluMulQuantizeConfig),
        "inverse_rope_quantize": _inverse_ropes,
        "rmsnorm_quantize": lambda: _producers(RmsNormQuantizeConfig),
        "rope_quantize": _ropes,
        "relayout": _relayouts,
    }
    for name, make in makers.items():
        if op in (None, name):
            yield from make()


def _linears() -> Iterator[Question]:
    for name in SCHEMES:
        config = LinearConfig(in_features=SIZE, out_features=SIZE, scheme=name)
        yield Question(name, name, config)


def _row_operands() -> Iterator[tuple[str, Operand]]:
    """Give the operands that a producer can make: a block of several rows is for weights."""
    yield from ((name, o) for name, o in OPERANDS.items() if o.block.kind != "block")


def _producers(model: type[Any]) -> Iterator[Question]:
    for name, operand in _row_operands():
        for layout in layouts_for(operand):
            config = model(operand=operand, n=SIZE, layout=layout)
            yield Question(name, f"{name} {layout}", config)


def _inverse_ropes() -> Iterator[Question]:
    for name, operand in _row_operands():
        if operand.block.kind == "group" and operand.scale_rounding == "pow2":
            for layout in _ROPE_LAYOUTS:
                config = InverseRopeQuantizeConfig(operand=operand, layout=layout, **_ROPE)  # type: ignore[arg-type]
                yield Question(name, f"{name} {layout}", config)


def _ropes() -> Iterator[Question]:
    """Give the two places a scale may come from: some kernels know it only when they are bound."""
    heads: dict[str, Any] = {"heads": SIZE // 128, "head_dim": 128, "rope_dim": 128}
    name = "fp8_tensor_static"
    yield Question(name, f"{name} scalar", RopeQuantizeConfig(operand=name, **heads))
    known = RopeQuantizeConfig(operand=name, static_scale=1.0, **heads)
    yield Question(name, f"{name} scalar in config", known)


def _relayouts() -> Iterator[Question]:
    for name, operand in _row_operands():
        base = default_layout(operand, SIZE)
        names = layouts_for(operand)
        for source in names:
            for target in names:
                if source != target:
                    config = RelayoutConfig(
                        operand=operand,
                        n=SIZE,
                        source=base.replace(scales=source),
                        target=base.replace(scales=target),
                    )
                    yield Question(name, f"{name} {source} -> {target}", config)
