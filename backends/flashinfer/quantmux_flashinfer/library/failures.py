"""What an exception of FlashInfer means here: refused, unavailable, or CUDA's.

The library tells one fact in several classes: an unsupported GPU is a ``BackendSupportedError``, a
``ValueError`` or a ``RuntimeError``, and CUDA's errors arrive as the ``RuntimeError`` of the C++
binding, often as the bare text of ``cudaGetErrorString``. So the text decides where the class does
not; the phrases are those of the releases 0.6.8 to 0.7.2.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import torch

from quantmux.errors import BuildError, LaunchError, QuantmuxError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quantmux_flashinfer.entries import Entry

LIBRARY_ERRORS: Final[tuple[type[Exception], ...]] = (Exception,)
"""What an ``except`` around a call of the library names. It cannot be narrower: the library's
own classes (``BackendSupportedError``, ``LibraryError``, ``GPUArchitectureError``) derive from
``Exception`` itself, and naming them would import the library where a kernel is only loaded.
`translate` gives back what is not the library's."""

_LOST: Final = re.compile(
    r"illegal memory access|misaligned address|illegal instruction|unspecified launch failure"
    r"|device-side assert|launch timed out|hardware stack error|invalid program counter"
    r"|not supported on global/shared address space|uncorrectable|context is destroyed"
    r"|invalid device context|driver shutting down|exception during .* execution",
    re.IGNORECASE,
)
"""The texts of CUDA's errors after which every later call of the process fails too."""

_OUT_OF_MEMORY: Final = re.compile(
    r"CUDA[^\n]*out of memory|failed: out of memory|cudaErrorMemoryAllocation"
    r"|(CUBLAS|CUDNN)_STATUS_ALLOC_FAILED|cublas\S* failed: the resource allocation failed",
    re.IGNORECASE,
)
_CUDA: Final = re.compile(
    r"CUDA (runtime |driver )?error|CUDA_ERROR_|cudaError|cudaLaunchKernel|cudaMemsetAsync"
    r"|cudaFuncSetAttribute|CUBLAS_STATUS_|cublaslt failed|no kernel image is available"
    r"|invalid device function|invalid configuration argument|stream is captur|launch failed"
    r"|too many resources requested",
    re.IGNORECASE,
)
_UNAVAILABLE: Final = re.compile(
    r"ninja|nvcc|cuda_home|is not available|is not installed|please install|install it with"
    r"|artifact not found|failed to (fetch|download|get|load)|checksum|JIT compilation is disabled"
    r"|requires (backend )?version|requires nvidia-|unable to determine cudnn|please upgrade"
    r"|requires (the )?cu(te-?dsl|tile|dnn)|does not match flashinfer|cannot open shared object"
    r"|could not parse cuda version|header .* not found|no module named",
    re.IGNORECASE,
)
_UNSUPPORTED: Final = re.compile(
    r"problem size is not supported|only supported (on|by)|unsupported (backend|device|output)"
    r"|does not support|not supported|invalid backend|requires? (a )?(blackwell|hopper|sm_?\d)"
    r"|requires (GPUs|compute capability)|no suitable|no execution plans|unsupported arch"
    r"|no valid (engine|execution)"
    r"|no valid \S+ \S+ \S+ config|plan index \d+ is invalid|zero algorithms|unexpected keyword"
    r"|CUDNN_STATUS_NOT_SUPPORTED|missing \d+ required|has correctness issues"
    r"|missing trtllm-gen kernel|no supported",
    re.IGNORECASE,
)
_UNSUPPORTED_CLASSES: Final = frozenset(
    {"BackendSupportedError", "GPUArchitectureError", "cudnnGraphNotSupportedError"}
)
_UNAVAILABLE_CLASSES: Final = frozenset({"MissingJITCacheError", "LibraryError", "Timeout"})


@contextmanager
def translated(entry: Entry) -> Iterator[None]:
    """Turn exceptions of the library in the block into ours. For binding and warming up.

    Hot paths write ``try: … except LIBRARY_ERRORS as error: raise translate(error, entry) from
    error``, which costs nothing while nothing is raised.

    Raises:
        BuildError: See `translate`.
        LaunchError: See `translate`.
        torch.OutOfMemoryError: The device has no memory left.
    """
    try:
        yield
    except LIBRARY_ERRORS as error:
        ours = translate(error, entry)
        if ours is error:
            raise
        raise ours from error


def translate(error: Exception, entry: Entry) -> Exception:
    """Give the exception to raise in place of one that FlashInfer raised.

    - It does not serve this (BackendSupportedError, GPUArchitectureError, "Problem size is not
      supported", "only supported on", a missing function or parameter): `BuildError`, code
      ``unsupported``.
    - A tool, a header, a package, a cubin is missing (ninja, MissingJITCacheError, LibraryError,
      "Artifact not found", "is not available"): `BuildError`, code ``unavailable``.
    - CUDA's: `LaunchError`, code ``cuda``, with ``context_poisoned`` where the context is lost; out
      of memory is torch's own and is given back as it is.
    - A plan that cuDNN would have to build inside a capture: `LaunchError`, code ``capture``.
    - Anything else: `LaunchError`, code ``flashinfer``, with the text.

    Args:
        error: What was raised; one of quantmux, or out of memory, is given back as it is.
        entry: What was called.
    """
    if isinstance(error, QuantmuxError | torch.OutOfMemoryError | MemoryError):
        return error
    text = str(error)
    if _OUT_OF_MEMORY.search(text):
        return torch.OutOfMemoryError(f"{entry.name} of FlashInfer: {_line(text)}")
    if _LOST.search(text):
        return _launch(error, entry, is_lost=True)
    names = {cls.__name__ for cls in type(error).__mro__}
    if "CudnnCaptureUnsafeError" in names:
        return _in_capture(error, entry)
    if names & _UNAVAILABLE_CLASSES or isinstance(error, ImportError | OSError):
        return _unavailable(error, entry)
    if names & _UNSUPPORTED_CLASSES or isinstance(error, NotImplementedError):
        return _unsupported(error, entry)
    if isinstance(error, torch.AcceleratorError) or _CUDA.search(text):
        return _launch(error, entry, is_lost=_is_lost(text))
    if _UNAVAILABLE.search(text):
        return _unavailable(error, entry)
    if _UNSUPPORTED.search(text) or (isinstance(error, AttributeError) and "module" in text):
        return _unsupported(error, entry)
    return LaunchError(
        f"{entry.name} of FlashInfer failed",
        facts=_facts(error, entry),
        hint="the next kernel in order serves; report it with this text",
        code="flashinfer",
    )


def _is_lost(text: str) -> bool:
    """Tell it as quantmux does of every kernel: CUDA errors of unknown kind count as sticky."""
    from quantmux.runtime.failures import Failure, classify  # torch's part of the core

    return classify(RuntimeError(f"CUDA error: {text}")) is Failure.POISONED


def _launch(error: Exception, entry: Entry, *, is_lost: bool) -> LaunchError:
    where = "and the CUDA context is lost" if is_lost else "with an error of CUDA"
    hint = "start the process anew; CUDA_LAUNCH_BLOCKING=1 shows which call it was"
    return LaunchError(
        f"{entry.name} of FlashInfer failed {where}",
        context_poisoned=is_lost,
        facts=_facts(error, entry),
        hint=hint if is_lost else None,
        code="cuda",
    )


def _in_capture(error: Exception, entry: Entry) -> LaunchError:
    return LaunchError(
        f"{entry.name} of FlashInfer was captured before it was ready",
        facts=_facts(error, entry),
        hint="call warmup() with the Ms to be captured before capturing",
        code="capture",
    )


def _unsupported(error: Exception, entry: Entry) -> BuildError:
    return BuildError(
        f"{entry.name} of FlashInfer does not serve this",
        facts=_facts(error, entry),
        hint="another kernel serves; quantmux matrix shows which",
        code="unsupported",
    )


def _unavailable(error: Exception, entry: Entry) -> BuildError:
    return BuildError(
        f"{entry.name} of FlashInfer cannot be used on this machine",
        facts=_facts(error, entry),
        hint="run: quantmux doctor",
        code="unavailable",
    )


def _facts(error: Exception, entry: Entry) -> dict[str, str]:
    facts = {"called": entry.function + (f', backend "{entry.backend}"' if entry.backend else "")}
    facts["raised"] = f"{type(error).__name__}: {_line(str(error))}"
    return facts


def _line(text: str, most: int = 500) -> str:
    """Give a text as one line; of a long one (a compiler's output) the head and the tail."""
    line = " ".join(text.split())
    if len(line) <= most:
        return line
    return f"{line[: most // 3]} … {line[-(most - most // 3) :]}"
