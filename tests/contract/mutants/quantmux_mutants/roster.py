"""The right kernels (twins) and their mutants, as data. Imports no torch."""

from __future__ import annotations

from typing import Any, Final

from quantmux import Capability, KernelSpec, OperandOffer, SchemeOffer
from quantmux import operand as preset
from quantmux_mutants import vetoes
from quantmux_mutants.fused_roster import FUSED, FUSED_TWINS
from quantmux_mutants.model import Mutant, Twin
from quantmux_mutants.quiet_roster import QUIET

ANY_IN: Final = ("bf16", "fp16", "fp32")


def _makes(name: str, *layouts: str, **changes: Any) -> OperandOffer:
    return OperandOffer.of(preset(name), layouts, **changes)


def _reads(name: str, *layouts: str) -> OperandOffer:
    is_e4m3 = preset(name).element == "fp8_e4m3"
    return _makes(name, *layouts, roundings=("none", "pow2") if is_e4m3 else ("none",))


def _pair(weight: str, activation: OperandOffer | None, **more: Any) -> SchemeOffer:
    return SchemeOffer(weight=_reads(weight, "row_major"), activation=activation, **more)


_COLUMNS: Final = ("row_major", "col_major", "col_major_aligned4")
_TILES: Final = ("row_major", "swizzled_128x4", "swizzled_8x4")
_PURE: Final = frozenset({"composite", "deterministic"})


def _producer(*produces: OperandOffer, **more: Any) -> Capability:
    fields: dict[str, Any] = {
        "arch": "cpu",
        "produces": produces,
        "takes_padded_n": True,
        "takes_padded_m": True,
        "in_dtypes": ANY_IN,
        "tags": _PURE,
    }
    return Capability(**{**fields, **more})


def _consumer(*schemes: SchemeOffer, **more: Any) -> Capability:
    fields: dict[str, Any] = {
        "arch": "cpu",
        "schemes": schemes,
        "in_dtypes": ANY_IN,
        "out_dtypes": ANY_IN,
        "takes_bias": True,
        "accumulations": ("fast", "exact"),
        "tags": _PURE,
    }
    return Capability(**{**fields, **more})


_PADDED: Final = {"takes_padded_n": True, "pad_n_to": 16, "pad_k_to": 16}
_PRODUCER: Final = ("producers.py", "memory.py")
_CONSUMER: Final = ("consumers.py", *_PRODUCER)

TWINS: Final = (
    Twin(
        "group",
        "quantize",
        "producers",
        _producer(
            _makes("fp8_group128", *_COLUMNS),
            _makes("fp8_group128_pow2", *_COLUMNS, "packed_pow2"),
        ),
        _PRODUCER,
    ),
    Twin(
        "rows",
        "quantize",
        "producers",
        _producer(
            _makes("fp8_token", "row_major"),
            _makes("int8_token", "row_major"),
            _makes("fp8_tensor", "scalar", scale_modes=("dynamic", "static")),
        ),
        _PRODUCER,
    ),
    Twin(
        "nvfp4",
        "quantize",
        "producers",
        _producer(_makes("nvfp4", *_TILES, global_scales=("dynamic", "static"))),
        _PRODUCER,
    ),
    Twin(
        "silu",
        "silu_mul_quantize",
        "producers",
        _producer(_makes("fp8_group128", "row_major", "col_major_aligned4")),
        _PRODUCER,
    ),
    Twin(
        "rope",
        "inverse_rope_quantize",
        "producers",
        _producer(
            _makes("fp8_group128_pow2", "col_major_aligned4", "packed_pow2"),
            takes_padded_n=False,
            takes_padded_m=False,
        ),
        _PRODUCER,
    ),
    Twin(
        "relayout",
        "relayout",
        "producers",
        Capability(
            arch="cpu",
            relayouts=tuple((a, b) for a in _TILES for b in _TILES if a != b),
            takes_padded_n=True,
            takes_padded_m=True,
            tags=_PURE,
        ),
        _PRODUCER,
    ),
    Twin(
        "channel",
        "linear",
        "consumers",
        _consumer(
            _pair("fp8_channel", _reads("fp8_token", "row_major")),
            weight_layout="mutants:padded16",
            **_PADDED,
        ),
        _CONSUMER,
    ),
    Twin(
        "block",
        "linear",
        "consumers",
        _consumer(_pair("fp8_block128", _reads("fp8_group128", "col_major_aligned4"))),
        _CONSUMER,
    ),
    Twin(
        "inside",
        "linear",
        "consumers",
        _consumer(
            _pair("fp8_block128", _makes("fp8_group128", "row_major"), quantizes_inside=True),
            _pair("fp8_block128", _makes("fp8_group128_pow2", "row_major"), quantizes_inside=True),
        ),
        _CONSUMER,
    ),
    Twin(
        "weight_only",
        "linear",
        "consumers",
        _consumer(
            _pair("fp8_channel", None),
            weight_layout="mutants:padded16_weight_only",
            pad_n_to=16,
        ),
        _CONSUMER,
    ),
    Twin(
        "int8",
        "linear",
        "consumers",
        _consumer(
            _pair("int8_channel", _reads("int8_token", "row_major")),
            weight_layout="mutants:padded16_int8",
            **_PADDED,
        ),
        _CONSUMER,
    ),
    Twin(
        "nvfp4_linear",
        "linear",
        "consumers",
        _consumer(_pair("nvfp4", _reads("nvfp4", "swizzled_128x4")), takes_padded_n=True),
        _CONSUMER,
    ),
    *FUSED_TWINS,
)

_GPUS_TOO: Final = {"arch": ("cpu", "80+")}

MUTANTS: Final = (
    Mutant("group", "all_zeros", "every byte of the result is zero"),
    Mutant("group", "stale", "gives the answer of the first call with so many rows"),
    Mutant("group", "out_ignored", "leaves `out` as it was; the right answer is elsewhere"),
    Mutant("group", "same_buffer", "gives the same buffer in every call", "repeat"),
    Mutant("group", "wrong_eps", "the floor of amax is 1e-12, whatever the config says"),
    Mutant("group", "floor_on_scale", "eps bounds the scale, after the division by 448"),
    Mutant("group", "least_scale", "scales are floored at 1 / (448 * 512)"),
    Mutant("group", "reciprocal", "x * RN(1 / s) in place of x / s"),
    Mutant("group", "scale_by_reciprocal", "amax * RN(1 / 448) in place of amax / 448"),
    Mutant("group", "pow2_dropped", "scales are not rounded up to powers of two"),
    Mutant("group", "pow2_by_log2", "rounds up by exp2(ceil(log2(s))) in fp32"),
    Mutant("group", "pow2_nearest", "rounds to the nearest power of two"),
    Mutant("group", "dirty_data_columns", "columns n … padded_n of the data are not written"),
    Mutant("group", "dirty_data_rows", "rows M … padded_m of the data are not written"),
    Mutant("group", "dirty_scale_rows", "rows M … padded_m of the scales are not written"),
    Mutant("group", "dirty_scale_columns", "scales of wholly padded groups are not written"),
    Mutant("group", "dirty_aligned_rows", "rows M … R4(M) of col_major_aligned4 are not written"),
    Mutant("group", "big_endian_words", "packed_pow2 with the first exponent in the high byte"),
    Mutant("group", "rows_labelled_columns", "row-major scales labelled col_major"),
    Mutant("group", "last_row", "codes of the last row are zero"),
    Mutant("group", "last_group", "codes of a partial last group are zero"),
    Mutant("group", "last_element", "amax is taken over all columns but the last"),
    Mutant("group", "eight_rows_wrong", "right only where M is a multiple of 8"),
    Mutant("group", "eight_rows_raises", "raises unless M is a multiple of 8"),
    Mutant("group", "padded_n_ignored", "stores rows n apart, not padded_n"),
    Mutant("group", "bound_on_scale", "scale_ub bounds the scale, not amax"),
    Mutant("group", "nan_dropped", "a NaN does not reach amax"),
    Mutant("group", "inf_saturates", "an Inf counts as the largest fp32 number"),
    Mutant("group", "nan_codes", "what is beyond 448 becomes NaN, not 448"),
    Mutant("group", "overrun", "writes 16 bytes beyond its data"),
    Mutant("group", "input_changed", "clamps the caller's x in place", "repeat"),
    Mutant(
        "group",
        "dirty_own_output",
        "zeroes the padding of `out`, not that of its own memory",
        "poisoned_scales",
    ),
    Mutant(
        "group", "default_dtype", "eps is a constant of the program's default dtype", "surroundings"
    ),
    Mutant("group", "last_config", "works by the config that was bound last", "repeat"),
    Mutant("group", "strides_ignored", "takes x to be contiguous", "strides"),
    Mutant(
        "group",
        "too_many_rows",
        "declares M up to 1000 and is right up to 256",
        "bounds",
        changes={"m_max": 1000},
    ),
    Mutant("group", "sm90_only", "declares the CPU and raises on it"),
    Mutant(
        "group",
        "vetoed_arch",
        "declares 80+, and its veto refuses every GPU",
        "bounds",
        changes=_GPUS_TOO,
        spec={"veto": vetoes.no_gpu},
        code="",
    ),
    Mutant(
        "group",
        "raising_veto",
        "its veto raises for widths that it declares",
        spec={"veto": vetoes.raises_for_odd_groups},
        code="",
    ),
    Mutant(
        "group",
        "missing_source",
        "memory.py, which it imports, is not among its sources",
        "sources",
        spec={"sources": ("producers.py",)},
        code="",
    ),
    Mutant(
        "group",
        "absent_source",
        "one of its sources is no file",
        "sources",
        spec={"sources": (*_PRODUCER, "kernels.cu")},
        code="",
    ),
    Mutant("rows", "reciprocal", "x * RN(1 / s) in place of x / s, per token"),
    Mutant("rows", "half_away", "int8 rounds halves away from zero"),
    Mutant("rows", "minus_128", "int8 codes reach -128"),
    Mutant("rows", "static_ignored", "codes by a scale of its own, where one is given"),
    Mutant("rows", "scale_changed", "changes the caller's static scale", "repeat"),
    Mutant("silu", "silu_in_bf16", "the product is rounded to bf16 before amax"),
    Mutant("silu", "halves_swapped", "takes up for gate"),
    Mutant("silu", "exp_overflows", "silu by exp(gate) / (1 + exp(gate)): NaN for large gates"),
    Mutant("nvfp4", "nibbles", "the even column is in the high nibble"),
    Mutant("nvfp4", "rows_labelled_tiles", "row-major scales labelled swizzled_128x4"),
    Mutant("nvfp4", "small_tiles_labelled_large", "8x4 tiles labelled swizzled_128x4"),
    Mutant("nvfp4", "dirty_tiles", "scales of padded rows and columns are not written"),
    Mutant("nvfp4", "given_global_ignored", "a given global scale counts as 1"),
    Mutant("nvfp4", "global_inverted", "takes the global multiplier for its reciprocal"),
    Mutant("nvfp4", "global_not_written", "a given global scale is not passed on"),
    Mutant("nvfp4", "sixth_by_reciprocal", "amax * RN(1 / 6) in place of amax / 6"),
    Mutant("nvfp4", "ties_away", "halves round away from zero, not to the even code"),
    Mutant("rope", "rope_forward", "rotates on instead of back"),
    Mutant("rope", "rope_halves", "pairs column i with i + rope_dim / 2"),
    Mutant("rope", "rope_first_columns", "rotates the first columns of a head"),
    Mutant("rope", "rope_in_bf16", "rounds to bf16 between rotation and quantization"),
    Mutant("rope", "rope_dirty_rows", "rows T … R4(T) of the scales are not written"),
    Mutant(
        "rope",
        "variant_per_rows",
        "compiles for T = 1, for multiples of 16, and for the rest",
        "variants",
    ),
    Mutant("rope", "built_by_calls", "its warmup builds nothing", "variants"),
    Mutant("relayout", "relayout_kept", "gives the same buffer in every call", "repeat"),
    Mutant("relayout", "relaid_only_by_name", "copies the scales as they lie, under a new name"),
    Mutant("relayout", "relayout_dirty", "padding of the tiles is not written"),
    Mutant("relayout", "relayout_loses_global", "the global scale becomes 1"),
    Mutant("channel", "all_zeros", "every product is zero"),
    Mutant("channel", "stale", "gives the answer of the first call with so many rows"),
    Mutant("channel", "out_ignored", "leaves `out` as it was; the right answer is elsewhere"),
    Mutant("channel", "same_buffer", "gives the same buffer in every call", "repeat"),
    Mutant("channel", "bias_skipped", "takes a bias and does not add it"),
    Mutant("channel", "bias_rounded", "rounds before it adds the bias"),
    Mutant("channel", "bias_narrowed", "rounds the bias to the output's format first"),
    Mutant("channel", "two_roundings", "a bf16 intermediate, also for fp16 and fp32 outputs"),
    Mutant("channel", "half_sums", "declares exact accumulation and adds up in fp16"),
    Mutant("channel", "last_column_of_k", "the last column of K is left out"),
    Mutant("channel", "last_row_left", "the last row of y is not written"),
    Mutant("channel", "last_columns_of_n", "columns beyond the last whole 8 are zero"),
    Mutant("channel", "eight_rows_wrong", "right only where M is a multiple of 8"),
    Mutant("channel", "prepared_in_place", "preparing changes the checkpoint's scales", "prepare"),
    Mutant("channel", "prepared_once", "preparing twice gives other scales", "prepare"),
    Mutant(
        "channel",
        "prepared_by_shape",
        "a second layer of one shape gets the first one's weights",
        "prepare",
    ),
    Mutant("channel", "out_stride_ignored", "stores rows N apart, whatever the stride of `out`"),
    Mutant("channel", "padded_n", "takes padded N and K for the logical ones", "prepare"),
    Mutant("channel", "restores_padded", "restore() gives padded codes", "prepare"),
    Mutant(
        "channel",
        "drifting",
        "within tolerance, tagged deterministic, never twice the same",
        "repeat",
    ),
    Mutant("channel", "contiguous", "declares a row stride of R8(N), gives N", "strides"),
    Mutant(
        "channel",
        "never_contiguous",
        "declares contiguous rows and gives a stride of R8(N)",
        "strides",
        changes={"output_row_multiple": 1},
    ),
    Mutant("channel", "input_changed", "clears the scales of x after use", "repeat"),
    Mutant("channel", "wrong_dtype", "gives fp32 where bf16 is asked"),
    Mutant("channel", "overrun_row", "stores eight columns beyond the last one"),
    Mutant("channel", "padding_counts", "adds up the padding of K"),
    Mutant("channel", "last_layer", "multiplies by the weights that were bound last", "prepare"),
    Mutant(
        "channel",
        "loosest_bound",
        "zeros, and the loosest bound that may be declared",
        changes={"rel_tolerance": 0.1},
        code="all_zeros",
    ),
    Mutant("channel", "nan_swallowed", "a row of NaN comes out as zeros"),
    Mutant(
        "channel",
        "narrowed_by_autocast",
        "its fp32 product becomes bf16 under autocast",
        "surroundings",
    ),
    Mutant(
        "channel", "offset_ignored", "reads codes from the beginning of their storage", "prepare"
    ),
    Mutant("block", "whole_blocks", "a partial last block of N gets the scales of the one before"),
    Mutant("block", "grid_transposed", "reads the grid of weight scales transposed"),
    Mutant("block", "row_major_read", "reads column-major scales of x as rows"),
    Mutant(
        "inside", "placeholder", "reads an activation scale that nobody wrote", "poisoned_scales"
    ),
    Mutant("inside", "activation_kept", "leaves x in 16 bit, where the scheme quantizes it"),
    Mutant(
        "weight_only",
        "placeholder_weight_only",
        "multiplies by a scale that nobody wrote",
        "poisoned_scales",
    ),
    Mutant("int8", "short_sum", "adds up in 16 bit"),
    Mutant("nvfp4_linear", "alpha_forgotten", "both global scales are left out"),
    Mutant("nvfp4_linear", "weight_global_forgotten", "the weight's global scale is left out"),
    Mutant("nvfp4_linear", "nibbles", "reads the high nibble first"),
    Mutant("nvfp4_linear", "read_as_small_tiles", "reads 128x4 tiles as 8x4"),
    *QUIET,
    *FUSED,
)

_FAULTS: Final = {
    "quantize": "row_faults",
    "silu_mul_quantize": "op_faults",
    "inverse_rope_quantize": "op_faults",
    "rmsnorm_quantize": "fused_faults",
    "rope_quantize": "fused_faults",
    "relayout": "op_faults",
    "linear": "consumer_faults",
}


def kernels() -> tuple[KernelSpec, ...]:
    """Give the spec of every twin and mutant."""
    twins = {twin.name: twin for twin in TWINS}
    return (
        *(_spec(twin, twin.name, twin.module, twin.name, ()) for twin in TWINS),
        *(_mutant(mutant, twins[mutant.twin]) for mutant in MUTANTS),
    )


def _mutant(mutant: Mutant, twin: Twin) -> KernelSpec:
    stem = f"{twin.name}.{mutant.name}"
    if mutant.code == "":
        return _spec(twin, stem, twin.module, twin.name, (), mutant)
    module = mutant.module or ("op_faults" if twin.name == "nvfp4" else _FAULTS[twin.op])
    return _spec(twin, stem, module, mutant.code or mutant.name, (f"{module}.py",), mutant)


def _spec(
    twin: Twin,
    stem: str,
    module: str,
    attribute: str,
    more: tuple[str, ...],
    mutant: Mutant | None = None,
) -> KernelSpec:
    changed = {} if mutant is None else mutant.changes
    fields: dict[str, Any] = {
        "id": f"mutants/{stem}",
        "op": twin.op,
        "capability": twin.capability.replace(**changed) if changed else twin.capability,
        "load": f"quantmux_mutants.{module}:{attribute}",
        "sources": (*more, *twin.sources),
        "summary": "right" if mutant is None else mutant.fault,
    }
    return KernelSpec(**{**fields, **({} if mutant is None else mutant.spec)})
