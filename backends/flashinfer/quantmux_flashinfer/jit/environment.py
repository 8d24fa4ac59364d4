"""The environment that FlashInfer sees, in this process and in those that compile."""

from __future__ import annotations

import os


def apply() -> None:
    """Set it before FlashInfer is imported or loads a module; may be repeated."""
    os.environ["FLASHINFER_NO_DOWNLOAD"] = "1"
