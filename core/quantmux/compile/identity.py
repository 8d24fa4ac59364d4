"""What a pass depends on, as one stable text: inductor's cache of compiled graphs asks for it."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from quantmux._version import __version__
from quantmux.capability.detect import HERE_CPU, detect_devices
from quantmux.registry.digest import kernel_digest

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux.config.policy import Policy
    from quantmux.runtime.context import Context

_ROOT: Final = Path(__file__).resolve().parents[1]
_OURS: Final = ("compile", "runtime/traced")
"""Folders of the package that hold the pass and the ops it writes into graphs."""


def uuid_of(policy: Policy | None, context: Context) -> str:
    """Give a hash over the pass's source, the version, the policies, kernels and measured times.

    The same in every process that has the same of all of them, and another one where a kernel is
    quarantined or was timed anew: what is not taken today must not come out of the cache.
    """
    registry = context.registry
    content = {
        "version": __version__,
        "source": _source(),
        "policy": None if policy is None else policy.model_dump_json(exclude_unset=True),
        "file": registry.policy.policy.model_dump_json(exclude_unset=True),
        "plugins": [(r.name, r.version, r.state) for r in registry.plugins],
        "kernels": [(k.id, kernel_digest(k, registry.folder(k.backend))) for k in registry.kernels],
        "quarantine": sorted((e.kernel, e.device) for e in context.quarantine.entries()),
        "times": [_times(device, context) for device in _devices()],
    }
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _devices() -> list[DeviceProfile]:
    """Give the devices of this machine, one per name: those of one name have the same times."""
    found: dict[str, DeviceProfile] = {}
    for device in (HERE_CPU, *detect_devices()):
        found.setdefault(device.name, device)
    return list(found.values())


def _times(device: DeviceProfile, context: Context) -> tuple[str, float, str]:
    """Give what legality weighs on a device: its copy rate, and a digest of the measured times."""

    def digest() -> str:
        rows = sorted((r.key, r.us) for r in context.inventory(device).tuning.rows())
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    return device.name, device.copy_gb_s, context.remember(("digest of times", device), digest)


@lru_cache(maxsize=1)
def _source() -> str:
    """Hash the source of the pass; once, since a process runs what it has imported."""
    hashed = hashlib.sha256()
    for file in _files():
        hashed.update(str(file.relative_to(_ROOT)).encode())
        hashed.update(file.read_bytes())
    return hashed.hexdigest()


def _files() -> list[Path]:
    """Give the files whose source decides what a graph is rewritten to."""
    return sorted(file for folder in _OURS for file in (_ROOT / folder).rglob("*.py"))


__all__ = ["uuid_of"]
