"""The launcher's way to a kept kernel, over a driver that is none; a GPU's part is in .probe runs.

``Fn`` stands for a ``@triton.jit`` function: it counts the launches that take Triton's own path.
"""

import threading
import time
from types import SimpleNamespace

import pytest
import torch
import triton
from triton import knobs
from triton.runtime.driver import driver

from quantmux.capability.arch import Arch
from quantmux_triton import launcher as module
from quantmux_triton.interpreter import interpreting
from quantmux_triton.launcher import Launcher, compiled_count

pytestmark = pytest.mark.skipif(interpreting(), reason="this process interprets")

CPU = torch.empty(0).get_device()
"""What the driver below calls its device, so that CPU tensors are on it."""


class Kernel:
    function = 77
    packed_metadata = (4, 1)

    def __init__(self):
        self.launches = []

    def run(self, x, y, z, stream, function, metadata, launch_metadata, enter, leave, *values):
        assert (function, metadata) == (77, (4, 1))
        assert (launch_metadata, enter, leave) == (None, None, None)
        self.launches.append(((x, y, z), stream, values))


class Fn:
    __name__ = "fn"

    def __init__(self, names, do_not_specialize=(), loose=()):
        self.arg_names = list(names)
        self.do_not_specialize = do_not_specialize
        self.do_not_specialize_on_alignment = loose
        self.pre_run_hooks = []
        self.kernel = Kernel()
        self.slow = []

    def __getitem__(self, grid):
        def launch(*args, **keywords):
            self.slow.append((grid, args, keywords))
            return self.kernel

        return launch

    def warmup(self, *args, grid, **keywords):
        self.warmed = (args, grid, keywords)
        return self.kernel


class Device:
    def __init__(self):
        self.current = CPU

    def get_current_device(self):
        return self.current

    def get_current_stream(self, device):
        return 1000 + device


@pytest.fixture
def device(monkeypatch):
    active = Device()
    monkeypatch.setattr(driver, "_active", active)
    return active


@pytest.fixture
def fn(device):  # noqa: ARG001
    return Fn(["x", "m", "eps", "BLOCK"], do_not_specialize=["m"])


def tensor(dtype=torch.bfloat16, offset=0):
    return torch.zeros(64, dtype=dtype)[offset:]


def made(fn, **constexprs):
    return Launcher(fn, {"BLOCK": 128, **constexprs}, {"num_warps": 4})


def test_the_second_launch_goes_to_the_kept_kernel(fn):
    launch, x = made(fn), tensor()
    launch((3,), x, 5, 1e-10)
    assert fn.slow == [((3,), (x, 5, 1e-10), {"BLOCK": 128, "num_warps": 4})]
    launch((4, 2), x, 6, 1e-9)
    assert len(fn.slow) == 1
    values = (x.data_ptr(), 6, 1e-9, 128)
    assert fn.kernel.launches == [((4, 2, 1), 1000 + CPU, values)]


def test_after_a_warmup_with_dtypes_the_first_launch_does_too(fn):
    launch = made(fn)
    launch.warm(torch.bfloat16, 1, 1.0)
    launch((1,), tensor(), 7, 0.5)
    assert (fn.slow, len(fn.kernel.launches)) == ([], 1)


@pytest.mark.usefixtures("device")
def test_constants_between_runtime_arguments_are_put_in_their_places():
    fn = Fn(["x", "BIAS", "m", "bias"])
    launch = Launcher(fn, {"BIAS": False, "bias": None}, {})
    x = tensor()
    launch.warm(x, 3)
    launch((1,), x, 4)
    assert fn.kernel.launches[0][2] == (x.data_ptr(), False, 4, None)


@pytest.mark.parametrize(
    "args",
    [
        (tensor(torch.float16), 5, 1.0),
        (tensor(offset=1), 5, 1.0),
        (tensor(), 1 << 31, 1.0),
        (tensor(), -(1 << 31) - 1, 1.0),
        (tensor(), 5, 1),
        (tensor(), 5.0, 1.0),
        (tensor(), -1, 1.0),
        (None, 5, 1.0),
        (3, 5, 1.0),
        (tensor(), 5),
        (tensor(), 5, 1.0, 2),
    ],
    ids=[
        "dtype",
        "alignment",
        "wide",
        "low",
        "float",
        "whole",
        "negative",
        "none",
        "int",
        "few",
        "many",
    ],
)
def test_arguments_of_other_kinds_take_tritons_own_path(fn, args):
    launch = made(fn)
    launch.warm(torch.bfloat16, 1, 1.0)
    launch((1,), *args)
    assert [given for _, given, _ in fn.slow] == [args]
    assert fn.kernel.launches == []


def test_a_tensor_elsewhere_takes_tritons_own_path(fn, device):
    launch = made(fn)
    device.current = 3
    launch.warm(torch.bfloat16, 1, 1.0)
    launch((1,), tensor(), 5, 1.0)
    assert (len(fn.slow), fn.kernel.launches) == (1, [])


@pytest.mark.usefixtures("device")
def test_a_misaligned_pointer_is_no_other_kind_where_triton_does_not_look_at_it():
    fn = Fn(["x", "y"], loose=["x"])
    launch = Launcher(fn, {}, {})
    launch.warm(torch.bfloat16, torch.bfloat16)
    launch((1,), tensor(offset=1), tensor())
    assert len(fn.kernel.launches) == 1
    launch((1,), tensor(), tensor(offset=1))
    assert (len(fn.kernel.launches), len(fn.slow)) == (1, 1)


def test_every_device_has_its_own_kernel(fn, device):
    launch, x = made(fn), tensor()
    launch((1,), x, 5, 1.0)
    device.current = 3
    launch((1,), x, 5, 1.0)
    assert len(fn.slow) == 2
    assert fn.kernel.launches == []
    device.current = CPU
    launch((1,), x, 5, 1.0)
    assert (len(fn.slow), len(fn.kernel.launches)) == (2, 1)


def test_who_watches_launches_sees_them(fn, monkeypatch):
    launch, x = made(fn), tensor()
    launch((1,), x, 5, 1.0)
    hook = knobs.runtime.launch_enter_hook
    hook.add(print)
    try:
        launch((1,), x, 5, 1.0)
    finally:
        hook.remove(print)
    assert (len(fn.slow), fn.kernel.launches) == (2, [])
    launch((1,), x, 5, 1.0)
    assert (len(fn.slow), len(fn.kernel.launches)) == (2, 1)
    monkeypatch.setattr(knobs.runtime, "launch_exit_hook", print)
    launch((1,), x, 5, 1.0)
    assert len(fn.slow) == 3
    # the hook of the older kind is there while the kernel is kept, and leaves again
    assert len(fn.kernel.launches) == 1


def test_debugging_takes_tritons_own_path(fn, monkeypatch):
    launch, x = made(fn), tensor()
    launch((1,), x, 5, 1.0)
    monkeypatch.setattr(knobs.runtime, "debug", True)
    launch((1,), x, 5, 1.0)
    assert (len(fn.slow), fn.kernel.launches) == (2, [])


@pytest.mark.usefixtures("device")
def test_descriptors_of_another_block_are_another_kind():
    def descriptor(block, dtype=torch.bfloat16):
        return SimpleNamespace(base=tensor(dtype), block_shape=block)

    fn = Fn(["d"])
    launch = Launcher(fn, {}, {})
    launch((1,), descriptor([64, 128]))
    same = descriptor([64, 128])
    launch((1,), same)
    assert fn.kernel.launches[0][2] == (same,)
    launch((1,), descriptor([64, 64]))
    launch((1,), descriptor([64, 64], torch.int8))
    assert len(fn.slow) == 3


def test_threads_may_launch_at_once(fn):
    launch, x = made(fn), tensor()
    threads = [
        threading.Thread(target=lambda i=i: [launch((i,), x, i, 1.0) for _ in range(50)])
        for i in range(1, 9)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    launches = [(grid[0], values[1]) for grid, _, values in fn.kernel.launches]
    launches += [(grid[0], args[1]) for grid, args, _ in fn.slow]
    assert sorted(launches) == sorted((i, i) for i in range(1, 9) for _ in range(50))


def test_two_threads_do_not_compile_the_same_variant_at_once(fn):
    inside, most = [], []

    def slowly(*_args, **_keywords):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.05)
        inside.pop()
        return fn.kernel

    fn.warmup = slowly
    # two launchers, as two layers may have, of one variant
    threads = [
        threading.Thread(target=made(fn).warm, args=(torch.bfloat16, 1, 1.0)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1]


class CudaLauncher:
    """Triton's launcher object, as far as `_entry` looks at it."""

    global_scratch_size = profile_scratch_size = 0
    launch_cooperative_grid, launch_pdl = False, True
    gsan_enabled = False
    arg_annotations, kernel_signature = ["O"], b"sig"
    launch = print  # a function written in C


@pytest.mark.parametrize(
    ("version", "head", "is_packed"),
    [
        ("3.6.0", (77, False, True, None, None, (4, 1), None, None, None), False),
        (
            "3.9.0",
            (77, False, True, (4, 1), None, None, None, None, None, ["O"], b"sig"),
            True,
        ),
    ],
)
def test_in_releases_that_were_studied_the_c_function_is_called(
    monkeypatch, version, head, is_packed
):
    monkeypatch.setattr(triton, "__version__", version)
    entry = module._entry(CudaLauncher(), Kernel())
    assert (entry.call, entry.head, entry.is_packed) == (print, head, is_packed)


@pytest.mark.parametrize(
    ("version", "change"),
    [
        ("3.7.1", {}),
        ("3.6.0", {"global_scratch_size": 128}),
        ("3.6.0", {"profile_scratch_size": 8}),
        ("3.6.0", {"launch": lambda *_: None}),  # around the C function: it encodes descriptors
        ("3.9.0", {"gsan_enabled": True}),
    ],
)
def test_else_tritons_launcher_object_is(monkeypatch, version, change):
    monkeypatch.setattr(triton, "__version__", version)
    run = type("CudaLauncher", (CudaLauncher,), change)()
    entry = module._entry(run, Kernel())
    assert (entry.call, entry.head) == (run, (77, (4, 1), None, None, None))


def test_values_are_packed_where_the_c_function_wants_them_so(fn, monkeypatch):
    found = []
    entry = module._Entry(lambda *args: found.append(args), (1, 2), is_packed=True)
    monkeypatch.setattr(module, "_entry", lambda _run, _kernel: entry)
    launch, x = made(fn), tensor()
    launch.warm(torch.bfloat16, 1, 1.0)
    launch((9,), x, 5, 1.0)
    assert found == [(9, 1, 1, 1000 + CPU, 1, 2, (x.data_ptr(), 5, 1.0, 128))]


@triton.jit(do_not_specialize=("m",), do_not_specialize_on_alignment=("x",))
def _copy(x, y, m, BLOCK: triton.language.constexpr):
    at = triton.language.arange(0, BLOCK)
    triton.language.store(y + at, triton.language.load(x + at, mask=at < m), mask=at < m)


def test_machine_code_assumes_alignment_only_where_a_launch_would():
    launch = Launcher(_copy, {"BLOCK": 256}, {"num_warps": 1, "enable_fp_fusion": False})
    code = launch.compile_for(Arch.parse("90"), torch.int8, torch.int8, 5)
    assert code.target.startswith("sm_90")
    assert code.code[:4] == b"\x7fELF"
    assert module._unspecialized(_copy) == {"m", "x"}


def test_variants_are_counted_per_function():
    fn = SimpleNamespace(device_caches={0: ({"a": 1, "b": 2}, {}), 1: ({"a": 1}, {})})
    assert compiled_count(fn) == 3
    assert compiled_count(fn, _copy) == 3


def test_the_interpreter_counts_what_a_gpu_would_compile(fn, monkeypatch):
    monkeypatch.setattr(module, "interpreting", lambda: True)
    one, two = made(fn), made(fn, BLOCK=256)
    one.warm(torch.bfloat16, 1, 1.0)
    one((1,), tensor(), 1000, 2.0)
    assert compiled_count(fn) == 1
    two((1,), tensor(), 1000, 2.0)
    one((1,), tensor(), 1 << 40, 2.0)
    assert compiled_count(fn) == 3
    assert fn.slow[0][2] == {"BLOCK": 128}
