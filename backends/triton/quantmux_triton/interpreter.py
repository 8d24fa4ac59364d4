"""Whether Triton's functions of this process are interpreted on the host."""

from __future__ import annotations

import os
from functools import cache


@cache
def interpreting() -> bool:
    """Tell whether ``TRITON_INTERPRET`` is set, as Triton read it when it made its functions.

    The interpreter runs a kernel on CPU tensors, program after program, with numpy: it proves
    numbers, and takes seconds for what a GPU does in microseconds.
    """
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")
