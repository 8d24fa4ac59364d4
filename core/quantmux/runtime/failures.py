"""What an exception means: whose fault it is, and whether another kernel may be tried."""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Final

import torch

from quantmux.errors import BuildError, InputError, LaunchError

_CUDA: Final = re.compile(r"CUDA error|CUDA driver error|Triton Error \[CUDA\]|CUDA_ERROR_")
_OUT_OF_MEMORY: Final = re.compile(r"out of memory|can't allocate memory", re.IGNORECASE)
# Refused before anything ran: the context is as good as before. So are all errors of a capture
# (cudaErrorStreamCapture…): the graph is lost, the context is not.
_REFUSED: Final = re.compile(
    r"no kernel image|invalid configuration argument|invalid argument|invalid device function"
    r"|kernel image is invalid|named symbol not found|too many resources|not supported"
    r"|invalid value|captur|PTX|CUBLAS_STATUS_(NOT_SUPPORTED|INVALID_VALUE|ARCH_MISMATCH)"
    # the same three in the words of cublasGetStatusString
    r"|unsupported value or parameter|feature absent from the device",
    re.IGNORECASE,
)

_DECLINED: Final = frozenset({"unsupported", "unavailable"})


class Failure(Enum):
    """What an exception out of a kernel means."""

    CALLER = auto()
    """The caller's tensors are wrong: no kernel is to blame."""
    OUT_OF_MEMORY = auto()
    """Another kernel would not find more memory; the caller may free some and try again."""
    POISONED = auto()
    """The CUDA context is lost: every later call of this process fails too."""
    COMPILER = auto()
    """torch.compile's own: it could not trace or compile, and says nothing of the kernel."""
    KERNEL = auto()
    """The kernel's own failure: another one may serve."""


def classify(error: BaseException) -> Failure:
    """Give what an exception means. CUDA errors of unknown kind count as sticky."""
    if isinstance(error, InputError):
        return Failure.CALLER
    if isinstance(error, LaunchError):
        return Failure.POISONED if error.context_poisoned else Failure.KERNEL
    if _is_of_compiler(error):
        return Failure.COMPILER
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return Failure.OUT_OF_MEMORY
    if not isinstance(error, RuntimeError):
        return Failure.KERNEL
    is_cuda = isinstance(error, torch.AcceleratorError) or _CUDA.search(text) is not None
    if "CUBLAS_STATUS_ALLOC_FAILED" in text:
        return Failure.OUT_OF_MEMORY
    if _OUT_OF_MEMORY.search(text) and (is_cuda or "llocator" in text):
        return Failure.OUT_OF_MEMORY
    if is_cuda and _REFUSED.search(text) is None:
        return Failure.POISONED
    return Failure.KERNEL


def declines(error: BaseException) -> bool:
    """Tell whether a kernel says that it cannot serve here, which is no failure of it.

    A library that does not serve this GPU or release (code ``unsupported``), or that lacks a tool
    or a package (code ``unavailable``), is passed over and asked again by the next bind:
    quarantine would outlast the remedy.
    """
    return isinstance(error, BuildError) and error.code in _DECLINED


def _is_of_compiler(error: BaseException) -> bool:
    # by the module's name: importing torch._dynamo to ask takes more than a second
    return any(cls.__module__.startswith("torch._dynamo.") for cls in type(error).__mro__)


def is_capturing() -> bool:
    """Tell whether the current CUDA stream is being captured into a graph."""
    # a process that never used CUDA must not be made to start it by the question
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()  # type: ignore[no-untyped-call]
