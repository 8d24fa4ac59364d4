"""The digest of a kernel: changes when its data or one of its declared sources does."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from quantmux.registry.kernel_spec import KernelSpec


@lru_cache(maxsize=4096)
def kernel_digest(spec: KernelSpec, folder: Path | None) -> str:
    """Give 16 hex digits over capability, load, version and the content of the sources.

    Args:
        spec: The kernel.
        folder: Folder of the plugin's package, to which ``sources`` are relative; None when the
            plugin is not in files (then its sources cannot be part of the digest).
    """
    found = hashlib.sha256()
    data = [spec.id, spec.op, spec.load, spec.version, spec.capability.model_dump(mode="json")]
    found.update(json.dumps(data, sort_keys=True, default=sorted).encode())
    for name in spec.sources:
        found.update(name.encode() + b"\0")
        if folder is None:
            continue
        file = folder / name
        try:
            found.update(file.read_bytes())
        except OSError:
            # a missing source is itself a fact of the digest: it differs from every present one
            found.update(b"\0missing")
    return found.hexdigest()[:16]
