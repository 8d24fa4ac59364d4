"""The quick check of a quantized x: it agrees with the full one, and seldom asks it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from quantmux.capability.profiles import CPU
from quantmux.config import LinearConfig, QuantizeConfig
from quantmux.config.layouts import Layout
from quantmux.errors import InputError
from quantmux.ops.quantize.reference import quantize
from quantmux.runtime.inputs import check_device, check_quantized
from quantmux.runtime.quick_check import QuickCheck

if TYPE_CHECKING:
    from quantmux.ops.quantized import QuantizedTensor

K = 256
SCHEMES = {
    "fp8_tensor": "scalar",
    "fp8_channel_token": "row_major",
    "fp8_block128": "col_major_aligned4",
    "nvfp4": "swizzled_128x4",
}
HERE = CPU.replace(is_present=True)


class Watched:
    """A quick check, and how often it asked the full one."""

    def __init__(self, scheme: str) -> None:
        self.config = LinearConfig(in_features=K, out_features=64, scheme=scheme)
        operand = self.config.scheme.activation
        assert operand is not None
        self.reads = QuantizeConfig(operand=operand, n=K, layout=SCHEMES[scheme])
        self.asked = 0
        self.quick = QuickCheck(K, HERE, self.full)

    def full(self, q: QuantizedTensor) -> None:
        self.asked += 1
        check_device(q, HERE)
        check_quantized(q, self.config, self.reads, "here")

    def x(self, m: int) -> QuantizedTensor:
        given = {"global_scale": torch.full((1,), 0.01)} if self.reads.operand.is_nvfp4 else {}
        return quantize(torch.randn(m, K, dtype=torch.bfloat16), self.reads, **given)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_full_check_is_asked_once_for_an_operand_and_a_layout(scheme: str) -> None:
    watched = Watched(scheme)
    for m in (5, 1, 5, 130, 5):
        watched.quick(watched.x(m))
    assert watched.asked == 1
    again = watched.x(3)
    other = replace(again, layout=Layout(**again.layout.model_dump()))  # equal, another object
    watched.quick(other)
    watched.quick(other)
    assert watched.asked == 2


def spoiled(q: QuantizedTensor) -> dict[str, QuantizedTensor]:
    """Give what is wrong with each part of x."""
    m = q.logical_shape[0]
    none: Any = None
    text: Any = "text"
    wide = torch.zeros((m, 2 * q.data.shape[1]), dtype=torch.uint8)[:, ::2]
    found = {
        "no data": replace(q, data=none),
        "data of another dtype": replace(q, data=q.data.to(torch.float32)),
        "a row less": replace(q, data=q.data[:-1]),
        "data reshaped": replace(q, data=q.data.reshape(2 * m, -1)),
        "data apart": replace(q, data=wide.view(q.data.dtype)),
        "data elsewhere": replace(q, data=q.data.to("meta")),
        "no scales": replace(q, scales=none),
        "scales of another dtype": replace(q, scales=q.scales.to(torch.float64)),
        "scales elsewhere": replace(q, scales=q.scales.to("meta")),
        "scales are text": replace(q, scales=text),
        "another width": replace(q, logical_shape=(m, K // 2)),
        "a head group": replace(q, logical_shape=(m, 1, K)),
        "more rows than data": replace(q, logical_shape=(m + 1, K)),
    }
    if q.scales.numel() > 1:
        found["a scale less"] = replace(q, scales=q.scales[:-1])
    if q.global_scale is None:
        found["a global scale too much"] = replace(q, global_scale=torch.ones(1))
    else:
        found["no global scale"] = replace(q, global_scale=none)
        found["two global scales"] = replace(q, global_scale=torch.ones(2))
        found["a global scale in fp64"] = replace(q, global_scale=torch.ones(1).double())
        found["a global scale elsewhere"] = replace(q, global_scale=torch.ones(1, device="meta"))
    if SCHEMES["fp8_block128"] == q.layout.scales:
        found["pad rows cut off"] = replace(
            q, scales=q.scales.clone(memory_format=torch.contiguous_format)
        )
        store = torch.zeros(8 * (q.scales.shape[1] - 1) + m)  # to the last scale, no pad row
        found["storage too short"] = replace(
            q, scales=store.as_strided(q.scales.shape, (1, 8)) if m == 5 else q.scales
        )
    return found


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("m", [4, 5, 6])
def test_what_the_full_check_refuses_is_refused_however_often_right_ones_came(
    scheme: str, m: int
) -> None:
    watched = Watched(scheme)
    right = watched.x(m)
    for what, bad in spoiled(right).items():
        watched.quick(right)
        try:
            watched.full(bad)
        except (InputError, AttributeError) as error:
            kind, words = type(error), str(error)
        else:
            watched.quick(bad)
            continue
        with pytest.raises(kind) as caught:
            watched.quick(bad)
        assert str(caught.value) == words, what


def test_the_spoiled_parts_are_refused_at_all() -> None:
    watched = Watched("fp8_block128")
    for what, bad in spoiled(watched.x(5)).items():
        if what == "a head group":
            continue  # of a consumer that reads those
        with pytest.raises((InputError, AttributeError)):
            watched.full(bad)
