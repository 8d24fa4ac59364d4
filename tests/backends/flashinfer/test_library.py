"""Finding and checking functions in the real, installed FlashInfer."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from quantmux.errors import BuildError, NotBuiltError
from quantmux_flashinfer.entries import Entry, ModuleUse
from quantmux_flashinfer.jit import demand
from quantmux_flashinfer.library import functions, guards, loading

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from quantmux.capability.device import DeviceProfile

BMM = Entry(
    function="flashinfer:bmm_fp8",
    parameters=("A", "B", "A_scale", "B_scale", "dtype", "out"),
    backend="cublas",
    is_gated=True,
)
BLOCK = Entry(
    function="flashinfer.gemm:fp8_blockscale_gemm_sm90",
    parameters=("input", "weight", "input_scale", "weight_scale", "out"),
)


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin without functions of other tests, and ask nobody to compile."""
    monkeypatch.setattr(functions, "_ready", {})
    monkeypatch.setattr(guards, "_rooms", {})
    monkeypatch.setattr(demand, "ensure", lambda _names, _device: None)
    for name in ("_cuda_getCurrentRawStream", "_cuda_isCurrentStreamCapturing"):
        # a torch without CUDA has none of them; nothing is called here
        monkeypatch.setattr(torch._C, name, lambda *_: 0, raising=False)


def refused(entry: Entry, device: DeviceProfile) -> BuildError:
    with pytest.raises(BuildError) as caught:
        functions.function(entry, device)
    assert not isinstance(caught.value, NotBuiltError)
    return caught.value


def test_a_function_is_given_once_per_device(
    installed: ModuleType, device_of: Callable[[int], DeviceProfile]
) -> None:
    del installed
    h200 = device_of(90)
    found = functions.function(BMM, h200)
    assert callable(found)
    assert functions.function(BMM, h200) is found
    assert functions.function(BMM, h200.model_copy(update={"index": 1})) is not found
    assert functions.function(BMM, device_of(100)) is not found


@pytest.mark.parametrize(
    ("backend", "sm", "serves"),
    [
        ("cublas", 80, False),
        ("cublas", 89, True),
        ("cublas", 90, True),
        ("cublas", 121, True),
        ("cutlass", 90, False),
        ("cutlass", 100, True),
        ("cute-dsl", 100, False),
        ("cute-dsl", 107, True),
        ("no such backend", 90, False),
    ],
)
def test_the_librarys_own_decorator_is_asked(
    installed: ModuleType,
    device_of: Callable[[int], DeviceProfile],
    backend: str,
    sm: int,
    *,
    serves: bool,
) -> None:
    del installed
    entry = replace(BMM, backend=backend)
    if serves:
        assert callable(functions.function(entry, device_of(sm)))
        return
    error = refused(entry, device_of(sm))
    assert error.code == "unsupported"
    assert f"is_backend_supported('{backend}', {sm})" in str(error)
    assert loading.version() in str(error)


def test_what_the_library_marks_as_experimental_is_not_taken(
    installed: ModuleType, device_of: Callable[[int], DeviceProfile]
) -> None:
    assert installed.mm_fp4.is_backend_supported("cake", 100)
    cake = Entry(
        "flashinfer:mm_fp4", ("a", "b", "a_descale", "b_descale"), backend="cake", is_gated=True
    )
    error = refused(cake, device_of(100))
    assert error.code == "unsupported"
    assert "experimental" in str(error)


def test_an_entry_that_says_gated_needs_a_gate(
    installed: ModuleType, device_of: Callable[[int], DeviceProfile]
) -> None:
    """As with mm_fp8 of 0.6.x, which has no decorator: the absence of a no is no yes."""
    del installed
    error = refused(replace(BLOCK, is_gated=True), device_of(90))
    assert error.code == "unsupported"
    assert "is_compute_capability_supported" in str(error)
    assert callable(functions.function(BLOCK, device_of(90)))


def test_a_parameter_that_the_release_lacks_is_named(
    installed: ModuleType, device_of: Callable[[int], DeviceProfile]
) -> None:
    del installed
    entry = replace(BMM, parameters=(*BMM.parameters, "out_layout"))
    error = refused(entry, device_of(90))
    assert error.code == "unsupported"
    assert "out_layout" in str(error)


def test_a_required_parameter_that_is_not_passed_is_named(
    installed: ModuleType, device_of: Callable[[int], DeviceProfile]
) -> None:
    del installed
    entry = replace(BMM, parameters=("A", "B", "A_scale"))
    error = refused(entry, device_of(90))
    assert error.code == "unsupported"
    assert "B_scale, dtype" in str(error)


def test_skip_check_is_a_parameter_of_every_decorated_function_and_of_no_other(
    installed: ModuleType, device_of: Callable[[int], DeviceProfile]
) -> None:
    del installed
    assert callable(
        functions.function(replace(BMM, parameters=(*BMM.parameters, "skip_check")), device_of(90))
    )
    plain = replace(BLOCK, parameters=(*BLOCK.parameters, "skip_check"))
    assert "skip_check" in str(refused(plain, device_of(90)))


def test_a_missing_function_module_and_attribute_are_unsupported(
    installed: ModuleType, device_of: Callable[[int], DeviceProfile]
) -> None:
    del installed
    for path in ("flashinfer:mm_of_tomorrow", "flashinfer.rooms_of_tomorrow:mm"):
        error = refused(Entry(path, parameters=()), device_of(90))
        assert error.code == "unsupported"
        assert "tomorrow" in str(error)
    with pytest.raises(BuildError) as caught:
        functions.attribute("flashinfer:SfLayout.layout_4x4")
    assert caught.value.code == "unsupported"


def test_what_is_no_function_is_unsupported(
    installed: ModuleType, device_of: Callable[[int], DeviceProfile]
) -> None:
    del installed
    error = refused(Entry("flashinfer:__version__", parameters=()), device_of(90))
    assert error.code == "unsupported"


def test_attributes_are_the_librarys_own(installed: ModuleType) -> None:
    assert functions.attribute("flashinfer:SfLayout.layout_128x4") is (
        installed.SfLayout.layout_128x4
    )


def test_a_missing_package_is_unavailable_with_the_line_that_installs_it(
    installed: ModuleType, device_of: Callable[[int], DeviceProfile]
) -> None:
    del installed
    entry = replace(BMM, packages=(("nvidia-of-tomorrow", "tomorrow.kernels"),))
    error = refused(entry, device_of(90))
    assert error.code == "unavailable"
    assert error.hint == "pip install nvidia-of-tomorrow"


def test_modules_of_the_device_are_asked_for_after_the_checks(
    installed: ModuleType,
    device_of: Callable[[int], DeviceProfile],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    del installed
    asked: list[Any] = []
    monkeypatch.setattr(demand, "ensure", lambda names, device: asked.append((names, device.name)))
    entry = replace(BMM, modules=(ModuleUse("gemm", ("90a",)), ModuleUse("fp8_sm100", ("100f",))))
    refused(replace(entry, backend="cutlass"), device_of(90))
    assert asked == []
    functions.function(entry, device_of(90))
    functions.function(entry, device_of(103))
    functions.function(entry, device_of(120))
    assert asked == [(("gemm",), "sm90"), (("fp8_sm100",), "sm103")]


def test_a_module_that_is_being_compiled_is_asked_for_again(
    installed: ModuleType,
    device_of: Callable[[int], DeviceProfile],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    del installed
    states = [NotBuiltError("gemm is being compiled", ready=threading.Event()), None]

    def ensure(_names: Any, _device: Any) -> None:
        state = states.pop(0)
        if state is not None:
            raise state

    monkeypatch.setattr(demand, "ensure", ensure)
    entry = replace(BMM, modules=(ModuleUse("gemm"),))
    with pytest.raises(NotBuiltError, match="being compiled"):
        functions.function(entry, device_of(90))
    assert callable(functions.function(entry, device_of(90)))


def test_no_function_touches_the_network(
    installed: ModuleType,
    device_of: Callable[[int], DeviceProfile],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    del installed

    def blocked(*_args: Any, **_kwargs: Any) -> Any:
        raise AssertionError("a socket was opened")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, blocked)
    functions.function(BMM, device_of(90))
    functions.function(BLOCK, device_of(90))
    functions.attribute("flashinfer:SfLayout")


CUDNN = replace(BMM, backend="cudnn")


@pytest.fixture
def handles(installed: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A GPU that is said to be here, and a library that prints when it makes cuDNN's handle."""
    del installed
    made: list[Any] = []

    def make(device: Any, stream: Any) -> None:
        print("cudnn_handle created")  # noqa: T201 - as the library does
        made.append((device, stream))

    monkeypatch.setattr("flashinfer.gemm.gemm_base._get_cudnn_handle", make)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda index: ("stream", index))
    return made


def test_cudnns_handle_is_made_at_bind_and_without_a_word(
    handles: list[Any],
    device_of: Callable[[int], DeviceProfile],
    capsys: pytest.CaptureFixture[str],
) -> None:
    functions.function(BMM, device_of(90))
    assert handles == []
    functions.function(CUDNN, device_of(90))
    functions.function(CUDNN, device_of(90))
    assert handles == [(torch.device("cuda", 0), ("stream", 0))]
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("handles")
def test_a_cudnn_that_does_not_load_is_unavailable_at_bind(
    device_of: Callable[[int], DeviceProfile], monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(_device: Any, _stream: Any) -> None:
        raise RuntimeError("cuDNN is not available. Please install cuDNN to use FP8 GEMM functions")

    monkeypatch.setattr("flashinfer.gemm.gemm_base._get_cudnn_handle", make)
    assert refused(CUDNN, device_of(90)).code == "unavailable"


def test_guards_are_where_the_library_shares_memory(
    installed: ModuleType, device_of: Callable[[int], DeviceProfile]
) -> None:
    h200 = device_of(90)
    bmm = functions.function(BMM, h200)
    mm = Entry("flashinfer:mm_fp8", ("a", "b", "alpha"), backend="cublas", is_gated=True)
    assert bmm.__qualname__.startswith("by_stream")
    assert functions.function(mm, h200).__qualname__.startswith("by_stream")
    assert len(guards._rooms) == 1  # one table of buffers, one lock for the device
    assert functions.function(BLOCK, h200).__qualname__.startswith("one_by_one")
    norm = Entry("flashinfer:rmsnorm_quant", ("out", "input", "weight", "scale", "eps"))
    assert functions.function(norm, h200) is installed.rmsnorm_quant


def test_a_release_with_another_table_of_buffers_is_refused(
    installed: ModuleType,
    device_of: Callable[[int], DeviceProfile],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    del installed
    monkeypatch.delattr("flashinfer.utils._cache_buf")
    error = refused(BMM, device_of(90))
    assert error.code == "unsupported"
    assert "_cache_buf" in str(error)


def test_every_buffer_that_our_functions_share_in_the_library_is_known(
    installed: ModuleType,
) -> None:
    """Read from its source: a name that a release adds would not be kept apart."""
    import ast
    from pathlib import Path

    folder = Path(str(installed.__file__)).parent
    files = [
        folder / "gemm" / name
        for name in ("gemm_base.py", "gemm_bf16_fp4_cudnn.py", "gemm_bf16_fp4_cute_dsl.py")
    ]
    files.append(folder / "trtllm_low_latency_gemm.py")
    found = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            if is_call and node.func.id == "_get_cache_buf":
                assert isinstance(node.args[0], ast.Constant)
                found.add(node.args[0].value)
    others = {name for name in found if name.startswith(("mm_bf16_w", "bmm_bf16", "group_gemm"))}
    others |= {"bmm_mxfp8_workspace", "mm_mxfp8_workspace", "segment_gemm_workspace"}
    others |= {"tgv_gemm_sm100_blockscaled_workspace"}
    unknown = found - set(guards.NAMES) - others
    assert not unknown, f"what are these for? {sorted(unknown)}"
    assert set(guards.NAMES) <= found


def run(program: str) -> str:
    """Run a program in a process of its own, and give what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_nothing_is_imported_before_a_function_is_asked_for(installed: ModuleType) -> None:
    del installed
    out = run("""
import sys
from quantmux_flashinfer import catalog, plugin
from quantmux_flashinfer.library import failures, functions, guards, loading
plugin.quantmux_kernels(); catalog.offers()
print("flashinfer" in sys.modules, "tvm_ffi" in sys.modules, loading.import_seconds())
loading.flashinfer()
print("flashinfer" in sys.modules, loading.import_seconds() > 0)
""")
    assert out.split() == ["False", "False", "None", "True", "True"]


def test_threads_that_bind_at_once_import_it_once(installed: ModuleType) -> None:
    del installed
    out = run("""
import threading
from quantmux_flashinfer.library import loading
found = []
threads = [threading.Thread(target=lambda: found.append(loading.flashinfer())) for _ in range(6)]
[t.start() for t in threads]; [t.join() for t in threads]
print(len(found), len(set(map(id, found))), len(loading._seconds))
""")
    assert out.split() == ["6", "1", "1"]


def test_a_missing_module_of_its_own_is_named_with_the_line_that_installs_it(
    installed: ModuleType,
) -> None:
    del installed
    out = run("""
import sys
from quantmux.errors import BuildError
from quantmux_flashinfer.library import loading

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == "tvm_ffi":
            raise ModuleNotFoundError("No module named 'tvm_ffi'", name="tvm_ffi")

sys.meta_path.insert(0, Missing())
for _ in range(2):
    try:
        loading.flashinfer()
    except BuildError as error:
        print(error.code, "tvm_ffi" in error.headline, error.hint)
del sys.meta_path[0]
print(loading.flashinfer().__name__)
""")
    line = "unavailable True pip install apache-tvm-ffi"
    assert out.splitlines() == [line, line, "flashinfer"]


def test_a_library_that_does_not_load_is_unavailable(installed: ModuleType) -> None:
    del installed
    out = run("""
import sys
from quantmux.errors import BuildError
from quantmux_flashinfer.library import loading

class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "tvm_ffi":
            raise OSError("libtvm_ffi.so: cannot open shared object file")

sys.meta_path.insert(0, Broken())
try:
    loading.flashinfer()
except BuildError as error:
    print(error.code, "cannot open shared object" in str(error))
""")
    assert out.split() == ["unavailable", "True"]


def test_without_the_package_the_extra_is_named() -> None:
    assert loading.pip_line("flashinfer.gemm") == "pip install 'quantmux[flashinfer]'"
    assert loading.pip_line("pynvml") == "pip install nvidia-ml-py"
    assert loading.pip_line("requests") == "pip install requests"
