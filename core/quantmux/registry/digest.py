"""The digest of a kernel: changes when its data or one of its declared sources does.

Evidence and measured times hold for a digest. So it may depend on the kernel alone, never on the
version of quantmux, pydantic or Python that computes it: a field that stands at its default is
left out, and a field that a later version adds changes no digest of a kernel that does not set it.
In return a default, once released, never changes; a test holds all of them.
"""

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

    The order in which sources are listed does not matter.

    Args:
        spec: The kernel.
        folder: Folder of the plugin's package, to which ``sources`` are relative; None when the
            plugin is not in files (then its sources cannot be part of the digest).
    """
    data = {
        "id": spec.id,
        "op": spec.op,
        "load": spec.load,
        "version": spec.version,
        "capability": spec.capability.model_dump(mode="json", exclude_defaults=True),
        "sources": {name: _content(folder, name) for name in spec.sources},
    }
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _content(folder: Path | None, name: str) -> str:
    if folder is None:
        return ""
    try:
        return hashlib.sha256((folder / name).read_bytes()).hexdigest()
    except OSError:
        # a missing source is itself a fact of the digest: it differs from every present one
        return "missing"
