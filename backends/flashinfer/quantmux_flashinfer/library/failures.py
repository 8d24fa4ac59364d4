"""What an exception of FlashInfer means here: refused, unavailable, or CUDA's."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quantmux_flashinfer.entries import Entry


@contextmanager
def translated(entry: Entry) -> Iterator[None]:
    """Turn exceptions of the library in the block into ours. For binding and warming up.

    Hot paths write ``try: … except LIBRARY_ERRORS as error: raise translate(error, entry) from
    error``, which costs nothing while nothing is raised.
    """
    del entry
    yield


LIBRARY_ERRORS: tuple[type[Exception], ...] = (Exception,)


def translate(error: Exception, entry: Entry) -> Exception:
    """Give the exception to raise in place of one that FlashInfer raised.

    - It does not serve this (BackendSupportedError, GPUArchitectureError, "Problem size is not
      supported", "only supported on", a missing function or parameter): `BuildError`, code
      ``unsupported``.
    - A tool, a header, a package, a cubin is missing (ninja, MissingJITCacheError, LibraryError,
      "Artifact not found", "is not available"): `BuildError`, code ``unavailable``.
    - CUDA's: `LaunchError`, with ``context_poisoned`` where the context is lost; out of memory is
      torch's own and is given back as it is.
    - Anything else: `LaunchError`, code ``flashinfer``, with the text.
    """
    del entry
    return error
