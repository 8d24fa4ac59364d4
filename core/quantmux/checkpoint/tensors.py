"""Tensors of a checkpoint, memory-mapped, in the canonical form the ops take.

Codes stay where they are in the file's pages. Scales become fp32 multipliers in canonical shape,
and are checked: a scale that is NaN, infinite or not positive means a damaged or misread file.
"""

from __future__ import annotations

import mmap
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import torch

from quantmux.errors import CheckpointError
from quantmux.ops.linear.weights import data_shape, grid_shape
from quantmux.ops.numerics import pow2_from_bytes
from quantmux.ops.quantized import LinearWeights
from quantmux.runtime.inputs import home_of

if TYPE_CHECKING:
    from quantmux.checkpoint.headers import Checkpoint
    from quantmux.checkpoint.layer_entry import LayerEntry, Role, Rule, TensorBinding
    from quantmux.checkpoint.safetensors_header import TensorInfo
    from quantmux.config import LinearConfig

TORCH_DTYPES: Final[dict[str, torch.dtype]] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "I64": torch.int64,
    "U64": torch.uint64,
    "F64": torch.float64,
    "C64": torch.complex64,
}
"""torch dtypes of safetensors dtypes."""

DTYPE_NAMES: Final = {dtype: name for name, dtype in TORCH_DTYPES.items()}

_READ_WRITE: Final = mmap.PROT_READ | mmap.PROT_WRITE
# Python names the flag from 3.12 on; where it is unknown, the mapping is reserved
_NO_RESERVE: Final[int] = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)

_SCALE_ROLES: Final[tuple[Role, ...]] = (
    "scales",
    "global_scale",
    "input_scale",
    "input_global_scale",
)


_LAST_FINITE: Final = {torch.float8_e4m3fn: 0x7E, torch.float8_e5m2: 0x7B}
"""The greatest magnitude code that is a finite number."""


class StoredTensor(NamedTuple):
    """A scale as the file spells it: the last part of its name, its bits, how it is read."""

    leaf: str
    tensor: torch.Tensor
    rule: Rule

    def canonical(self) -> torch.Tensor:
        """Give the multiplier in fp32 (e4m3 for block scales of NVFP4), in the stored shape."""
        if self.rule == "e8m0":
            return pow2_from_bytes(self.tensor.view(torch.uint8))
        if self.tensor.dtype == torch.float8_e4m3fn:
            return self.tensor
        wide = self.tensor.to(torch.float32)
        return torch.ones_like(wide) / wide if self.rule == "reciprocal" else wide


@dataclass(frozen=True, slots=True, eq=False)
class StoredScales:
    """Scales as the file spells them: dtype, shape, divisor or multiplier.

    The canonical form loses the spelling (1/(1/G) is not always G). Kept beside the weights, it
    lets a writer of the same format give back the same bytes.

    Attributes:
        source: Format label of the entry they came from.
        tensors: Stored tensors by role.
    """

    source: str
    tensors: dict[Role, StoredTensor]


@dataclass(frozen=True, slots=True, eq=False)
class LoadedLinear:
    """One linear of a checkpoint: its entry, canonical weights, and scales as they were stored."""

    entry: LayerEntry
    weights: LinearWeights
    stored: StoredScales

    @property
    def name(self) -> str:
        """Module name."""
        return self.entry.name

    @property
    def config(self) -> LinearConfig:
        """Shape, scheme and dtypes."""
        return self.entry.config


def load_linear(
    checkpoint: Checkpoint, entry: LayerEntry, device: torch.device | str = "cpu"
) -> LinearWeights:
    """Load one linear in canonical form; see `LinearWeights` for shapes and dtypes.

    On the CPU the codes are pages of the file, not a copy.

    Args:
        checkpoint: The checkpoint the entry came from.
        entry: One of ``checkpoint.layers()``.
        device: Where the weights go.

    Raises:
        CheckpointError: A scale is NaN, infinite or not positive (code ``scale_value``), or a
            scale that must be a power of two is not (code ``scale_not_pow2``).
    """
    return load_layer(checkpoint, entry, device).weights


def load_layer(
    checkpoint: Checkpoint, entry: LayerEntry, device: torch.device | str = "cpu"
) -> LoadedLinear:
    """Load one linear with the spelling of its scales, as a byte-exact write-back needs it.

    Raises:
        CheckpointError: As `load_linear`.
    """
    raw: dict[Role, torch.Tensor] = {}
    scales: dict[Role, torch.Tensor] = {}
    stored: dict[Role, StoredTensor] = {}
    for role, binding in entry.tensors.items():
        raw[role] = load_tensor(checkpoint, binding.info)
        if role in _SCALE_ROLES:
            leaf = binding.name.rpartition(".")[2]
            stored[role] = StoredTensor(leaf, raw[role], binding.rule)
            scales[role] = _checked(entry, role, stored[role])
    operand = entry.config.scheme.weight
    n, k = entry.config.n, entry.config.k
    _check_codes(entry, raw["weight"])
    weights = LinearWeights(
        data=raw["weight"].reshape(data_shape(operand, n, k)),
        scales=scales["scales"].reshape(grid_shape(operand, n, k)),
        bias=raw.get("bias"),
        # what is one number may be stored as () or [1]
        global_scale=_one(scales.get("global_scale")),
        input_scale=_one(scales.get("input_scale")),
        input_global_scale=_one(scales.get("input_global_scale")),
    )
    return LoadedLinear(entry, weights.to(home_of(device)), StoredScales(entry.source, stored))


def _check_codes(entry: LayerEntry, codes: torch.Tensor) -> None:
    """Refuse fp8 weights that hold NaN or Inf: no quantizer writes them, a torn file does."""
    last = _LAST_FINITE.get(codes.dtype)
    if last is None:
        return
    bits = codes.view(torch.uint8)
    bad = (bits & 0x7F) > last
    if bool(bad.any()):
        where = bad.nonzero()
        raise CheckpointError(
            f"{entry.tensors['weight'].name} holds values that are no numbers",
            facts=[
                f"first at {[int(i) for i in where[0]]}, {len(where)} in all",
                f"code 0x{int(bits[tuple(where[0])]):02X} is NaN or Inf",
            ],
            hint="download or export the file again",
            code="weight_value",
        )


def load_tensor(checkpoint: Checkpoint, tensor: str | TensorInfo) -> torch.Tensor:
    """Give a tensor of the checkpoint as it is stored, memory-mapped where alignment allows.

    Args:
        checkpoint: The checkpoint.
        tensor: Its name, or its header.

    Raises:
        CheckpointError: No such tensor, its dtype is not one torch has, or its file changed.
    """
    if isinstance(tensor, str):
        found = checkpoint.tensors.get(tensor)
        if found is None:
            raise CheckpointError(
                f"no tensor {tensor} in {checkpoint.root}",
                hint="checkpoint.tensors names all of them",
                code="missing_tensor",
            )
        tensor = found
    dtype = TORCH_DTYPES.get(tensor.dtype)
    if dtype is None:
        raise CheckpointError(
            f"torch has no dtype for {tensor}", hint="it can be copied, not read", code="dtype"
        )
    if tensor.nbytes == 0:
        return torch.empty(tensor.shape, dtype=dtype)
    data = _map(checkpoint, tensor.file, tensor.end)[tensor.begin : tensor.end]
    if tensor.begin % dtype.itemsize:
        data = data.clone()  # a view in another dtype needs its alignment
    return data.view(dtype).reshape(tensor.shape)


def _map(checkpoint: Checkpoint, file: str, end: int) -> torch.Tensor:
    maps: dict[str, torch.Tensor] = checkpoint._memo.setdefault("maps", {})  # noqa: SLF001 - one room
    found = maps.get(file)
    if found is None:
        try:
            with open(file, "rb") as opened:  # noqa: PTH123 - a path string of a header
                # Private pages: a caller who writes into a tensor does not write into the file.
                # Without a reservation, or a file larger than the memory could not be mapped.
                pages = mmap.mmap(
                    opened.fileno(), 0, flags=mmap.MAP_PRIVATE | _NO_RESERVE, prot=_READ_WRITE
                )
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"cannot map {file}", facts=[str(error)], code="unreadable"
            ) from error
        found = maps[file] = torch.frombuffer(pages, dtype=torch.uint8)
    if found.numel() < end:
        raise CheckpointError(
            f"{file} changed while it was open",
            facts={"needs": f"{end:,} bytes", "found": f"{found.numel():,} bytes"},
            hint="open the checkpoint again",
            code="truncated",
        )
    return found


def _one(scale: torch.Tensor | None) -> torch.Tensor | None:
    return None if scale is None else scale.reshape(1)


def _checked(entry: LayerEntry, role: Role, stored: StoredTensor) -> torch.Tensor:
    binding, operand = entry.tensors[role], entry.config.scheme.weight
    scales = stored.canonical()
    if binding.rule == "reciprocal":
        # judged as stored: an infinite divisor would pass for the multiplier 0, and 0 for Inf
        _check_values(binding, stored.tensor, zero_allowed=False)
    _check_values(binding, scales, zero_allowed=role == "scales" and operand.is_nvfp4)
    if role == "scales" and operand.scale_rounding == "pow2" and binding.rule != "e8m0":
        _check_pow2(binding, scales)
    return scales


def _check_values(binding: TensorBinding, scales: torch.Tensor, *, zero_allowed: bool) -> None:
    values = scales.to(torch.float32)
    good = torch.isfinite(values) & ((values >= 0) if zero_allowed else (values > 0))
    if not bool(good.all()):
        needs = "finite and " + ("not negative" if zero_allowed else "positive")
        raise _bad_value(binding, values, good, needs, "scale_value")


def _check_pow2(binding: TensorBinding, scales: torch.Tensor) -> None:
    mantissa = scales.contiguous().view(torch.int32) & 0x7FFFFF
    good = (mantissa == 0) | (scales == 2.0**-127)
    if not bool(good.all()):
        raise _bad_value(binding, scales, good, "a power of two (ue8m0)", "scale_not_pow2")


def _bad_value(
    binding: TensorBinding, values: torch.Tensor, good: torch.Tensor, needs: str, code: str
) -> CheckpointError:
    first = [int(i) for i in (~good).nonzero()[0]]
    bad = int((~good).sum())
    return CheckpointError(
        f"{binding.name} holds a value that is no scale",
        facts={
            "needs": needs,
            "found": f"{float(values[tuple(first)]):g} at {first}, {bad} of {values.numel()}",
            "stored": f"{binding.info.dtype} {list(binding.info.shape)}",
        },
        hint="the file is damaged, or was written by a broken exporter; export it again",
        code=code,
    )
