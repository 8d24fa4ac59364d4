"""Devices that are not here are refused by name, before torch is asked for them."""

import pytest
import torch

from quantmux.capability.detect import detect_devices
from quantmux.errors import ConfigError
from quantmux.layers.linear import Linear

pytestmark = pytest.mark.skipif(bool(detect_devices()), reason="this machine has a GPU")


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "h200", torch.device("cuda")])
def test_a_layer_on_a_device_that_is_not_here_is_refused(device):
    with pytest.raises(ConfigError) as caught:
        Linear.from_float(torch.randn(16, 32), "fp8_channel_token", device=device)
    assert caught.value.code == "device"


def test_a_device_that_does_not_exist_anywhere_is_refused():
    with pytest.raises(ConfigError, match='no device "nonsense"'):
        Linear.from_float(torch.randn(16, 32), "fp8_channel_token", device="nonsense")


def test_tensors_are_moved_to_a_device_that_is_here_only():
    layer = Linear.from_float(torch.randn(16, 32), "fp8_channel_token", device="cpu")
    with pytest.raises(ConfigError):
        Linear.from_tensors(layer.config, layer.weights, device="cuda")
