"""cuDNN's handle, made when a kernel is bound and not in its first call.

FlashInfer prints a line on stdout when it makes one, which would stand in the middle of a command's
JSON. And a cuDNN that does not load is learned of here, where another kernel can still be taken
without a failed call.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

import torch

from quantmux_flashinfer.library import loading


def ready(index: int) -> None:
    """Have FlashInfer make its handle for a device, without a word; nothing without a GPU.

    Args:
        index: Ordinal of the device.

    Raises:
        Exception: What the library raises where cuDNN does not load.
    """
    make: Any = getattr(loading.module("flashinfer.gemm.gemm_base"), "_get_cudnn_handle", None)
    if make is None or not torch.cuda.is_available():
        return
    with contextlib.redirect_stdout(io.StringIO()):
        make(torch.device("cuda", index), torch.cuda.current_stream(index))
