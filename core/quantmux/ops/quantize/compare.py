"""Comparing quantized tensors: to the bit, or as closely as rounding freedom allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch

from quantmux.config.layouts import scale_storage
from quantmux.errors import LayoutError, NumericsError
from quantmux.ops.layouts import (
    as_bits,
    canonical_scales,
    flat_storage,
    place_grouped_scales,
    place_scales,
)
from quantmux.ops.numerics import (
    block_amax,
    encode,
    encode_nvfp4,
    expand_blocks,
    nvfp4_block_scales,
    nvfp4_global_scale,
    scale_from_amax,
    unpack_fp4,
)
from quantmux.ops.quantize.reference import write_data

if TYPE_CHECKING:
    from quantmux.config import Operand
    from quantmux.ops.quantized import QuantizedTensor

SCALE_TOLERANCE: Final = 2.0**-20
"""Relative freedom of a scale whose amax went through exp or a fused multiply-add."""

MISMATCH_SHARE: Final = 5e-4
"""Share of codes that may be one step off; at least one code may."""


@dataclass(frozen=True, slots=True)
class QuantizedComparison:
    """What a comparison found.

    Attributes:
        ok: Whether the tensors agree.
        part: What disagrees first: ``data``, ``scales``, ``global_scale``, ``padding`` … or "".
        coordinate: Where, in the part's own coordinates.
        got: The value there.
        want: The value that belongs there.
        mismatches: Elements of that part that disagree (one-step codes included when tolerated).
    """

    ok: bool
    part: str = ""
    coordinate: tuple[int, ...] = ()
    got: float = 0.0
    want: float = 0.0
    mismatches: int = 0

    def require(self, what: str) -> None:
        """Raise if the tensors disagree.

        Raises:
            NumericsError: They do; names the first coordinate.
        """
        if not self.ok:
            raise NumericsError(
                f"{what} disagrees with the reference in its {self.part}",
                facts={
                    "at": list(self.coordinate),
                    "need": self.want,
                    "found": self.got,
                    "elements": self.mismatches,
                },
            )


@dataclass(frozen=True, slots=True)
class Freedom:
    """What a kernel is allowed beyond the definition, as its capability's tags say.

    Attributes:
        approximate: Its arithmetic is off by a few ulp (reciprocals, products in another order).
        finite_only: What becomes of NaN and Inf is left open.
        tolerance: How far what it quantizes, and its scales, may be from the definition's values,
            relative; used where it is approximate.
    """

    approximate: bool = False
    finite_only: bool = False
    tolerance: float = SCALE_TOLERANCE


_NO_FREEDOM: Final = Freedom()


def compare_quantized(
    got: QuantizedTensor,
    want: QuantizedTensor,
    *,
    values: torch.Tensor | None = None,
    freedom: Freedom = _NO_FREEDOM,
) -> QuantizedComparison:
    """Compare a quantized tensor with the reference's.

    Without ``values`` everything must agree to the bit: codes, scales, every padded byte. Two
    things are left open, as the definition leaves them: codes in a block whose scale is NaN, and
    the payload of a NaN.

    With ``values``, for ops with transcendental arithmetic: scales within 2^-20 relative (rounded
    scales between the roundings of both ends), padding to the bit, and codes judged with the
    scales that ``got`` itself has: at most one step off, in at most 0.05 % of them. Scales that
    were given, not computed, agree to the bit.

    With ``values`` and ``freedom.approximate`` two things are left open besides: a code whose
    quotient lies within the tolerance (2^-20 relative, or what the kernel declares) of halfway
    between two codes may be either and is not counted, and a code under scale 0 may be anything,
    as it stands for 0. ``freedom.finite_only`` leaves open what stands where a block holds NaN or
    Inf (under a given scale of the whole tensor: where the element is one); every other block must
    not show it.

    Args:
        got: From the kernel under test.
        want: From the reference.
        values: fp32 [M, n] (or [T, G, n]): what the reference quantized.
        freedom: What the kernel's capability says.

    Raises:
        ShapeError, DtypeError, LayoutError: ``got`` is malformed, or of another layout.
    """
    got.check()
    if (got.operand, got.layout, got.logical_shape) != (
        want.operand,
        want.layout,
        want.logical_shape,
    ):
        raise LayoutError(
            "the tensors to compare are of different kinds",
            facts={
                "need": f"{want.operand.name} {want.layout} {list(want.logical_shape)}",
                "found": f"{got.operand.name} {got.layout} {list(got.logical_shape)}",
            },
        )
    if values is not None:
        return _compare_given(got, want) or _compare_loosely(got, values, freedom)
    return (
        _compare_global(got, want)
        or _compare_exactly("scales", _scale_storage(got), _scale_storage(want))
        or _compare_codes(got, want)
        or QuantizedComparison(ok=True)
    )


def _compare_global(got: QuantizedTensor, want: QuantizedTensor) -> QuantizedComparison | None:
    if got.global_scale is None or want.global_scale is None:
        return None
    return _compare_exactly("global_scale", got.global_scale, want.global_scale)


def _compare_given(got: QuantizedTensor, want: QuantizedTensor) -> QuantizedComparison | None:
    """Compare the scales that the caller gave: no arithmetic may have touched them."""
    if not got.operand.dynamic and not got.operand.is_nvfp4:
        return _compare_exactly("scales", canonical_scales(got), canonical_scales(want))
    return _compare_global(got, want) if got.operand.global_scale == "static" else None


def _compare_exactly(
    part: str, got: torch.Tensor, want: torch.Tensor, ignore: torch.Tensor | None = None
) -> QuantizedComparison | None:
    """Compare bits; two NaN are equal. ``ignore`` marks elements that are left open."""
    got_bits, want_bits = _bits(got), _bits(want)
    differs = got_bits != want_bits
    if got.dtype.is_floating_point:
        differs &= ~(got.to(torch.float32).isnan() & want.to(torch.float32).isnan())
    if ignore is not None:
        differs &= ~ignore
    return _first(part, differs, got, want)


def _compare_codes(got: QuantizedTensor, want: QuantizedTensor) -> QuantizedComparison | None:
    ignore = torch.zeros(want.data.shape, dtype=torch.bool, device=want.data.device)
    open_codes = _elements(want, canonical_scales(want).to(torch.float32).isnan())
    if len(want.logical_shape) == 3:
        ignore = open_codes.expand(want.data.shape)
    elif want.operand.is_nvfp4:
        # the scale of a partial block covers its padding, but padding is never left open
        whole = want.n // 2
        ignore[: want.m, :whole] = open_codes[:, : 2 * whole : 2]
    else:
        ignore[: want.m, : want.n] = open_codes
    return _compare_exactly("data", got.data, want.data, ignore)


def _compare_loosely(
    got: QuantizedTensor, values: torch.Tensor, freedom: Freedom
) -> QuantizedComparison:
    operand = got.operand
    rows = values.reshape(-1, got.n)
    scales = canonical_scales(got)
    scales = scales.reshape(-1, scales.shape[-1])
    amax = block_amax(rows, operand.block)
    g = got.global_scale
    if g is not None and operand.global_scale == "dynamic":
        exact = nvfp4_global_scale(rows)
        found = _between("global_scale", g, exact * (1 - SCALE_TOLERANCE),
                         exact * (1 + SCALE_TOLERANCE))  # fmt: skip
        if found:
            return found
    slack = freedom.tolerance if freedom.approximate else SCALE_TOLERANCE
    low, high = amax * (1 - slack), amax * (1 + slack)
    if g is not None:
        bounds = nvfp4_block_scales(low, g), nvfp4_block_scales(high, g)
    elif operand.dynamic:
        bounds = scale_from_amax(low, operand), scale_from_amax(high, operand)
    else:
        bounds = scales, scales  # given, and compared as such
    spoiled = ~amax.isfinite() if freedom.finite_only else None
    found = _between("scales", scales, *bounds, spoiled) or _compare_padding(got)
    return found or _compare_steps(got, rows, scales, freedom)


def _between(
    part: str,
    got: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    ignore: torch.Tensor | None = None,
) -> QuantizedComparison | None:
    value, least, most = (t.to(torch.float32) for t in (got, low, high))
    fits = ((value >= least) & (value <= most)) | (value.isnan() & most.isnan())
    if ignore is not None:
        fits |= ignore
    return _first(part, ~fits, got, high)


def _compare_padding(got: QuantizedTensor) -> QuantizedComparison | None:
    """Write the logical part anew, with its padding zero: every stored bit must come back."""
    scales = canonical_scales(got)
    if len(got.logical_shape) == 3 and not got.is_grouped:
        return None  # heads with one scale lie without padding
    if got.is_grouped:
        anew = place_grouped_scales(scales.transpose(0, 1).contiguous(), got.layout)
        size = anew.untyped_storage().nbytes() // anew.element_size()
        return _compare_exactly("padding of scales", flat_storage(got.scales, size),
                                flat_storage(anew, size))  # fmt: skip
    placed = place_scales(scales, got.operand, got.layout, got.m)
    size = scale_storage(got.operand, got.layout, got.m)
    codes = got.data
    if got.operand.is_nvfp4:
        codes = unpack_fp4(codes)
    data = torch.empty_like(got.data)
    write_data(data, codes[: got.m, : got.n], got.operand, got.layout)
    return _compare_exactly(
        "padding of scales", _scale_storage(got), flat_storage(placed, size)
    ) or _compare_exactly("padding of data", got.data, data)


def _compare_steps(
    got: QuantizedTensor, rows: torch.Tensor, scales: torch.Tensor, freedom: Freedom
) -> QuantizedComparison:
    """Judge codes with the scales that ``got`` has."""
    operand = got.operand
    m, n = rows.shape
    is_fp4 = got.global_scale is not None
    wide = expand_blocks(scales.to(torch.float32), operand.block, m, n)
    if is_fp4:
        have = unpack_fp4(got.data)[:m, :n]
    else:
        have = got.data.reshape(-1, n) if len(got.logical_shape) == 3 else got.data[:m, :n]

    def codes(values: torch.Tensor) -> torch.Tensor:
        if got.global_scale is None:
            return encode(values, wide, operand)
        return encode_nvfp4(values, scales, got.global_scale)

    want = codes(rows)
    place = _order(have, is_fp4)
    steps = (place - _order(want, is_fp4)).abs()
    open_codes = wide.isnan() | (_is_nan(have) & _is_nan(want))
    if freedom.finite_only:
        open_codes |= _spoiled(rows, operand)
    if freedom.approximate:
        slack = freedom.tolerance
        ends = [_order(codes(rows * (1 + d)), is_fp4) for d in (-slack, slack)]
        # further off than the code on the other side of a tie is still far off
        open_codes |= (place >= torch.minimum(*ends)) & (place <= torch.maximum(*ends))
        open_codes |= wide == 0
    steps = torch.where(open_codes, 0, steps)
    far = _first("data", steps > 1, have, want)
    if far:
        return far
    count = int((steps == 1).sum())
    allowed = max(1, int(MISMATCH_SHARE * steps.numel()))
    if count > allowed:
        near = _first("data", steps == 1, have, want)
        if near:
            return near
    return QuantizedComparison(ok=True, mismatches=count)


def _spoiled(rows: torch.Tensor, operand: Operand) -> torch.Tensor:
    """Tell per element whether NaN or Inf may decide about its code."""
    if not operand.dynamic and not operand.is_nvfp4:
        return ~rows.isfinite()
    return expand_blocks(~block_amax(rows, operand.block).isfinite(), operand.block, *rows.shape)


def _order(codes: torch.Tensor, is_fp4: bool) -> torch.Tensor:
    """Give integers that count representable values, so that neighbours differ by one."""
    if codes.dtype == torch.int8:
        return codes.to(torch.int32)
    bits = as_bits(codes).to(torch.int32)
    mask, sign = (0x7, 0x8) if is_fp4 else (0x7F, 0x80)
    magnitude = bits & mask
    return torch.where((bits & sign) != 0, -magnitude, magnitude)


def _is_nan(codes: torch.Tensor) -> torch.Tensor:
    if not codes.dtype.is_floating_point:
        return torch.zeros(codes.shape, dtype=torch.bool, device=codes.device)
    return codes.to(torch.float32).isnan()


def _elements(q: QuantizedTensor, blocks: torch.Tensor) -> torch.Tensor:
    """Give a flag per logical element from a flag per block."""
    if q.layout.scales == "scalar" and len(q.logical_shape) == 3:
        return blocks.reshape(1, 1, 1)
    if q.is_grouped:
        return blocks.repeat_interleave(q.operand.block.cols, dim=-1)
    return expand_blocks(blocks, q.operand.block, q.m, q.n)


def _scale_storage(q: QuantizedTensor) -> torch.Tensor:
    """Give all scale elements in storage order, pad rows included."""
    if q.is_grouped:
        t, groups, cols = q.scales.shape
        return flat_storage(q.scales, groups * cols * (-(-t // 4) * 4))
    return flat_storage(q.scales, scale_storage(q.operand, q.layout, q.m))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(torch.int32) if tensor.dtype == torch.float32 else as_bits(tensor)


def _first(
    part: str, bad: torch.Tensor, got: torch.Tensor, want: torch.Tensor
) -> QuantizedComparison | None:
    """Give the first place that is bad, or None."""
    count = int(bad.sum())
    if count == 0:
        return None
    at = tuple(int(i) for i in bad.nonzero()[0])
    return QuantizedComparison(
        ok=False,
        part=part,
        coordinate=at,
        got=float(got.to(torch.float32)[at]),
        want=float(want.to(torch.float32)[at]),
        mismatches=count,
    )
