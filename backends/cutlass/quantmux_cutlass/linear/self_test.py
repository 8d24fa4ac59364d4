"""What a library must compute before anything is computed with it: `Unit.self_test`.

Code for the wrong architecture may launch, return success and leave memory as it was; a library may
have been compiled by a compiler with a fault. So each is asked once per process and device for
small products with random numbers, one tile and a tail in every direction, through the same calls
that layers make, into memory full of NaN.

Every process pays for it, and many may start at once: numbers and reference are made on the device,
element by element. A product of matrices would wake cuBLAS there, or all cores of the host (15
processes at once waited 40 s for each other's threads: H200 host with 16 cores, 2026-11-21).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.config import Layout, LinearConfig
from quantmux.config.layouts import round_up
from quantmux.errors import LaunchError
from quantmux.ops.linear.reference import activation_values, alpha_of, weight_parts
from quantmux.ops.quantized import DTYPES, LinearWeights, empty_quantized
from quantmux_cutlass.linear.bound import call_of
from quantmux_cutlass.linear.choice import Choice
from quantmux_cutlass.linear.consumer import CutlassLinear
from quantmux_cutlass.linear.layer import Layer
from quantmux_cutlass.linear.padding import padded_k16

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quantmux.capability.device import DeviceProfile
    from quantmux.config.formats import Dtype
    from quantmux.ops.quantized import QuantizedTensor
    from quantmux_cutlass.build.library import Library
    from quantmux_cutlass.linear.consumer import Prepare

_N: Final = 200
_MS: Final = (3, 136)
_ROUNDING: Final[dict[Dtype, float]] = {"bf16": 2.0**-8, "fp16": 2.0**-11}
"""Formats of y, and what they and a scale applied in fp32 may change of a number."""

_ACCUMULATION: Final = 2.0**-10
"""Of Σ|a||b|: what the tensor core's short accumulator loses over K = 288 and more, and less than
one product in a sum of so many."""

_CHUNK: Final = 8
"""Rows of x whose products are held at a time: 4 MB."""

_NOT_OFFERED: Final = ("qm_4", "qm_5")
"""A library may be for few rows, or for one format of y; it says so and is not wrong."""

_LAYOUTS: Final = {"fp8_block128": "col_major_aligned4", "nvfp4": "swizzled_128x4"}


@dataclass(frozen=True, eq=False)
class _Product:
    """A product, what it should be in fp64 [M, N], and what errors scale with."""

    config: LinearConfig
    q: QuantizedTensor
    weights: LinearWeights
    exact: torch.Tensor
    size: torch.Tensor


def fp8_row(library: Library, device_index: int) -> str | None:
    """Prove a library of FP8 by FP8 with one scale a row; None if it is right, else what is not."""
    return disagreement(library, _gpu(device_index), "fp8_channel_token", 272)


def fp8_block(library: Library, device_index: int) -> str | None:
    """Prove a library of FP8 by blocks, 1x128 by 128x128; None if it is right, else what is not."""
    return disagreement(library, _gpu(device_index), "fp8_block128", 272)


def nvfp4(library: Library, device_index: int) -> str | None:
    """Prove a library of NVFP4 by NVFP4; None if it is right, else what is not."""
    from quantmux_cutlass.linear.nvfp4_weights import swizzled_weights

    return disagreement(library, _gpu(device_index), "nvfp4", 288, swizzled_weights)


def disagreement(
    library: Library,
    device: DeviceProfile,
    scheme: str,
    k: int,
    prepare: Prepare = padded_k16,
) -> str | None:
    """Compare what a library computes with the reference.

    Args:
        library: The library.
        device: Where it computes.
        scheme: Name of the scheme.
        k: Width of x.
        prepare: Gives weights in the kernel's form.

    Returns:
        None if all it offers is right and it offers something, else a sentence.
    """
    offered = 0
    for wanted in _products(scheme, k, device):
        for options in library.unit.test_options:
            config, m = wanted.config, wanted.q.m
            what = f"{config.out_dtype}, options {list(options)}, M={m} N={_N} K={k}"
            try:
                y = _computed(library, device, wanted, options, prepare)
            except LaunchError as error:
                if error.code in _NOT_OFFERED:
                    continue
                return f"{what}: {error.headline}"
            problem = _problem(y, wanted)
            if problem is not None:
                return f"{what}: {problem}"
            offered += 1
    return None if offered else "it refused everything it was asked"


def _products(scheme: str, k: int, device: DeviceProfile) -> Iterator[_Product]:
    """Give what is asked: few and more rows, the latter with a bias, in both formats of y."""
    where = torch.device(device.torch_name)
    for m in _MS:
        plain = LinearConfig(in_features=k, out_features=_N, scheme=scheme, bias=m == _MS[-1])
        draw = _Numbers(where, seed=m)
        q, weights = _activations(plain, m, draw), _weights(plain, draw)
        exact, size = _reference(plain, q, weights)
        for out in _ROUNDING:
            yield _Product(plain.replace(out_dtype=out), q, weights, exact, size)


class _Numbers:
    """Random numbers on a device, from a generator of their own."""

    def __init__(self, where: torch.device, seed: int) -> None:
        self.where = where
        self._generator = torch.Generator(device=where).manual_seed(seed)
        self._given: dict[str, Any] = {"device": where, "generator": self._generator}

    def codes(self, rows: int, columns: int) -> torch.Tensor:
        """Give fp8_e4m3 numbers around 0."""
        drawn = torch.randn((rows, columns), dtype=torch.float32, **self._given)
        return drawn.to(torch.float8_e4m3fn)

    def pairs(self, rows: int, columns: int) -> torch.Tensor:
        """Give bytes of two e2m1 numbers each."""
        return torch.randint(0, 256, (rows, columns), dtype=torch.uint8, **self._given)

    def scales(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Give numbers from 1/4 to 2."""
        drawn = torch.rand(shape, dtype=torch.float32, **self._given)
        return (drawn * 1.75 + 0.25).to(dtype)


def _activations(config: LinearConfig, m: int, draw: _Numbers) -> QuantizedTensor:
    operand = config.scheme.activation
    if operand is None:
        raise ValueError(f"scheme {config.scheme.name} has no activation operand")
    layout = Layout(scales=_LAYOUTS.get(config.scheme.name, "row_major"), padded_n=config.k)
    q = empty_quantized(operand, layout, m, config.k, draw.where)
    storage = torch.empty(0, dtype=q.scales.dtype, device=draw.where)
    storage.set_(q.scales.untyped_storage()).view(torch.uint8).zero_()  # pad rows are 0
    q.scales.copy_(draw.scales(tuple(q.scales.shape), q.scales.dtype))
    if q.global_scale is None:
        q.data.view(torch.uint8).copy_(draw.codes(m, config.k).view(torch.uint8))
        return q
    q.data.copy_(draw.pairs(m, config.k // 2))
    q.global_scale.fill_(0.75)
    return q


def _weights(config: LinearConfig, draw: _Numbers) -> LinearWeights:
    n, k, operand = config.n, config.k, config.scheme.weight
    # no larger than what it is added to, so that it hides nothing
    bias = draw.scales((n,)) if config.bias else None
    if operand.is_nvfp4:
        return LinearWeights(
            data=draw.pairs(n, k // 2),
            scales=draw.scales((n, k // 16), torch.float8_e4m3fn),
            global_scale=torch.full((1,), 1.5, dtype=torch.float32, device=draw.where),
            bias=bias,
        )
    scales = draw.scales(operand.block.grid(n, k))
    return LinearWeights(data=draw.codes(n, k), scales=scales, bias=bias)


def _reference(
    config: LinearConfig, q: QuantizedTensor, weights: LinearWeights
) -> tuple[torch.Tensor, torch.Tensor]:
    """Give y in fp64 and Σ|a||b|, summed element by element."""
    a, g_a = activation_values(q, weights, config)
    w = torch.cat(list(weight_parts(weights, config)))
    exact, size = [], []
    for start in range(0, a.shape[0], _CHUNK):
        products = a[start : start + _CHUNK].unsqueeze(1) * w
        exact.append(products.sum(-1))
        size.append(products.abs_().sum(-1))
    alpha = alpha_of(g_a, weights)
    factor = 1.0 if alpha is None else alpha
    y, total = torch.cat(exact) * factor, torch.cat(size) * factor
    return (y if weights.bias is None else y + weights.bias.to(torch.float64)), total


def _computed(
    library: Library,
    device: DeviceProfile,
    wanted: _Product,
    options: tuple[int, ...],
    prepare: Prepare,
) -> torch.Tensor:
    """Give y and a row behind it, computed into NaN."""
    choice, config, q = Choice(library.unit, options), wanted.config, wanted.q
    kernel = CutlassLinear("self-test", lambda *_: choice, row_multiple=8, prepare=prepare)
    prepared = prepare(wanted.weights, config, device)
    layer = Layer(kernel, config, prepared, device, {library.unit: library})
    dtype, row = DTYPES[config.out_dtype], round_up(_N, 8)
    y = torch.full((q.m + 1, row), torch.nan, dtype=dtype, device=device.torch_name)
    call_of(layer)(q, out=y[: q.m, :_N])
    return y


def _problem(y: torch.Tensor, wanted: _Product) -> str | None:
    """Say what is wrong with y and the row behind it; None if nothing is."""
    m, exact = wanted.q.m, wanted.exact
    allowed = _ROUNDING[wanted.config.out_dtype] * exact.abs() + _ACCUMULATION * wanted.size
    found = y[:m, :_N].to(torch.float64)
    right = (found - exact).abs() <= allowed
    if not bool(y[m].isnan().all()):
        return "it wrote beyond the last row"
    if bool(right.all()):
        return None
    row, column = (int(i) for i in (~right).nonzero()[0])
    return (
        f"{int((~right).sum())} of {right.numel()} are wrong, the first at [{row}, {column}]: "
        f"needs {float(exact[row, column]):.6g} within {float(allowed[row, column]):.2g}, "
        f"found {float(found[row, column]):.6g}"
    )


def _gpu(index: int) -> DeviceProfile:
    from quantmux.capability.detect import device_here

    return device_here(torch.device("cuda", index))
