"""Layer configs: one op at one place, as the user asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from quantmux.config._base import as_config_error, closest
from quantmux.config._producer import Extent, LayerBase, ProducerBase
from quantmux.config.formats import Dtype
from quantmux.config.fused import RmsNormQuantizeConfig, RopeQuantizeConfig
from quantmux.config.layouts import Layout, check_layout, round_up
from quantmux.config.operands import Operand
from quantmux.config.schemes import Scheme
from quantmux.errors import ConfigError


class LinearConfig(LayerBase):
    """A quantized linear ``y = x · Wᵀ + bias``; x [M, in_features], W [out_features, in_features].

    Attributes:
        in_features: K, the logical width of x.
        out_features: N, the logical width of y.
        scheme: What weights and activations mean; a preset name is accepted.
        in_dtype: Format of a plain x.
        out_dtype: Format of y.
        bias: Whether a bias [N] is added, widened to fp32, before the one rounding.
        contiguous_output: Ask for contiguous rows of y. Without it a kernel may return rows whose
            stride is N rounded up to the multiple that it declares.
    """

    op: Literal["linear"] = "linear"
    in_features: Extent
    out_features: Extent
    scheme: Scheme
    in_dtype: Dtype = "bf16"
    out_dtype: Dtype = "bf16"
    bias: bool = False
    contiguous_output: bool = False

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            in_features: int,
            out_features: int,
            scheme: Scheme | str,
            in_dtype: Dtype = "bf16",
            out_dtype: Dtype = "bf16",
            bias: bool = False,
            contiguous_output: bool = False,
            op: Literal["linear"] = "linear",
        ) -> None: ...

    @property
    def n(self) -> int:
        """Output width N."""
        return self.out_features

    @property
    def k(self) -> int:
        """Input width K."""
        return self.in_features

    def __str__(self) -> str:
        bias = " bias" if self.bias else ""
        return (
            f"linear {self.scheme.name} N={self.n} K={self.k} "
            f"{self.in_dtype}->{self.out_dtype}{bias}"
        )


class QuantizeConfig(ProducerBase):
    """Quantize x [M, n] into an operand and a layout.

    ``layout`` is a name or a `Layout`; ``padded_n`` and ``padded_m_multiple`` may be given
    beside a name. Default: the plainest layout, unpadded.
    """

    op: Literal["quantize"] = "quantize"

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            operand: Operand | str,
            n: int,
            layout: Layout | str | None = None,
            padded_n: int | None = None,
            padded_m_multiple: int | None = None,
            in_dtype: Dtype = "bf16",
            op: Literal["quantize"] = "quantize",
        ) -> None: ...

    def __str__(self) -> str:
        return f"quantize {self.operand.name} n={self.n} {self.layout} from {self.in_dtype}"


class SiluMulQuantizeConfig(ProducerBase):
    """Quantize ``silu(gate) · up`` of x [M, 2n] = [gate | up]; the result is [M, n]."""

    op: Literal["silu_mul_quantize"] = "silu_mul_quantize"

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            operand: Operand | str,
            n: int,
            layout: Layout | str | None = None,
            padded_n: int | None = None,
            padded_m_multiple: int | None = None,
            in_dtype: Dtype = "bf16",
            op: Literal["silu_mul_quantize"] = "silu_mul_quantize",
        ) -> None: ...

    def __str__(self) -> str:
        return (
            f"silu_mul_quantize {self.operand.name} n={self.n} {self.layout} from {self.in_dtype}"
        )


class InverseRopeQuantizeConfig(ProducerBase):
    """Undo RoPE on o [T, heads, head_dim] and quantize per head group.

    The result is logically [T, groups, n] with n = heads / groups · head_dim, on memory
    [groups, T, n]. Positions are int64 [T]; ``cos_sin_cache`` is fp32 [P, rope_dim] = cos | sin.
    """

    op: Literal["inverse_rope_quantize"] = "inverse_rope_quantize"
    heads: Extent
    head_dim: Extent
    rope_dim: Extent
    groups: Extent
    n: int = 0

    _default_scales: ClassVar[str | None] = "col_major_aligned4"

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            heads: int,
            head_dim: int,
            rope_dim: int,
            groups: int,
            operand: Operand | str = "fp8_group128_pow2",
            layout: Layout | str | None = None,
            in_dtype: Dtype = "bf16",
            n: int = 0,
            op: Literal["inverse_rope_quantize"] = "inverse_rope_quantize",
        ) -> None: ...

    @classmethod
    def _row_width(cls, data: dict[str, Any]) -> int | None:
        heads, dim, groups = data.get("heads"), data.get("head_dim"), data.get("groups")
        if not (isinstance(heads, int) and isinstance(dim, int) and isinstance(groups, int)):
            return None
        if min(heads, dim, groups) < 1:
            return None
        if heads % groups:
            raise ConfigError(f"heads = {heads} cannot be split into {groups} groups")
        n = heads // groups * dim
        if data.get("n", n) not in (0, n):
            raise ConfigError(f"n follows from heads, head_dim and groups: {n}, found {data['n']}")
        data["n"] = n
        data.setdefault("operand", "fp8_group128_pow2")
        return n

    @model_validator(mode="after")
    def _rope_fits(self) -> InverseRopeQuantizeConfig:
        if self.rope_dim % 2 or self.rope_dim > self.head_dim:
            raise ConfigError(
                f"rope_dim must be even and at most head_dim = {self.head_dim}, "
                f"found {self.rope_dim}"
            )
        if self.operand.block.kind != "group" or self.operand.element != "fp8_e4m3":
            raise ConfigError(
                f"inverse_rope_quantize makes fp8_e4m3 groups, found {self.operand.name}"
            )
        if self.operand.scale_rounding != "pow2":
            raise ConfigError(
                "inverse_rope_quantize makes power-of-two scales",
                hint='use operand="fp8_group128_pow2"',
            )
        if self.layout.scales not in ("col_major_aligned4", "packed_pow2"):
            raise ConfigError(
                f"inverse_rope_quantize writes col_major_aligned4 or packed_pow2 scales, "
                f"found {self.layout.scales}",
                code="layout_undefined",
            )
        if self.layout.padded_n != self.n or self.layout.padded_m_multiple != 1:
            raise ConfigError("inverse_rope_quantize does not pad its data")
        if self.head_dim % self.operand.block.cols:
            raise ConfigError(
                f"head_dim must be a multiple of the group {self.operand.block.cols}, "
                f"found {self.head_dim}"
            )
        return self

    def __str__(self) -> str:
        return (
            f"inverse_rope_quantize {self.operand.name} heads={self.heads} "
            f"head_dim={self.head_dim} rope_dim={self.rope_dim} groups={self.groups} "
            f"{self.layout.scales} from {self.in_dtype}"
        )


class RelayoutConfig(LayerBase):
    """Move a quantized matrix [M, n] from one layout to another; no number changes."""

    op: Literal["relayout"] = "relayout"
    operand: Operand
    n: Extent
    source: Layout
    target: Layout

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            operand: Operand | str,
            n: int,
            source: Layout,
            target: Layout,
            op: Literal["relayout"] = "relayout",
        ) -> None: ...

    @model_validator(mode="after")
    def _layouts_fit(self) -> RelayoutConfig:
        check_layout(self.operand, self.source, self.n)
        check_layout(self.operand, self.target, self.n)
        return self

    def __str__(self) -> str:
        return f"relayout {self.operand.name} n={self.n} {self.source} -> {self.target}"


LayerConfig = Annotated[
    LinearConfig
    | QuantizeConfig
    | SiluMulQuantizeConfig
    | InverseRopeQuantizeConfig
    | RmsNormQuantizeConfig
    | RopeQuantizeConfig
    | RelayoutConfig,
    Field(discriminator="op"),
]
"""Any layer config; JSON carries ``op`` as the discriminator."""

ProducerConfig = (
    QuantizeConfig
    | SiluMulQuantizeConfig
    | InverseRopeQuantizeConfig
    | RmsNormQuantizeConfig
    | RopeQuantizeConfig
)

_MODELS: dict[str, type[LayerBase]] = {
    "linear": LinearConfig,
    "quantize": QuantizeConfig,
    "silu_mul_quantize": SiluMulQuantizeConfig,
    "inverse_rope_quantize": InverseRopeQuantizeConfig,
    "rmsnorm_quantize": RmsNormQuantizeConfig,
    "rope_quantize": RopeQuantizeConfig,
    "relayout": RelayoutConfig,
}

_ADAPTER: TypeAdapter[Any] = TypeAdapter(LayerConfig)


def parse_layer_config(data: Any) -> Any:
    """Build a layer config from a dict or from JSON text.

    Raises:
        ConfigError: The data describes no layer.
    """
    try:
        if isinstance(data, str | bytes):
            return _ADAPTER.validate_json(data)
        return _ADAPTER.validate_python(data)
    except ValidationError as error:
        raise _not_a_layer(error) from None


def _not_a_layer(error: ValidationError) -> ConfigError:
    item = error.errors(include_url=False)[0]
    ops = "ops: " + " ".join(_MODELS)
    if item["type"] == "union_tag_not_found":
        return ConfigError("a layer config needs an op", facts=[ops])
    if item["type"] == "union_tag_invalid":
        op = str(item["ctx"]["tag"])
        near = closest(op, _MODELS)
        return ConfigError(
            f'op "{op}" is not known', facts=[ops], hint=f'did you mean "{near}"?' if near else None
        )
    if item["type"] == "json_invalid":
        return ConfigError("a layer config is not valid JSON", facts=[str(item["ctx"]["error"])])
    if not item["loc"]:
        return ConfigError(f"a layer config is an object, found {item['input']!r}")
    return as_config_error(_MODELS[str(item["loc"][0])], error)


def layer_config_schema() -> dict[str, Any]:
    """Give the JSON schema of every layer config."""
    return _ADAPTER.json_schema()


__all__ = [
    "InverseRopeQuantizeConfig",
    "LayerConfig",
    "LinearConfig",
    "ProducerConfig",
    "QuantizeConfig",
    "RelayoutConfig",
    "RmsNormQuantizeConfig",
    "RopeQuantizeConfig",
    "SiluMulQuantizeConfig",
    "layer_config_schema",
    "parse_layer_config",
    "round_up",
]
