import subprocess
import sys
from types import SimpleNamespace

import pytest

from quantmux.capability import detect
from quantmux.capability.detect import HERE_CPU, profile_of_gpu, resolve_device
from quantmux.capability.nvml import Gpu, nvidia_gpus
from quantmux.capability.profiles import PROFILES
from quantmux.errors import ConfigError

H200 = Gpu(
    "NVIDIA H200", "GPU-1", 9, 0, memory_gib=139.8, cores=16896, copy_gb_s=4814, driver="580.95"
)


@pytest.fixture
def machine(monkeypatch):
    """Pretend that the driver reports these GPUs."""

    def having(*gpus, visible=None):
        monkeypatch.setattr(detect, "nvidia_gpus", lambda: gpus)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        detect.forget_devices()

    yield having
    detect.forget_devices()


def test_a_known_model_carries_its_profile_and_the_drivers_facts():
    found = profile_of_gpu(H200, 3)
    assert found == PROFILES["h200"].replace(
        is_present=True, index=3, memory_gib=139.8, driver="580.95"
    )
    assert found.torch_name == "cuda:3"


@pytest.mark.parametrize(
    ("title", "capability", "name"),
    [
        ("NVIDIA H100 80GB HBM3", (9, 0), "h100"),
        ("NVIDIA H200 NVL", (9, 0), "h200"),
        ("NVIDIA A100-SXM4-80GB", (8, 0), "a100"),
        ("NVIDIA B200", (10, 0), "b200"),
        ("NVIDIA B300 SXM6 AC", (10, 3), "b300"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", (12, 0), "rtx_pro_6000"),
        ("NVIDIA GB10", (12, 1), "dgx_spark"),
        ("NVIDIA L40S", (8, 9), "l40s"),
        ("NVIDIA L40", (8, 9), "sm89"),
        ("NVIDIA GH200 480GB", (9, 0), "sm90"),
        ("NVIDIA GB200", (10, 0), "sm100"),
        ("NVIDIA H20", (9, 0), "sm90"),
        ("NVIDIA GeForce RTX 3090", (8, 6), "sm86"),
        ("NVIDIA Next", (14, 0), "sm140"),
        ("", (9, 0), "sm90"),
    ],
)
def test_models_are_told_apart_by_whole_words(title, capability, name):
    found = profile_of_gpu(Gpu(title, "GPU-x", *capability), 0)
    assert found.name == name
    assert found.arch.sm == capability[0] * 10 + capability[1]
    assert found.is_present


def test_an_unknown_model_has_what_the_driver_and_the_architecture_say():
    gpu = Gpu("NVIDIA GH200 480GB", "GPU-x", 9, 0, memory_gib=95.0, cores=16896, copy_gb_s=4023)
    found = profile_of_gpu(gpu, 0)
    assert (found.sm_count, found.memory_gib, found.copy_gb_s) == (132, 95.0, 4023)
    assert found.smem_kib == 227


def test_the_cores_of_ampere_are_counted_right():
    assert profile_of_gpu(Gpu("NVIDIA A30", "GPU-x", 8, 0, cores=3584), 0).sm_count == 56


def test_a_slice_is_not_taken_for_the_whole_gpu():
    part = Gpu("NVIDIA H200 MIG 3g.71gb", "MIG-1", 9, 0, memory_gib=69.5, sm_count=66)
    found = profile_of_gpu(part, 0)
    assert (found.name, found.sm_count, found.memory_gib) == ("h200_mig", 66, 69.5)
    assert found.copy_gb_s == pytest.approx(PROFILES["h200"].copy_gb_s / 2)


def test_none_means_the_gpu_here_else_the_cpu(machine):
    machine()
    assert resolve_device() is HERE_CPU
    machine(H200)
    assert resolve_device().name == "h200"
    assert resolve_device().index == 0


def test_cuda_indices_follow_what_cuda_shows(machine):
    machine(H200, Gpu("NVIDIA L40S", "GPU-2", 8, 9), visible="1,0")
    assert [resolve_device(d).name for d in ("cuda", "cuda:0", "cuda:1")] == [
        "l40s",
        "l40s",
        "h200",
    ]
    with pytest.raises(ConfigError) as caught:
        resolve_device("cuda:2")
    assert caught.value.code == "device"
    assert 'CUDA_VISIBLE_DEVICES = "1,0"' in str(caught.value)
    assert 'use "cuda:1"' in str(caught.value)


def test_cuda_without_a_gpu_says_so(machine):
    machine()
    with pytest.raises(ConfigError, match="no NVIDIA GPU is here") as caught:
        resolve_device("cuda")
    assert caught.value.code == "device"


def test_hidden_gpus_are_not_here(machine):
    machine(H200, visible="")
    assert detect.detect_devices() == ()
    with pytest.raises(ConfigError, match='CUDA_VISIBLE_DEVICES = ""'):
        resolve_device("cuda:0")


def test_torch_devices_are_taken_by_their_shape(machine):
    machine(H200, H200)
    assert resolve_device(SimpleNamespace(type="cuda", index=1)).index == 1
    assert resolve_device(SimpleNamespace(type="cuda", index=None)).index == 0
    assert resolve_device(SimpleNamespace(type="cpu", index=0)) is HERE_CPU
    with pytest.raises(ConfigError, match='no device "xpu:0"'):
        resolve_device(SimpleNamespace(type="xpu", index=0))


def test_a_name_asks_about_a_device_whether_or_not_it_is_here(machine):
    machine(H200)
    assert resolve_device("H200") is PROFILES["h200"]
    assert resolve_device("RTX-PRO-6000") is PROFILES["rtx_pro_6000"]
    assert resolve_device("cpu").is_present
    assert resolve_device(PROFILES["b200"]) is PROFILES["b200"]


def test_profiles_of_plugins_are_found(machine):
    machine()
    mine = PROFILES["h100"].replace(name="acme_1")
    assert resolve_device("acme-1", profiles={**PROFILES, "acme_1": mine}) is mine
    with pytest.raises(ConfigError, match="no device"):
        resolve_device("acme-1")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("sm90", "sm90"),
        ("10.3", "sm103"),
        ("sm_100", "sm100"),
        ("89", "sm89"),
        ("gfx942", "gfx942"),
    ],
)
def test_an_architecture_is_a_device_too(text, name):
    found = resolve_device(text)
    assert (found.name, found.is_present) == (name, False)
    assert (found.smem_kib > 0) is (found.is_cuda)


@pytest.mark.parametrize("wrong", ["sm42", "b20", "cuda:", "cuda:x", "", "cuda:-1", 3, 2.5, []])
def test_refuses_a_device_that_does_not_exist(wrong):
    with pytest.raises(ConfigError) as caught:
        resolve_device(wrong)
    assert caught.value.code == "device"


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(ConfigError, match='did you mean "b200"'):
        resolve_device("b20")


class FakeNvml(SimpleNamespace):
    class NVMLError(Exception):
        pass

    NVML_DEVICE_MIG_ENABLE = 1
    NVML_CLOCK_MEM = 2


def test_no_binding_or_no_driver_means_no_gpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvidia_gpus() == ()

    def no_driver():
        raise FakeNvml.NVMLError("libnvidia-ml.so.1 not found")

    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(nvmlInit=no_driver))
    assert nvidia_gpus() == ()


def test_reads_what_the_driver_answers_and_goes_on_without_the_rest(monkeypatch):
    def fails(*_):
        raise FakeNvml.NVMLError("not supported")

    fake = FakeNvml(
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlSystemGetDriverVersion=lambda: b"580.1",
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda i: i,
        nvmlDeviceGetCudaComputeCapability=lambda i: (9, 0) if i else fails(),
        nvmlDeviceGetName=lambda _: "NVIDIA H200",
        nvmlDeviceGetUUID=lambda i: f"GPU-{i}",
        nvmlDeviceGetMemoryInfo=lambda _: SimpleNamespace(total=150 * 2**30),
        nvmlDeviceGetMigMode=fails,
        nvmlDeviceGetMemoryBusWidth=lambda _: 6144,
        nvmlDeviceGetMaxClockInfo=lambda *_: 3201,
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    (found,) = nvidia_gpus()
    expected = Gpu("NVIDIA H200", "GPU-1", 9, 0, 150.0, 0, 4917.0, "580.1")
    assert found == expected


def test_reads_the_slices_of_a_partitioned_gpu(monkeypatch):
    fake = FakeNvml(
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda _: "gpu",
        nvmlDeviceGetCudaComputeCapability=lambda _: (9, 0),
        nvmlDeviceGetName=lambda h: "NVIDIA H200" + (" MIG 1g.18gb" if h != "gpu" else ""),
        nvmlDeviceGetUUID=lambda h: "GPU-1" if h == "gpu" else f"MIG-{h}",
        nvmlDeviceGetMigMode=lambda _: (1, 1),
        nvmlDeviceGetMaxMigDeviceCount=lambda _: 2,
        nvmlDeviceGetMigDeviceHandleByIndex=lambda _, i: i,
        nvmlDeviceGetAttributes=lambda _: SimpleNamespace(multiprocessorCount=16),
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    (found,) = nvidia_gpus()
    assert [(s.uuid, s.sm_count, s.name) for s in found.slices] == [
        ("MIG-0", 16, "NVIDIA H200 MIG 1g.18gb"),
        ("MIG-1", 16, "NVIDIA H200 MIG 1g.18gb"),
    ]


def test_looking_for_devices_never_imports_torch():
    code = (
        "import sys; from quantmux.capability import detect_devices, resolve_device;"
        "detect_devices(); resolve_device('b200'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
