"""The values that pass between kernels: a quantized matrix and a linear's weights."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch

from quantmux.config.layouts import data_shape, scale_shape, scale_storage, scale_strides
from quantmux.errors import DtypeError, InputError, LayoutError, ShapeError

if TYPE_CHECKING:
    from quantmux.config import Layout, Operand

DTYPES: dict[str, torch.dtype] = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
}
"""torch dtypes of plain activations and outputs."""

DTYPE_NAMES: dict[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}

DATA_DTYPES: dict[str, torch.dtype] = {
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
    "int8": torch.int8,
    "fp4_e2m1": torch.uint8,
}
"""torch dtypes that carry quantized elements; FP4 packs two in a byte, even column low."""


def scale_dtype(operand: Operand, layout: Layout) -> torch.dtype:
    """Give the torch dtype of the scale tensor."""
    if layout.scales == "packed_pow2":
        return torch.int32
    return torch.float8_e4m3fn if operand.scale_type == "e4m3" else torch.float32


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedTensor:
    """A quantized matrix [M, n], or heads: [T, G, n] per group of them, [T, H, d] with one scale.

    Attributes:
        data: Elements [padded_m, padded_n] in storage elements (see `DATA_DTYPES`).
        scales: Scales in the layout's shape and strides; dequant **multipliers**.
        global_scale: fp32 [1] dequant multiplier g of NVFP4, else None.
        operand: What the numbers mean.
        layout: How they lie.
        logical_shape: (M, n), (T, G, n), or (T, H, d), which the layout ``scalar`` tells apart.
    """

    data: torch.Tensor
    scales: torch.Tensor
    global_scale: torch.Tensor | None
    operand: Operand
    layout: Layout
    logical_shape: tuple[int, ...]

    @property
    def m(self) -> int:
        """Logical rows."""
        return self.logical_shape[0]

    @property
    def n(self) -> int:
        """Logical row width."""
        return self.logical_shape[-1]

    @property
    def device(self) -> torch.device:
        """Device of the data."""
        return self.data.device

    @property
    def is_grouped(self) -> bool:
        """Tell whether it is [T, G, n] on memory [G, T, n], with scales per head group."""
        return len(self.logical_shape) == 3 and self.layout.scales != "scalar"

    def dequantize(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Give the values [M, n] the codes stand for, computed in fp32."""
        from quantmux.ops.dequantize import dequantize

        return dequantize(self).to(dtype)

    def check(self) -> None:
        """Check data, scales and global scale against operand, layout and logical shape.

        No value is read, so nothing synchronises.

        Raises:
            InputError: A part is no tensor, or lies on another device than the data.
            ShapeError: A shape disagrees, or the row width is beyond the stored one.
            DtypeError: A dtype disagrees.
            LayoutError: Strides disagree, the storage ends before the pad rows of the scales, or
                a global scale is missing or superfluous.
        """
        _check_devices(self)
        _check_global_scale(self)
        if self.is_grouped:
            _check_grouped(self)
            return
        if len(self.logical_shape) == 3:
            _check_heads(self)
            return
        if len(self.logical_shape) != 2:
            raise ShapeError(f"a quantized matrix is [M, n], found {list(self.logical_shape)}")
        m = self.logical_shape[0]
        if self.n > self.layout.padded_n:
            raise ShapeError(
                f"row width {self.n} is beyond padded_n = {self.layout.padded_n}",
                facts=_facts(self),
            )
        want = data_shape(self.operand, self.layout, m)
        _require_shape("data", self.data, want, self)
        _require_dtype("data", self.data, DATA_DTYPES[self.operand.element], self)
        _require_strides("data", self.data, (want[1], 1), self)
        if ":" in self.layout.scales:
            return
        _require_shape("scales", self.scales, scale_shape(self.operand, self.layout, m), self)
        _require_dtype("scales", self.scales, scale_dtype(self.operand, self.layout), self)
        strides = scale_strides(self.operand, self.layout, m)
        _require_strides("scales", self.scales, strides, self)
        _require_storage(self.scales, scale_storage(self.operand, self.layout, m), self)

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Give data, scales and, for NVFP4, the global scale."""
        if self.global_scale is None:
            return (self.data, self.scales)
        return (self.data, self.scales, self.global_scale)


def empty_quantized(
    operand: Operand, layout: Layout, m: int, n: int, device: torch.device | str
) -> QuantizedTensor:
    """Allocate an uninitialised quantized matrix; the producer must write every byte of it."""
    data = torch.empty(
        data_shape(operand, layout, m), dtype=DATA_DTYPES[operand.element], device=device
    )
    storage = torch.empty(
        scale_storage(operand, layout, m), dtype=scale_dtype(operand, layout), device=device
    )
    scales = storage.as_strided(scale_shape(operand, layout, m), scale_strides(operand, layout, m))
    global_scale = torch.empty(1, dtype=torch.float32, device=device) if operand.is_nvfp4 else None
    return QuantizedTensor(data, scales, global_scale, operand, layout, (m, n))


@dataclass(frozen=True, slots=True, eq=False)
class LinearWeights:
    """The canonical weights of one linear, as checkpoints mean them: K contiguous, unpadded.

    Attributes:
        data: Codes [N, K] (fp8, int8) or bytes [N, R16(K)/2] (NVFP4).
        scales: Dequant multipliers over the block grid: fp32 [1] per tensor, [N, 1] per channel,
            [ceil(N/r), ceil(K/c)] per block; fp8_e4m3 [N, R16(K)/16] for NVFP4.
        global_scale: fp32 [1] multiplier g_w of NVFP4, else None.
        bias: [N] in the checkpoint's dtype, or None.
        input_scale: fp32 [1] multiplier of static activations, else None.
        input_global_scale: fp32 [1] multiplier g_a of static NVFP4 activations, else None.
    """

    data: torch.Tensor
    scales: torch.Tensor
    global_scale: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    input_scale: torch.Tensor | None = None
    input_global_scale: torch.Tensor | None = None

    def named(self) -> dict[str, torch.Tensor]:
        """Give the tensors that are present, by attribute name."""
        pairs = ((f.name, getattr(self, f.name)) for f in fields(self))
        return {name: tensor for name, tensor in pairs if tensor is not None}

    def to(self, device: torch.device | str) -> LinearWeights:
        """Give the same weights on a device; tensors already there are shared."""
        return replace(self, **{name: t.to(device) for name, t in self.named().items()})


def _facts(q: QuantizedTensor) -> list[str]:
    return [f"operand {q.operand.name}, layout {q.layout}, logical {list(q.logical_shape)}"]


def _require_shape(
    name: str, tensor: torch.Tensor, want: tuple[int, ...], q: QuantizedTensor
) -> None:
    if tuple(tensor.shape) != tuple(want):
        raise ShapeError(
            f"{name} has the wrong shape: needs {list(want)}, found {list(tensor.shape)}",
            facts=_facts(q),
        )


def _require_dtype(name: str, tensor: torch.Tensor, want: torch.dtype, q: QuantizedTensor) -> None:
    if tensor.dtype != want:
        raise DtypeError(f"{name} needs {want}, found {tensor.dtype}", facts=_facts(q))


def _require_strides(
    name: str, tensor: torch.Tensor, want: tuple[int, ...], q: QuantizedTensor
) -> None:
    # a stride along an extent of 1 (or of an empty tensor) addresses nothing
    found = tensor.stride()
    wrong = any(
        extent > 1 and have != need
        for extent, have, need in zip(tensor.shape, found, want, strict=True)
    )
    if wrong and tensor.numel():
        raise LayoutError(
            f"{name} has the wrong strides: needs {list(want)}, found {list(found)}",
            facts=_facts(q),
        )


def _require_storage(scales: torch.Tensor, need: int, q: QuantizedTensor) -> None:
    """Check that pad rows, which shape and strides do not tell of, are there to be read."""
    if need <= scales.numel():
        return  # there are none, and a tensor cannot be made that its storage does not hold
    held = scales.untyped_storage().nbytes() // scales.element_size() - scales.storage_offset()
    if held < need:
        raise LayoutError(
            f"the storage of scales ends before their pad rows: needs {need} elements, "
            f"found {held}",
            facts=_facts(q),
        )


def _check_devices(q: QuantizedTensor) -> None:
    parts = [("data", q.data), ("scales", q.scales)]
    if q.global_scale is not None:
        parts.append(("global_scale", q.global_scale))
    for name, tensor in parts:
        if not isinstance(tensor, torch.Tensor):
            raise InputError(
                f"{name} needs to be a tensor, found {type(tensor).__name__}", facts=_facts(q)
            )
        if tensor is not q.data and tensor.device != q.data.device:
            raise InputError(
                f"{name} is on {tensor.device}, data is on {q.data.device}",
                facts=_facts(q),
                code="device",
            )


def _check_global_scale(q: QuantizedTensor) -> None:
    if (q.global_scale is None) == q.operand.is_nvfp4:
        raise LayoutError(
            f"{q.operand.name} "
            + ("needs a global scale" if q.operand.is_nvfp4 else "has no global scale")
        )
    if q.global_scale is not None:
        _require_shape("global_scale", q.global_scale, (1,), q)
        _require_dtype("global_scale", q.global_scale, torch.float32, q)


def _check_grouped(q: QuantizedTensor) -> None:
    t, g, n = q.logical_shape
    _require_shape("data", q.data, (t, g, n), q)
    _require_dtype("data", q.data, DATA_DTYPES[q.operand.element], q)
    _require_strides("data", q.data, (n, t * n, 1), q)
    rows = -(-t // 4) * 4
    groups = n // q.operand.block.cols
    cols = -(-groups // 4) if q.layout.scales == "packed_pow2" else groups
    _require_shape("scales", q.scales, (t, g, cols), q)
    _require_dtype("scales", q.scales, scale_dtype(q.operand, q.layout), q)
    _require_strides("scales", q.scales, (1, cols * rows, rows), q)
    _require_storage(q.scales, g * cols * rows if t else 0, q)


def _check_heads(q: QuantizedTensor) -> None:
    t, heads, dim = q.logical_shape
    _require_shape("data", q.data, (t, heads, dim), q)
    _require_dtype("data", q.data, DATA_DTYPES[q.operand.element], q)
    _require_strides("data", q.data, (heads * dim, dim, 1), q)
    _require_shape("scales", q.scales, (1,), q)
    _require_dtype("scales", q.scales, scale_dtype(q.operand, q.layout), q)


def as_quantized(value: Any) -> QuantizedTensor | None:
    """Give the value if it is a QuantizedTensor, else None."""
    return value if isinstance(value, QuantizedTensor) else None
