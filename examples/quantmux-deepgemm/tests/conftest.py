"""The kernel, with a stand-in where DeepGEMM or the GPU is missing."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import fake_deep_gemm
from quantmux_deepgemm import library
from quantmux_deepgemm.fp8_gemm_nt import KERNEL


@pytest.fixture
def kernel(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "deep_gemm", fake_deep_gemm.module())
    monkeypatch.setattr(library, "load_libraries", lambda: None)
    monkeypatch.setenv("DG_JIT_CACHE_DIR", str(tmp_path))
    library.fp8_gemm_nt.cache_clear()
    fake_deep_gemm.CALLS.clear()
    yield KERNEL
    library.fp8_gemm_nt.cache_clear()
