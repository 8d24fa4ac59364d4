import pytest

from quantmux.capability.profiles import PROFILES, profile
from quantmux.errors import ConfigError

ARCHES = {
    "a100": 80,
    "l40s": 89,
    "h100": 90,
    "h200": 90,
    "b200": 100,
    "b300": 103,
    "rtx_pro_6000": 120,
    "dgx_spark": 121,
}


@pytest.mark.parametrize(("name", "sm"), ARCHES.items())
def test_absent_gpus_have_profiles_with_rates(name, sm):
    found = profile(name)
    assert found.arch.sm == sm
    assert not found.is_present
    assert found.copy_gb_s > 0
    assert found.bf16_tflops > 0
    assert found.sm_count > 0
    assert found.smem_kib > 0
    assert (found.fp4_tflops > 0) is (sm >= 100)
    assert (found.fp8_tflops > 0) is (sm >= 89)


def test_the_set_is_the_one_promised_and_keyed_by_name():
    assert set(PROFILES) == {"cpu", *ARCHES}
    assert all(p.name == name for name, p in PROFILES.items())


def test_names_may_be_spelled_with_dashes_and_capitals():
    assert profile("RTX-PRO-6000") is PROFILES["rtx_pro_6000"]


def test_an_unknown_device_suggests_the_nearest():
    with pytest.raises(ConfigError, match='did you mean "h200"') as caught:
        profile("h20")
    assert caught.value.code == "device"


def test_torch_names():
    assert PROFILES["cpu"].torch_name == "cpu"
    assert PROFILES["h200"].torch_name == "cuda"
    assert PROFILES["h200"].replace(index=1).torch_name == "cuda:1"
