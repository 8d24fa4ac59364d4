"""What a broken kernel gives is refused: every scheme, normal and all-positive data, large K.

Positive data is where the short accumulator of FP8 loses most, so where the tolerance is widest.
"""

import dataclasses

import pytest
import torch

from quantmux.config import LinearConfig
from quantmux.config.schemes import SCHEMES
from quantmux.ops.linear.reference import linear_exact
from quantmux.ops.linear.tolerance import Magnitude, compare, linear_magnitude
from quantmux.ops.linear.weights import quantize_weight
from quantmux.ops.numerics import round_once
from quantmux.ops.quantized import DTYPES

NAMES = [f"{name}{mode}" for name in SCHEMES for mode in ("+fast", "+exact")]
FP8 = [n for n in NAMES if n.startswith("fp8") and "w8a16" not in n]
FP8_FAST = [n for n in FP8 if n.endswith("+fast")]


@dataclasses.dataclass
class Setting:
    """One layer with its right output, and the comparison that judges others."""

    config: LinearConfig
    x: torch.Tensor
    weights: object
    exact: torch.Tensor
    magnitude: Magnitude

    @property
    def y(self):
        return round_once(self.exact, DTYPES[self.config.out_dtype])

    def passes(self, y):
        y = y if y.dtype != torch.float64 else round_once(y, DTYPES[self.config.out_dtype])
        return compare(y, self.exact, config=self.config, magnitude=self.magnitude).ok


def setting(name, kind, k, *, m=5, n=40, out_dtype="bf16", bias=False):
    generator = torch.Generator().manual_seed(k)
    fill = torch.rand if kind == "positive" else torch.randn
    x, weight = fill(m, k, generator=generator), fill(n, k, generator=generator)
    config = LinearConfig(
        in_features=k, out_features=n, scheme=name, in_dtype="fp32", out_dtype=out_dtype, bias=bias
    )
    activation = config.scheme.activation
    given = {}
    if activation is not None and not activation.dynamic:
        given["input_scale"] = x.abs().amax().reshape(1) / activation.max_value
    if activation is not None and activation.global_scale == "static":
        given["input_global_scale"] = x.abs().amax().reshape(1) / 2688
    if bias:
        given["bias"] = torch.randn(n, generator=generator) * 0.1 * k**0.5
    weights = quantize_weight(weight, config.scheme, **given)
    exact = linear_exact(x, weights, config)
    return Setting(config, x, weights, exact, linear_magnitude(x, weights, config))


def typical(exact):
    """Give the place of an element of typical size: one near 0 may be 0."""
    distance = (exact.abs() - exact.abs().median()).abs()
    return divmod(int(distance.argmin()), exact.shape[1])


@pytest.mark.parametrize("k", [512, 4096, 32768])
@pytest.mark.parametrize("kind", ["normal", "positive"])
@pytest.mark.parametrize("name", NAMES)
def test_zeros_where_a_result_belongs_are_refused(name, kind, k):
    here = setting(name, kind, k, m=3, n=16) if k > 4096 else setting(name, kind, k)
    row, column = typical(here.exact)
    assert here.passes(here.y)
    assert not here.passes(torch.zeros_like(here.y))
    for hole in (
        (row, column),
        (row,),
        (slice(None), column),
        (slice(0, 2), slice(0, 8)),
        (slice(None), slice(0, here.config.n // 4)),
    ):
        y = here.y
        y[hole] = 0
        assert not here.passes(y), hole


@pytest.mark.parametrize("k", [512, 4096, 32768])
@pytest.mark.parametrize("kind", ["normal", "positive"])
@pytest.mark.parametrize("name", FP8)
def test_results_that_are_half_as_large_again_are_refused(name, kind, k):
    here = setting(name, kind, k, m=3, n=16)
    assert not here.passes(here.exact * 1.5)


@pytest.mark.parametrize("out_dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("kind", ["normal", "positive"])
@pytest.mark.parametrize("k", [512, 4096, 32768])
@pytest.mark.parametrize("name", [n for n in NAMES if n.endswith("+exact")])
def test_one_percent_too_much_or_too_little_is_refused_of_exact_sums(name, k, kind, out_dtype):
    here = setting(name, kind, k, m=3, n=16, out_dtype=out_dtype)
    assert not here.passes(here.exact * 1.01)
    assert not here.passes(here.exact * 0.99)


@pytest.mark.parametrize("out_dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("k", [512, 4096])
@pytest.mark.parametrize("name", FP8_FAST)
def test_one_percent_too_much_is_refused_of_positive_fast_sums(name, k, out_dtype):
    """Truncation loses; nothing on the way can make a sum of positive products larger."""
    here = setting(name, "positive", k, out_dtype=out_dtype)
    assert not here.passes(here.exact * 1.01)


@pytest.mark.parametrize("k", [512, 4096])
@pytest.mark.parametrize("kind", ["normal", "positive"])
@pytest.mark.parametrize("name", NAMES)
def test_results_in_another_place_are_refused(name, kind, k):
    here = setting(name, kind, k, m=9, n=128)
    y = here.y
    assert not here.passes(torch.roll(y, 1, 0))
    assert not here.passes(torch.roll(y, 1, 1))
    y[:, :16] = y[:, 16:32]
    assert not here.passes(y)


@pytest.mark.parametrize("k", [512, 4096])
@pytest.mark.parametrize("kind", ["normal", "positive"])
@pytest.mark.parametrize("name", NAMES)
def test_a_small_bias_that_is_dropped_is_refused(name, kind, k):
    here = setting(name, kind, k, m=9, n=128, bias=True)
    assert here.passes(here.y)
    assert not here.passes(here.exact - here.weights.bias.double())


def without_products(here, rows, columns):
    """Give the output without the weights of some rows and columns."""
    data = here.weights.data.clone()
    if here.config.scheme.weight.is_nvfp4:
        columns = slice(columns.start // 2, columns.stop // 2)
    data.view(torch.uint8)[rows, columns] = 0
    return linear_exact(here.x, dataclasses.replace(here.weights, data=data), here.config)


DETECTABLE = [
    *[(n, "normal", k) for n in NAMES for k in (512, 4096, 32768)],
    *[(n, "positive", k) for n in NAMES if n not in FP8_FAST for k in (512, 4096, 32768)],
]


@pytest.mark.parametrize(("name", "kind", "k"), DETECTABLE)
def test_a_dropped_block_of_128_along_k_is_refused(name, kind, k):
    """Not so of positive data and `fast`: the accumulator loses more than the block holds."""
    here = setting(name, kind, k, m=9, n=128) if k < 32768 else setting(name, kind, k, m=9, n=32)
    assert not here.passes(without_products(here, slice(0, 128), slice(k - 128, k)))


@pytest.mark.parametrize("out_dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("kind", ["normal", "positive"])
@pytest.mark.parametrize("name", [n for n in NAMES if n not in FP8_FAST])
def test_the_last_16_products_that_are_dropped_are_refused(name, kind, out_dtype):
    here = setting(name, kind, 4096, m=9, n=128, out_dtype=out_dtype)
    assert not here.passes(without_products(here, slice(None), slice(4080, 4096)))


@pytest.mark.parametrize("k", [512, 4096])
@pytest.mark.parametrize("kind", ["normal", "positive"])
@pytest.mark.parametrize("name", [n for n in NAMES if "fp8_tensor" not in n])
def test_one_scale_of_the_weight_twice_as_large_is_refused(name, kind, k):
    here = setting(name, kind, k, m=9, n=128, out_dtype="fp32")
    scales = here.weights.scales.float()
    if scales.numel() == 1:
        pytest.fail("the scheme has one scale for all")
    scales[scales.shape[0] // 2, scales.shape[1] // 2] *= 2 if scales.max() < 224 else 0.5
    other = dataclasses.replace(here.weights, scales=scales.to(here.weights.scales.dtype))
    assert not here.passes(linear_exact(here.x, other, here.config))
