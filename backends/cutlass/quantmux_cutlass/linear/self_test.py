"""What a library must compute before anything is computed with it: `Unit.self_test`.

Code for the wrong architecture may launch, return success and leave memory as it was; a library may
have been compiled by a compiler with a fault. So each is asked once per process and device for
small products with random numbers, one tile and a tail in every direction, through the same calls
that layers make, into memory full of NaN. The op's own tolerance judges them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import torch

from quantmux.config import LinearConfig, QuantizeConfig
from quantmux.config.layouts import round_up
from quantmux.errors import LaunchError
from quantmux.ops.linear.reference import linear_exact
from quantmux.ops.linear.spec import make_inputs
from quantmux.ops.linear.tolerance import compare, linear_magnitude
from quantmux.ops.quantize.reference import quantize
from quantmux.ops.quantized import DTYPES
from quantmux.ops.spec import Case
from quantmux_cutlass.linear.bound import call_of
from quantmux_cutlass.linear.choice import Choice
from quantmux_cutlass.linear.consumer import CutlassLinear
from quantmux_cutlass.linear.layer import Layer
from quantmux_cutlass.linear.padding import padded_k16

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quantmux.capability.device import DeviceProfile
    from quantmux.config.formats import Dtype
    from quantmux.ops.quantized import LinearWeights, QuantizedTensor
    from quantmux_cutlass.build.library import Library
    from quantmux_cutlass.linear.consumer import Prepare

_N: Final = 200
_MS: Final = (3, 136)
_OUTS: Final[tuple[Dtype, ...]] = ("bf16", "fp16")
_NOT_OFFERED: Final = ("qm_4", "qm_5")
"""A library may be for few rows, or for one format of y; it says so and is not wrong."""


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
    for config, q, weights in _inputs(scheme, k):
        exact, size = linear_exact(q, weights, config), linear_magnitude(q, weights, config)
        here = _moved(q, device)
        for options in library.unit.test_options:
            what = f"{config.out_dtype}, options {list(options)}, M={q.m} N={_N} K={k}"
            try:
                y, untouched = _product(library, device, config, weights, here, options, prepare)
            except LaunchError as error:
                if error.code in _NOT_OFFERED:
                    continue
                return f"{what}: {error.headline}"
            if not untouched:
                return f"{what}: it wrote beyond the last row"
            found = compare(y.cpu(), exact, config=config, magnitude=size)
            if not found.ok:
                bad = found.first_bad
                at = f" at {list(bad.coordinate)}: {bad.value:.6g}, " if bad else ", "
                want = f"needs {bad.reference:.6g} within {bad.allowed:.2g}" if bad else ""
                return f"{what}: relative error {found.rel_error:.3g}{at}{want}"
            offered += 1
    return None if offered else "it refused everything it was asked"


def _inputs(scheme: str, k: int) -> Iterator[tuple[LinearConfig, QuantizedTensor, LinearWeights]]:
    """Give the problems: few and more rows, both formats of y, the last with a bias."""
    for m in _MS:
        plain = LinearConfig(in_features=k, out_features=_N, scheme=scheme)
        x, weights = make_inputs(Case(plain.replace(bias=True), m), "cpu", seed=m).args
        operand = plain.scheme.activation
        if operand is None:
            raise ValueError(f"scheme {scheme} has no activation operand")
        layout = _LAYOUTS.get(scheme, "row_major")
        producer = QuantizeConfig(operand=operand, n=k, layout=layout)
        q = quantize(x, producer, global_scale=weights.input_global_scale)
        for out in _OUTS:
            with_bias = m == _MS[-1]
            config = plain.replace(out_dtype=out, bias=with_bias)
            yield config, q, weights if with_bias else replace(weights, bias=None)


_LAYOUTS: Final = {"fp8_block128": "col_major_aligned4", "nvfp4": "swizzled_128x4"}


def _product(
    library: Library,
    device: DeviceProfile,
    config: LinearConfig,
    weights: LinearWeights,
    q: QuantizedTensor,
    options: tuple[int, ...],
    prepare: Prepare,
) -> tuple[torch.Tensor, bool]:
    """Give y, computed into NaN, and whether the row behind it is as it was."""
    choice = Choice(library.unit, options)
    kernel = CutlassLinear("self-test", lambda *_: choice, row_multiple=8, prepare=prepare)
    prepared = prepare(weights.to(device.torch_name), config, device)
    layer = Layer(kernel, config, prepared, device, {library.unit: library})
    dtype, row = DTYPES[config.out_dtype], round_up(_N, 8)
    buffer = torch.full((q.m + 1, row), torch.nan, dtype=dtype, device=device.torch_name)
    y = call_of(layer)(q, out=buffer[: q.m, :_N])
    return y, bool(buffer[q.m].isnan().all())


def _moved(q: QuantizedTensor, device: DeviceProfile) -> QuantizedTensor:
    """Give x on the device, its scales as far apart as they are."""
    flat = torch.empty(0, dtype=q.scales.dtype).set_(q.scales.untyped_storage())
    scales = flat.to(device.torch_name).as_strided(q.scales.shape, q.scales.stride())
    of_all = q.global_scale
    return replace(
        q,
        data=q.data.to(device.torch_name),
        scales=scales,
        global_scale=None if of_all is None else of_all.to(device.torch_name),
    )


def _gpu(index: int) -> DeviceProfile:
    from quantmux.capability.detect import device_here

    return device_here(torch.device("cuda", index))
