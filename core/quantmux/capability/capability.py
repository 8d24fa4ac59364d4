"""What one kernel offers, as data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_serializer, field_validator, model_validator

from quantmux.capability.arch import ArchSet
from quantmux.config._base import Frozen
from quantmux.config.formats import Dtype, ElementFormat
from quantmux.config.operands import Block, GlobalScale, Operand
from quantmux.config.schemes import Accumulation
from quantmux.errors import ConfigError

Rounding = Literal["none", "pow2"]
OpName = Literal[
    "linear",
    "quantize",
    "silu_mul_quantize",
    "inverse_rope_quantize",
    "rmsnorm_quantize",
    "rope_quantize",
    "relayout",
]
OPS: tuple[OpName, ...] = (
    "linear",
    "quantize",
    "silu_mul_quantize",
    "inverse_rope_quantize",
    "rmsnorm_quantize",
    "rope_quantize",
    "relayout",
)


class OperandOffer(Frozen):
    """The operands a kernel can make or read: one element and block, sets for the rest.

    Attributes:
        element: Element format.
        block: Block; ``None`` means any block.
        scale_type: Storage type of scales.
        roundings: Roundings of the scale it can *make* (producer) or *accepts* (consumer).
        scale_modes: ``dynamic`` and/or ``static`` scales (per-tensor fp8, int8).
        global_scales: Second-level scales it handles.
        any_eps: Takes the config's eps; False means exactly ``eps``.
        eps: The floor built in, when ``any_eps`` is False.
        takes_scale_ub: Honours ``scale_ub``.
        layouts: Scale layouts, as many as it can write or read.
    """

    element: ElementFormat
    block: Block | None
    scale_type: Literal["fp32", "e4m3"] = "fp32"
    roundings: tuple[Rounding, ...] = ("none",)
    scale_modes: tuple[Literal["dynamic", "static"], ...] = ("dynamic",)
    global_scales: tuple[GlobalScale, ...] = ("none",)
    any_eps: bool = True
    eps: float = 1e-10
    takes_scale_ub: bool = True
    layouts: tuple[str, ...]

    @classmethod
    def of(cls, operand: Operand, layouts: tuple[str, ...], **changes: Any) -> OperandOffer:
        """Build the offer of exactly this operand (any eps, any scale_ub) in these layouts."""
        fields: dict[str, Any] = {
            "element": operand.element,
            "block": operand.block,
            "scale_type": operand.scale_type,
            "roundings": (operand.scale_rounding,),
            "scale_modes": ("dynamic",) if operand.dynamic else ("static",),
            "global_scales": (operand.global_scale,),
            "layouts": layouts,
        }
        return cls(**{**fields, **changes})


class SchemeOffer(Frozen):
    """One combination of operands that a consumer multiplies.

    Attributes:
        weight: The weight operand it was prepared from.
        activation: The activation operand it reads; None reads plain 16-bit activations.
        quantizes_inside: It takes plain activations and makes ``activation`` itself: no producer
            stands before it and no scale tensor is passed.
    """

    weight: OperandOffer
    activation: OperandOffer | None = None
    quantizes_inside: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> SchemeOffer:
        if self.quantizes_inside and self.activation is None:
            raise ConfigError("quantizes_inside needs the activation operand that it makes")
        return self


class Needs(Frozen):
    """A package or a tool without which the kernel cannot run.

    ``package`` needs carry a version range in packaging's syntax (``>=2.8``), or "".
    ``import_name`` is the module that must exist when it differs from the package's name.
    ``library`` names in words what the plugin itself looks for (its veto says no where it is
    missing): it is listed among the assumptions for a device that is not here, and no more.
    """

    kind: Literal["package", "tool", "library"]
    name: str
    version: str = ""
    import_name: str | None = None
    install: str | None = None

    def __str__(self) -> str:
        return f"{self.name}{self.version}"


class Capability(Frozen):
    """Everything selection needs to know of a kernel, without importing it.

    Attributes:
        arch: Architectures it runs on.
        produces: Operands and layouts it writes (producers).
        schemes: Operand pairs it multiplies (consumers).
        relayouts: Source → target scale layouts it converts (relayout kernels).
        takes_padded_n: It can write (producer) or read (consumer) ``padded_n > n``.
        takes_padded_m: It can write or read ``padded_m > m``.
        align_n: Logical N must be a multiple of it.
        align_k: Logical K (row width n of a producer) must be a multiple of it.
        pad_n_to: Weight preparation pads N to a multiple of it (consumers).
        pad_k_to: Weight preparation pads K to it, so x arrives with padded_n = K rounded up.
        pad_m_to: It reads x with rows padded to a multiple of it.
        m_min: Least M it serves.
        m_max: Greatest M it serves, None is unbounded.
        m_multiple: M must be a multiple of it.
        in_dtypes: Formats of plain input.
        out_dtypes: Formats of plain output (consumers).
        takes_bias: It adds a bias in fp32 before the one rounding.
        accumulations: ``fast`` and/or ``exact``.
        output_row_multiple: Rows of y have stride N rounded up to this (1 = always contiguous).
        weight_layout: Name of the prepared weight form; kernels naming the same one share it.
            ``canonical`` is the checkpoint's own form.
        canonical_if_aligned: Where N and K are multiples of ``pad_n_to`` and ``pad_k_to`` already,
            it reads canonical weights, and shares them with every kernel that does;
            ``weight_layout`` is the form of the others.
        launches: Kernel launches of one call (of a linear with a bias: one in the output's dtype),
            None for a composite of torch operations.
        needs: Packages and tools.
        tags: ``cuda_graph``, ``deterministic``, ``experimental``, ``composite``; ``approximate``
            and ``finite_only`` of quantizers, see `is_approximate` and docs/numerics.md.
        is_reference: It *is* the op's definition: always tier ``reference``.
        compute: ``native`` multiplies the scheme's own operands on units made for them;
            ``emulated`` gives the same values in wider arithmetic.
        rel_tolerance: Bound on the relative Frobenius error if looser than the op's, else None.
            At most 0.1: the error of zeros is 1, and a bound near it would let anything pass. Of an
            ``approximate`` quantizer: how far its values may be from the definition's, relative.
    """

    arch: tuple[ArchSet, ...]
    produces: tuple[OperandOffer, ...] = ()
    schemes: tuple[SchemeOffer, ...] = ()
    relayouts: tuple[tuple[str, str], ...] = ()
    takes_padded_n: bool = False
    takes_padded_m: bool = False
    align_n: int = Field(default=1, ge=1)
    align_k: int = Field(default=1, ge=1)
    pad_n_to: int = Field(default=1, ge=1)
    pad_k_to: int = Field(default=1, ge=1)
    pad_m_to: int = Field(default=1, ge=1)
    m_min: int = Field(default=1, ge=1)
    m_max: int | None = None
    m_multiple: int = Field(default=1, ge=1)
    in_dtypes: tuple[Dtype, ...] = ("bf16", "fp16")
    out_dtypes: tuple[Dtype, ...] = ("bf16", "fp16")
    takes_bias: bool = False
    accumulations: tuple[Accumulation, ...] = ("fast",)
    output_row_multiple: int = Field(default=8, ge=1)
    weight_layout: str = "canonical"
    canonical_if_aligned: bool = False
    launches: int | None = None
    needs: tuple[Needs, ...] = ()
    tags: frozenset[str] = frozenset()
    is_reference: bool = False
    compute: Literal["native", "emulated"] = "native"
    rel_tolerance: float | None = Field(default=None, gt=0, le=0.1)

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            arch: str | tuple[str | ArchSet, ...],
            produces: tuple[OperandOffer, ...] = (),
            schemes: tuple[SchemeOffer, ...] = (),
            relayouts: tuple[tuple[str, str], ...] = (),
            takes_padded_n: bool = False,
            takes_padded_m: bool = False,
            align_n: int = 1,
            align_k: int = 1,
            pad_n_to: int = 1,
            pad_k_to: int = 1,
            pad_m_to: int = 1,
            m_min: int = 1,
            m_max: int | None = None,
            m_multiple: int = 1,
            in_dtypes: tuple[Dtype, ...] = ("bf16", "fp16"),
            out_dtypes: tuple[Dtype, ...] = ("bf16", "fp16"),
            takes_bias: bool = False,
            accumulations: tuple[Accumulation, ...] = ("fast",),
            output_row_multiple: int = 8,
            weight_layout: str = "canonical",
            canonical_if_aligned: bool = False,
            launches: int | None = None,
            needs: tuple[Needs, ...] = (),
            tags: frozenset[str] | set[str] = frozenset(),
            is_reference: bool = False,
            compute: Literal["native", "emulated"] = "native",
            rel_tolerance: float | None = None,
        ) -> None: ...

    @field_validator("arch", mode="before")
    @classmethod
    def _arch_names(cls, value: object) -> object:
        if isinstance(value, str):
            value = (value,)
        if isinstance(value, list | tuple):
            return tuple(ArchSet(spec=v) if isinstance(v, str) else v for v in value)
        return value

    @field_serializer("tags")
    def _sorted_tags(self, value: frozenset[str]) -> list[str]:
        # the order of a set differs between processes; fingerprints and digests must not
        return sorted(value)

    @model_validator(mode="after")
    def _range(self) -> Capability:
        if self.m_max is not None and self.m_max < self.m_min:
            raise ConfigError(f"m_max = {self.m_max} is below m_min = {self.m_min}")
        return self

    def weight_layout_for(self, n: int, k: int) -> str:
        """Give the name of the form that weights [n, k] are prepared into."""
        is_aligned = n % self.pad_n_to == 0 and k % self.pad_k_to == 0
        return "canonical" if self.canonical_if_aligned and is_aligned else self.weight_layout

    @property
    def is_approximate(self) -> bool:
        """Tell whether its numbers are near the definition's, and not the same.

        ``approximate``: its arithmetic is off by a few ulp. ``finite_only``: what it makes of NaN
        and Inf is its own. It is ranked behind every kernel of its tier that is neither, so that a
        fallback between those changes no bit (docs/decisions/0005).
        """
        return not self.tags.isdisjoint(("approximate", "finite_only"))

    @property
    def is_experimental(self) -> bool:
        """Tell whether it is ranked behind every kernel that is not experimental."""
        return "experimental" in self.tags
