"""Fuses projections that read the same input (q, k, v · gate, up) into one linear.

Rows are stacked; what differs between the shards is their scales. Rules, by weight operand:

per tensor   equal scales stay; differing ones are written out per channel, which loses nothing
per channel  rows carry their scales along
blocks       the grids are stacked, hence every shard but the last needs whole blocks of rows
NVFP4        one global scale is left: g = max(g_i), block scales become e4m3(s_i · g_i / g).
             Keeping s_i, as is often done, is wrong by the ratio of the globals

There is one input, so one activation quantizer: the largest of the shards' multipliers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import torch

from quantmux.config import LinearConfig, Scheme, operand
from quantmux.errors import ConfigError, InputError
from quantmux.ops.linear.weights import check_weights
from quantmux.ops.numerics import saturating_cast
from quantmux.ops.quantized import LinearWeights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantmux.checkpoint.tensors import LoadedLinear
    from quantmux.checkpoint.write import QuantizedLayer

Shard: TypeAlias = "LoadedLinear | QuantizedLayer | tuple[LinearConfig, LinearWeights]"
"""A linear with its config: as loaded, as to be written, or a plain pair."""


@dataclass(frozen=True, slots=True, eq=False)
class Fused:
    """A fused linear.

    Attributes:
        config: N is the sum of the shards'; the scheme may have become per channel.
        weights: Canonical weights.
        sizes: Rows of each shard, in order, to split the output by.
        notes: Steps taken; those that lost something begin with ``lossy:``.
    """

    config: LinearConfig
    weights: LinearWeights
    sizes: tuple[int, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def lossy(self) -> bool:
        """Tell whether a step lost something."""
        return any(note.startswith("lossy:") for note in self.notes)


def fuse(shards: Sequence[Shard]) -> Fused:
    """Fuse linears of one input into one, stacking their rows in order.

    Args:
        shards: At least one linear; all with the same K, dtypes and scheme, and all with a bias
            or none.

    Raises:
        ConfigError: The shards do not go together (code ``fuse_mismatch``), or a block grid would
            be misaligned (code ``fuse_misaligned``).
        InputError: Weights do not fit their config.
    """
    pairs = [s if isinstance(s, tuple) else (s.config, s.weights) for s in shards]
    names = [getattr(s, "name", f"shard {i}") for i, s in enumerate(shards)]
    if not pairs:
        raise ConfigError("there is no shard to fuse", code="fuse_mismatch")
    _require_alike(names, [config for config, _ in pairs])
    for name, (config, weights) in zip(names, pairs, strict=True):
        check_weights(weights, config, name=name)
    config, all_weights = pairs[0][0], [w for _, w in pairs]
    sizes = tuple(c.n for c, _ in pairs)
    notes: list[str] = []
    scheme = config.scheme
    g: torch.Tensor | None = None
    kind = scheme.weight.block.kind
    if scheme.weight.is_nvfp4:
        g, scales = _fuse_nvfp4(all_weights, notes)
    elif kind == "tensor":
        scheme, scales = _fuse_tensor(scheme, all_weights, sizes, notes)
    else:
        if kind == "block":
            _require_whole_blocks(names, sizes, scheme)
        scales = torch.cat([w.scales for w in all_weights])
    biases = [w.bias for w in all_weights if w.bias is not None]
    fused = LinearWeights(
        data=torch.cat([w.data for w in all_weights]),
        scales=scales,
        global_scale=g,
        bias=torch.cat(biases) if biases else None,
        input_scale=_largest("input_scale", all_weights, notes),
        input_global_scale=_largest("input_global_scale", all_weights, notes),
    )
    return Fused(config.replace(out_features=sum(sizes), scheme=scheme), fused, sizes, tuple(notes))


def _fuse_tensor(
    scheme: Scheme, weights: list[LinearWeights], sizes: tuple[int, ...], notes: list[str]
) -> tuple[Scheme, torch.Tensor]:
    values = torch.cat([w.scales for w in weights])
    if bool((values == values[0]).all()):
        return scheme, weights[0].scales
    channel = operand("int8_channel" if scheme.weight.element == "int8" else "fp8_channel")
    weight = scheme.weight.replace(block=channel.block)
    rows = torch.tensor(sizes, device=values.device)
    notes.append("weight scales differ: written out per channel, nothing lost")
    return scheme.replace(weight=weight), values.repeat_interleave(rows).reshape(-1, 1)


def _fuse_nvfp4(
    weights: list[LinearWeights], notes: list[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    globals_ = torch.cat([_global(w) for w in weights])
    g = globals_.max().reshape(1)
    if bool((globals_ == g).all()):
        return g, torch.cat([w.scales for w in weights])
    scales, exact = [], True
    for w, own in zip(weights, globals_, strict=True):
        # fp64 holds s · g_i exactly, so that e4m3 rounds what is meant and not a rounded ratio
        value = w.scales.to(torch.float64) * own.double() / g.double()
        rounded = saturating_cast(value.to(torch.float32), torch.float8_e4m3fn)
        exact = exact and bool((rounded.double() * g.double() == w.scales.double() * own).all())
        scales.append(rounded)
    ratio = float(g / globals_.min())
    how = "powers of two apart, nothing lost" if exact else "rounded to e4m3 again"
    notes.append(
        ("" if exact else "lossy: ")
        + f"NVFP4 global scales differ by up to {ratio:.4g}: block scales rescaled, {how}"
    )
    return g, torch.cat(scales)


def _global(weights: LinearWeights) -> torch.Tensor:
    if weights.global_scale is None:
        raise InputError("NVFP4 weights need a global scale", code="missing_scale")
    return weights.global_scale


def _largest(role: str, weights: list[LinearWeights], notes: list[str]) -> torch.Tensor | None:
    values = [getattr(w, role) for w in weights]
    present = [v for v in values if v is not None]
    if not present:
        return None
    if len(present) != len(values):
        raise InputError(
            f"only {len(present)} of {len(values)} shards have an {role}", code="missing_scale"
        )
    stacked = torch.cat(present)
    largest = stacked.max().reshape(1)
    if not bool((stacked == largest).all()):
        ratio = float(largest / stacked.min())
        notes.append(f"lossy: {role} differs by up to {ratio:.4g}: the largest serves all")
    return largest


def _require_alike(names: list[str], configs: list[LinearConfig]) -> None:
    facts: dict[str, list[object]] = {
        "K": [c.k for c in configs],
        "scheme": [c.scheme for c in configs],
        "in_dtype": [c.in_dtype for c in configs],
        "out_dtype": [c.out_dtype for c in configs],
        "bias": [c.bias for c in configs],
    }
    for what, values in facts.items():
        if any(value != values[0] for value in values):
            raise ConfigError(
                f"cannot fuse {', '.join(names)}: they differ in {what}",
                facts=[f"{n}: {what} {v}" for n, v in zip(names, values, strict=True)],
                hint="fuse linears of one input that are quantized alike",
                code="fuse_mismatch",
            )


def _require_whole_blocks(names: list[str], sizes: tuple[int, ...], scheme: Scheme) -> None:
    rows = scheme.weight.block.rows
    for name, size in zip(names[:-1], sizes[:-1], strict=True):
        if rows > 0 and size % rows:
            order = sorted(zip(sizes, names, strict=True), key=lambda p: p[0] % rows != 0)
            odd = sum(s % rows != 0 for s in sizes)
            raise ConfigError(
                f"cannot fuse {', '.join(names)}: the blocks of what follows {name} would shift",
                facts={"needs": f"N % {rows} == 0 for all but the last", "found": f"N = {size}"},
                hint="put it last: " + ", ".join(n for _, n in order)
                if odd == 1
                else "keep them apart, and quantize their input once with shared_input",
                code="fuse_misaligned",
            )
