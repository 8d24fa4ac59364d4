import pytest
import torch
from torch._dynamo import exc as dynamo

from quantmux.errors import BuildError, LaunchError, ShapeError
from quantmux.runtime.failures import Failure, classify, is_capturing


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ShapeError("x is wrong"), Failure.CALLER),
        (torch.OutOfMemoryError("CUDA out of memory"), Failure.OUT_OF_MEMORY),
        (MemoryError(), Failure.OUT_OF_MEMORY),
        (RuntimeError("CUDA error: out of memory"), Failure.OUT_OF_MEMORY),
        (RuntimeError("Triton Error [CUDA]: out of memory"), Failure.OUT_OF_MEMORY),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), Failure.OUT_OF_MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), Failure.OUT_OF_MEMORY),
        (RuntimeError("out of memory is what the poem is about"), Failure.KERNEL),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), Failure.POISONED),
        (RuntimeError("CUDA error: misaligned address"), Failure.POISONED),
        (RuntimeError("CUDA error: something new"), Failure.POISONED),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"), Failure.POISONED),
        (LaunchError("lost", context_poisoned=True), Failure.POISONED),
        (LaunchError("refused"), Failure.KERNEL),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling"), Failure.KERNEL),
        (
            RuntimeError(
                "CUDA error: an unsupported value or parameter was passed to the function"
            ),
            Failure.KERNEL,
        ),
        (
            RuntimeError(
                "CUDA error: the function requires a feature absent from the device architecture"
            ),
            Failure.KERNEL,
        ),
        (RuntimeError("CUDA error: invalid configuration argument"), Failure.KERNEL),
        # as torch 2.11 says it on an H200; the GPU went on working after both
        (
            torch.AcceleratorError("CUDA error: operation not permitted when stream is capturing"),
            Failure.KERNEL,
        ),
        (
            RuntimeError("CUDA error: operation failed due to a previous error during capture"),
            Failure.KERNEL,
        ),
        (RuntimeError("out of resource: shared memory, Required: 300000"), Failure.KERNEL),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), Failure.KERNEL),
        (BuildError("ptxas failed"), Failure.KERNEL),
        (ValueError("CUDA error: only text"), Failure.KERNEL),
        (SystemExit(1), Failure.KERNEL),
        (dynamo.TorchRuntimeError("fake tensors disagree"), Failure.COMPILER),
        (dynamo.InternalTorchDynamoError("a bug of dynamo"), Failure.COMPILER),
        (dynamo.BackendCompilerFailed(print, RuntimeError("no"), None), Failure.COMPILER),
        (dynamo.UserError(dynamo.UserErrorType.DYNAMIC_CONTROL_FLOW, "if"), Failure.COMPILER),
        (dynamo.FailOnRecompileLimitHit("limit"), Failure.COMPILER),
    ],
)
def test_an_exception_is_sorted_by_whose_fault_it_is(error, kind):
    assert classify(error) is kind


@pytest.mark.skipif(torch.cuda.is_initialized(), reason="CUDA is in use already")
def test_nothing_is_captured_without_cuda_and_the_question_does_not_start_it():
    assert is_capturing() is False
    assert not torch.cuda.is_initialized()
