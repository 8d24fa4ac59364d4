"""How DeepGEMM is found, and what is said when it is not."""

import os
import sys
from pathlib import Path

import pytest
from quantmux_deepgemm import libraries, library, plugin

import quantmux as qm


@pytest.fixture
def fresh(monkeypatch):
    """No module of an earlier import, and no folder of the user's written to."""
    monkeypatch.setattr(library, "load_libraries", lambda: None)
    monkeypatch.delitem(sys.modules, "deep_gemm", raising=False)
    monkeypatch.setenv(library.CACHE_VARIABLE, "")
    monkeypatch.delenv(library.CACHE_VARIABLE)
    library.fp8_gemm_nt.cache_clear()
    yield
    library.fp8_gemm_nt.cache_clear()


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    "problem", ["raise OSError('libnvrtc.so.13: cannot open')", "assert None is not None"]
)
def test_a_library_that_does_not_import_is_a_build_error(monkeypatch, tmp_path, problem):
    (tmp_path / "deep_gemm.py").write_text(problem)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(qm.BuildError, match="DeepGEMM cannot be imported") as caught:
        library.fp8_gemm_nt()
    assert caught.value.code == "deepgemm_import"
    assert type(caught.value.__cause__).__name__ in caught.value.facts[0]


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("named", [None, "/somewhere/of/mine"])
def test_compiled_kernels_go_where_the_user_says_or_into_the_cache(monkeypatch, tmp_path, named):
    (tmp_path / "deep_gemm.py").write_text("fp8_gemm_nt = print")
    monkeypatch.syspath_prepend(tmp_path)
    if named:
        monkeypatch.setenv(library.CACHE_VARIABLE, named)
    assert library.fp8_gemm_nt() is print
    assert os.environ[library.CACHE_VARIABLE] == (named or str(library.cache_folder()))
    assert not str(library.cache_folder()).startswith(str(Path.cwd()))


def test_libraries_are_found_in_torchs_packages_and_loaded(monkeypatch, tmp_path):
    lib = tmp_path / "nvidia" / "cu13" / "lib"
    lib.mkdir(parents=True)
    for name in libraries.NAMES:
        (lib / name).write_bytes(b"")
    monkeypatch.syspath_prepend(tmp_path)
    loaded = []
    monkeypatch.setattr(libraries.ctypes, "CDLL", lambda path, mode: loaded.append((path, mode)))
    libraries.find_libraries.cache_clear()
    libraries._folders.cache_clear()
    try:
        libraries.load_libraries()
    finally:
        libraries.find_libraries.cache_clear()
        libraries._folders.cache_clear()
    assert [Path(path).name for path, _ in loaded] == list(libraries.NAMES)
    assert {mode for _, mode in loaded} == {libraries.ctypes.RTLD_GLOBAL}


def test_probe_names_every_library_that_is_missing(monkeypatch):
    monkeypatch.setattr(plugin, "find_libraries", lambda: dict.fromkeys(libraries.NAMES))
    device = qm.device("h200").replace(is_present=True)
    status = plugin.quantmux_probe(device)
    assert status.state == "unavailable"
    assert "libnvrtc.so.13: not found" in status.reasons


def test_probe_says_that_a_cpu_is_not_its_device():
    status = plugin.quantmux_probe(qm.device("cpu"))
    assert status.reasons == ("DeepGEMM runs on NVIDIA GPUs, the device is cpu",)


def test_probe_names_every_package_that_is_missing(monkeypatch):
    monkeypatch.setattr(plugin, "NEEDS", (qm.Needs(kind="package", name="no-gemm", version="==1"),))
    status = plugin.quantmux_probe(qm.device("h200"))
    assert status.state == "unavailable"
    assert status.reasons == ("no-gemm: needs ==1, found not installed",)
    assert status.hint == "pip install 'no-gemm==1'"
