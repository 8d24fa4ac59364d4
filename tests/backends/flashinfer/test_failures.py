"""Every exception that FlashInfer was seen to raise, and what becomes of it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
import torch

from quantmux.errors import BuildError, InputError, LaunchError, NotBuiltError, ShapeError
from quantmux.runtime.failures import Failure, classify, declines
from quantmux_flashinfer.entries import Entry
from quantmux_flashinfer.library.failures import LIBRARY_ERRORS, translate, translated

if TYPE_CHECKING:
    from types import ModuleType

ENTRY = Entry(
    function="flashinfer.gemm:mm_fp8", parameters=("a", "b"), backend="cublas", is_gated=True
)

UNSUPPORTED: list[Exception] = [
    ValueError("fp8_blockscale_gemm_sm90 is only supported on SM90 (Hopper) architecture."),
    ValueError("Problem size is not supported for mm_fp4"),
    ValueError("Invalid backend: 89"),
    ValueError(
        "Unsupported backend: cublas. Only ('trtllm_low_latency',) are supported for FP8 GEMM "
        "operations."
    ),
    ValueError("Unsupported output dtype: torch.float32."),
    ValueError("e5m2 is not supported for mm_fp8 with cutlass backend"),
    ValueError("FP8 input + BF16 weight is not supported (missing kernel implementation). "),
    ValueError("Unsupported device for FP8 GEMM: cuda:0"),
    RuntimeError(
        "silu_and_mul_nvfp4_quantize requires a Blackwell GPU (SM100+, compute capability >= "
        "10.0); got SM90."
    ),
    RuntimeError("FP8 output requires SM89+ (Ada/Hopper)"),
    RuntimeError("FlashInfer requires GPUs with sm75 or higher. Detected TARGET_CUDA_ARCHS=[]."),
    RuntimeError(
        "group_gemm_fp8_nt_groupwise has correctness issues for num_groups > 1 on SM120/121"
    ),
    RuntimeError("[cudnn_frontend] Error: No execution plans support the graph."),
    RuntimeError("[cudnn_frontend] Error: graph.check_support() CUDNN_STATUS_NOT_SUPPORTED"),
    RuntimeError("No valid engine configs for Matmul_MUL_"),
    RuntimeError("Plan index 3 is invalid"),
    RuntimeError("cuBLASLt heuristic returned zero algorithms for M=1, N=2, K=3"),
    TypeError("mm_fp8() got an unexpected keyword argument 'backend'"),
    TypeError("mm_fp8() missing 1 required positional argument: 'alpha'"),
    AttributeError("module 'flashinfer' has no attribute 'silu_and_mul_mxfp8_quantize'"),
    NotImplementedError("neither CuTe DSL is here"),
]
UNAVAILABLE: list[Exception] = [
    RuntimeError("Ninja build failed. Ninja output:\nFAILED: gemm.cuda.o\nnvcc fatal: no cicc"),
    RuntimeError("Could not find nvcc and default cuda_home='/usr/local/cuda' doesn't exist"),
    RuntimeError(
        "Artifact not found locally: checksums.txt (looked at /c). FLASHINFER_NO_DOWNLOAD is set — "
        "refusing to download. This means flashinfer-cubin is missing this file."
    ),
    RuntimeError("CuTe DSL is not available."),
    RuntimeError(
        "cuDNN is not available. Please install cuDNN to use FP8 GEMM functions. You can install "
        "it with: pip install nvidia-cudnn-cu12 nvidia-cudnn-frontend"
    ),
    RuntimeError("cuDNN grouped_mm_fp8 requires backend version >= 92100, found 91900."),
    RuntimeError("cuDNN FP4 requires version 1.13+, found 1.0. Upgrade: pip install --upgrade x"),
    RuntimeError("Unable to determine cuDNN version. FP4 requires cuDNN 1.13+."),
    RuntimeError("Header a.h not found at /c/a.h. Try clearing the cache: rm -rf /c"),
    RuntimeError("flashinfer-cubin version (0.6.1) does not match flashinfer version (0.7.2)."),
    ValueError("CuTe-DSL is not available. Please install cutlass with cute support."),
    ModuleNotFoundError("No module named 'cuda.tile'"),
    ImportError("cannot import name 'cute' from 'cutlass'"),
    FileNotFoundError(2, "No such file or directory: 'ninja'"),
    OSError("libnvrtc.so.13: cannot open shared object file: No such file or directory"),
]
LOST: list[Exception] = [
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    torch.AcceleratorError("CUDA error: something that nobody knows"),
    RuntimeError("CUDA error: misaligned address"),
    RuntimeError("cudaLaunchKernelExC for the main kernel failed: unspecified launch failure"),
    RuntimeError("Check failed: (status == cudaSuccess): an illegal instruction was encountered"),
    RuntimeError("operation not supported on global/shared address space"),
    RuntimeError("[TensorRT-LLM][ERROR] CUDA runtime error in f: device-side assert triggered"),
    ValueError("launch failed: the launch timed out and was terminated"),
]
REFUSED: list[Exception] = [
    torch.AcceleratorError("CUDA error: invalid configuration argument"),
    RuntimeError("RMSNorm launch failed: no kernel image is available for execution on the device"),
    RuntimeError("bmm_fp8_internal_cublaslt failed: CUBLAS_STATUS_NOT_SUPPORTED"),
    RuntimeError(
        "Check failed: (status == CUBLAS_STATUS_SUCCESS) is false: bmm_fp8_internal_cublaslt "
        "failed: the requested functionality is not supported"
    ),
    RuntimeError("CUDA error: operation not permitted when stream is capturing"),
]
OUT_OF_MEMORY: list[Exception] = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    MemoryError("no host memory"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("cudaMalloc failed: out of memory"),
    RuntimeError("cublasLtMatmul: CUBLAS_STATUS_ALLOC_FAILED"),
    RuntimeError("bmm_fp8_internal_cublaslt failed: the resource allocation failed"),
]
OTHER: list[Exception] = [
    ValueError("The pointers must be multiple of 16 bytes."),
    ValueError("Output shape mismatch. Expected (3, 4), got (4, 3)."),
    AssertionError("No runners found"),
    RuntimeError("Incompatible matrix sizes"),
    RuntimeError("Check failed: (input_ptr != nullptr) is false: input is null"),
    KeyError("fp8_gemm"),
]


def text_of(error: Exception) -> str:
    """Give a short id."""
    return f"{type(error).__name__}-{' '.join(str(error).split())[:40]}"


@pytest.mark.parametrize("error", UNSUPPORTED, ids=text_of)
def test_what_the_library_does_not_serve_is_unsupported(error: Exception) -> None:
    ours = translate(error, ENTRY)
    assert isinstance(ours, BuildError)
    assert ours.code == "unsupported"
    assert declines(ours)


@pytest.mark.parametrize("error", UNAVAILABLE, ids=text_of)
def test_a_missing_tool_or_package_is_unavailable(error: Exception) -> None:
    ours = translate(error, ENTRY)
    assert isinstance(ours, BuildError)
    assert not isinstance(ours, NotBuiltError)
    assert ours.code == "unavailable"
    assert declines(ours)


@pytest.mark.parametrize("error", LOST, ids=text_of)
def test_a_sticky_cuda_error_says_that_the_context_is_lost(error: Exception) -> None:
    ours = translate(error, ENTRY)
    assert isinstance(ours, LaunchError)
    assert (ours.context_poisoned, ours.code) == (True, "cuda")
    assert classify(ours) is Failure.POISONED


@pytest.mark.parametrize("error", REFUSED, ids=text_of)
def test_a_cuda_error_before_anything_ran_lets_another_kernel_serve(error: Exception) -> None:
    ours = translate(error, ENTRY)
    assert isinstance(ours, LaunchError)
    assert not ours.context_poisoned
    assert classify(ours) is Failure.KERNEL
    assert not declines(ours)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=text_of)
def test_out_of_memory_stays_what_it_is(error: Exception) -> None:
    ours = translate(error, ENTRY)
    assert isinstance(ours, torch.OutOfMemoryError | MemoryError)
    assert classify(ours) is Failure.OUT_OF_MEMORY


@pytest.mark.parametrize("error", OTHER, ids=text_of)
def test_anything_else_is_a_failed_launch_with_its_text(error: Exception) -> None:
    ours = translate(error, ENTRY)
    assert isinstance(ours, LaunchError)
    assert (ours.context_poisoned, ours.code) == (False, "flashinfer")
    assert type(error).__name__ in str(ours)
    assert "flashinfer.gemm:mm_fp8" in str(ours)


@pytest.mark.parametrize("error", [ShapeError("out"), NotBuiltError("later"), InputError("x")])
def test_errors_of_our_own_pass_through(error: Exception) -> None:
    assert translate(error, ENTRY) is error
    with pytest.raises(type(error)) as caught, translated(ENTRY):
        raise error
    assert caught.value is error
    assert caught.value.__cause__ is None


def test_the_block_raises_ours_from_theirs() -> None:
    theirs = RuntimeError("CuTe DSL is not available.")
    with pytest.raises(BuildError, match="CuTe DSL") as caught, translated(ENTRY):
        raise theirs
    assert caught.value.__cause__ is theirs


def test_ctrl_c_is_not_touched() -> None:
    with pytest.raises(KeyboardInterrupt), translated(ENTRY):
        raise KeyboardInterrupt


def test_a_compilers_output_is_shortened_to_its_head_and_tail() -> None:
    lines = "\n".join(f"line {n} of the compiler" for n in range(500))
    text = str(translate(RuntimeError(f"Ninja build failed. Ninja output:\n{lines}"), ENTRY))
    assert len(text) < 900
    assert "Ninja build failed" in text
    assert "line 499" in text


def classes(installed: ModuleType) -> dict[str, type[Exception]]:
    """Give the library's own classes."""
    del installed
    utils, core = import_module("flashinfer.utils"), import_module("flashinfer.jit.core")
    names = ("BackendSupportedError", "GPUArchitectureError", "LibraryError")
    found: dict[str, type[Exception]] = {name: getattr(utils, name) for name in names}
    return {**found, "MissingJITCacheError": core.MissingJITCacheError}


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("BackendSupportedError", "unsupported"),
        ("GPUArchitectureError", "unsupported"),
        ("LibraryError", "unavailable"),
        ("MissingJITCacheError", "unavailable"),
    ],
)
def test_the_librarys_own_classes_are_known_by_name(
    installed: ModuleType, name: str, code: str
) -> None:
    error: Any = classes(installed)[name]("words that say nothing")
    ours = translate(error, ENTRY)
    assert isinstance(ours, BuildError)
    assert ours.code == code


def test_no_narrower_class_would_catch_what_the_library_raises(installed: ModuleType) -> None:
    bare = [cls for cls in classes(installed).values() if cls.__bases__ == (Exception,)]
    assert len(bare) == 3
    assert set(LIBRARY_ERRORS) == {Exception}


@pytest.mark.parametrize(("backend", "sm"), [("cutlass", (9, 0)), ("cublas", (8, 0))])
def test_what_the_real_decorator_raises_is_unsupported(
    installed: ModuleType, monkeypatch: pytest.MonkeyPatch, backend: str, sm: tuple[int, int]
) -> None:
    monkeypatch.setattr(import_module("flashinfer.utils"), "get_compute_capability", lambda _: sm)
    a, scale = torch.zeros(1, 4, 4, dtype=torch.float8_e4m3fn), torch.ones(1)
    with pytest.raises(BuildError, match="with capability") as caught, translated(ENTRY):
        installed.bmm_fp8(a, a, scale, scale, torch.bfloat16, backend=backend)
    assert caught.value.code == "unsupported"


def test_a_plan_that_is_built_in_a_capture_asks_for_a_warmup(installed: ModuleType) -> None:
    del installed
    gemm = import_module("flashinfer.gemm.gemm_base")
    ours = translate(gemm.CudnnPlanBuildInCaptureError("Building a cuDNN plan"), ENTRY)
    assert isinstance(ours, LaunchError)
    assert (ours.code, ours.context_poisoned) == ("capture", False)
    assert "warmup" in str(ours.hint)
