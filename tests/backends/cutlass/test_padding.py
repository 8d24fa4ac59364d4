"""Weights: padded once, given back bit for bit, and shared where nothing needs padding."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from quantmux.capability.arch import Arch
from quantmux.capability.device import DeviceProfile
from quantmux.config import LinearConfig
from quantmux.ops.linear.spec import make_weights
from quantmux.ops.spec import Case
from quantmux_cutlass.linear.padding import PADDED_K16, padded_k16

if TYPE_CHECKING:
    from quantmux.ops.quantized import LinearWeights

HOST = DeviceProfile(name="cpu", title="the host", arch=Arch.parse("cpu"), is_present=True)
SCHEMES = ("fp8_tensor", "fp8_channel_token", "fp8_block128")


def config_of(n: int, k: int, scheme: str = "fp8_channel_token") -> LinearConfig:
    return LinearConfig(in_features=k, out_features=n, scheme=scheme, bias=True)


def weights_of(config: LinearConfig) -> LinearWeights:
    return make_weights(Case(config, 1), "cpu", seed=3)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_where_k_is_a_multiple_of_16_every_tensor_is_the_checkpoints_own(scheme: str) -> None:
    weights = weights_of(config := config_of(24, 144, scheme))
    prepared = padded_k16(weights, config, HOST)
    assert prepared.weight_layout == "canonical"
    assert all(prepared.tensors[name] is tensor for name, tensor in weights.named().items())


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("k", [1, 15, 17, 130, 1368 // 8])
def test_other_rows_are_padded_to_16_with_zeros_and_nothing_else_is(scheme: str, k: int) -> None:
    weights = weights_of(config := config_of(13, k, scheme))
    prepared = padded_k16(weights, config, HOST)
    data = prepared.tensors["data"]
    width = -(-k // 16) * 16
    assert prepared.weight_layout == PADDED_K16
    assert data.shape == (13, width)
    assert data.stride() == (width, 1)
    assert torch.equal(bits(data[:, :k]), bits(weights.data))
    assert not bits(data[:, k:]).any()
    assert prepared.tensors["scales"] is weights.scales
    assert prepared.tensors["bias"] is weights.bias
    assert (prepared.n, prepared.k) == (13, k)


@pytest.mark.parametrize("k", [144, 137])
def test_restore_gives_the_checkpoints_bits_though_the_source_is_gone(k: int) -> None:
    weights = weights_of(config := config_of(13, k))
    want = {name: bits(tensor).clone() for name, tensor in weights.named().items()}
    prepared = padded_k16(weights, config, HOST)
    del weights
    assert prepared.restore is not None
    restored = prepared.restore().named()
    assert restored.keys() == want.keys()
    assert all(torch.equal(bits(restored[name]), want[name]) for name in want)
    assert restored["data"].is_contiguous()


@pytest.mark.parametrize("k", [144, 137])
def test_preparing_twice_gives_the_same_bits_and_changes_no_source(k: int) -> None:
    weights = weights_of(config := config_of(13, k))
    before = bits(weights.data).clone()
    first, second = (padded_k16(weights, config, HOST) for _ in range(2))
    assert torch.equal(bits(first.tensors["data"]), bits(second.tensors["data"]))
    assert torch.equal(bits(weights.data), before)
    again = padded_k16(first.restore(), config, HOST) if first.restore else None
    assert again is not None
    assert torch.equal(bits(again.tensors["data"]), bits(first.tensors["data"]))


def test_data_that_begin_beside_a_multiple_of_16_are_copied_to_one() -> None:
    weights = weights_of(config := config_of(13, 144))
    store = torch.zeros(13 * 144 + 16, dtype=torch.uint8)
    shift = 1 - store.data_ptr() % 16
    odd = store[shift % 16 : shift % 16 + 13 * 144].view(13, 144)
    odd.copy_(bits(weights.data))
    assert odd.data_ptr() % 16 == 1
    shifted = replace(weights, data=odd.view(torch.float8_e4m3fn))
    prepared = padded_k16(shifted, config, HOST)
    assert prepared.tensors["data"].data_ptr() % 16 == 0
    assert torch.equal(bits(prepared.tensors["data"]), bits(weights.data))
    assert prepared.weight_layout == "canonical"
