"""Which GPUs CUDA shows this process, and in which order."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from quantmux.capability.nvml import Gpu

_log: Final = logging.getLogger("quantmux.devices")


def cuda_order(gpus: Sequence[Gpu], environment: Mapping[str, str]) -> tuple[Gpu, ...]:
    """Give the GPUs as ``cuda:0``, ``cuda:1`` … count them.

    Follows CUDA_VISIBLE_DEVICES as CUDA does: indices or beginnings of UUIDs; everything from the
    first entry that names no GPU on is ignored; an entry given twice hides all. Of a partitioned
    GPU a process sees one MIG slice.

    The driver lists by PCI bus, CUDA by default the fastest first. With several models and without
    CUDA_DEVICE_ORDER=PCI_BUS_ID the orders may differ; that is logged, not guessed.
    """
    models = {gpu.name for gpu in gpus}
    if len(models) > 1 and environment.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        _log.warning(
            "different GPUs are here (%s): CUDA may number them otherwise; "
            "set CUDA_DEVICE_ORDER=PCI_BUS_ID",
            ", ".join(sorted(models)),
        )
    wish = environment.get("CUDA_VISIBLE_DEVICES")
    if wish is None:
        return _one_slice([_face(gpu) for gpu in gpus])
    chosen: list[Gpu] = []
    for entry in wish.split(","):
        found = _named(entry.strip(), gpus)
        if found is None:
            break
        if found in chosen:
            return ()
        chosen.append(found)
    return _one_slice(chosen)


def _named(entry: str, gpus: Sequence[Gpu]) -> Gpu | None:
    if entry.isdecimal():
        index = int(entry)
        return _face(gpus[index]) if index < len(gpus) else None
    if entry.startswith("GPU-"):
        found = [gpu for gpu in gpus if gpu.uuid.startswith(entry)]
        return _face(found[0]) if len(found) == 1 else None
    if entry.startswith("MIG-"):
        return next((s for gpu in gpus for s in gpu.slices if s.uuid == entry), None)
    return None


def _face(gpu: Gpu) -> Gpu:
    return gpu.slices[0] if gpu.slices else gpu


def _one_slice(chosen: list[Gpu]) -> tuple[Gpu, ...]:
    """CUDA enumerates a single MIG slice, and then no other GPU."""
    for gpu in chosen:
        if gpu.uuid.startswith("MIG-"):
            return (gpu,)
    return tuple(chosen)
