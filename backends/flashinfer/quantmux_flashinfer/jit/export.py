"""Copies of modules for hosts without a compiler, in the form that FlashInfer itself loads."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from quantmux_flashinfer.jit.refusals import disk_refused
from quantmux_flashinfer.jit.targets import folder_of

if TYPE_CHECKING:
    from quantmux_flashinfer.jit.making import Made


def export(made: Made, name: str, target: str, folder: Path) -> Path:
    """Copy a module to ``FOLDER/90a/NAME/NAME.so``; gives the copy.

    What lies in ``FOLDER/90a`` belongs into the folder ``flashinfer/data/aot`` of an image whose
    GPUs are these, with the same release of FlashInfer. FlashInfer prefers what it finds there to
    its own cache and needs no compiler then. It asks neither for the release nor for the GPU of
    such a file, so one folder serves one release and one kind of GPU.

    Args:
        made: The module.
        name: Its name.
        target: What it is compiled for.
        folder: Where to; made when it is not there.

    Raises:
        BuildError: The folder cannot be written (code ``disk`` or ``cache``).
    """
    place = folder / folder_of(target) / name / f"{name}.so"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".new-") as work:
            copy = Path(shutil.copy2(made.path, Path(work) / place.name))
            os.replace(copy, place)  # noqa: PTH105 - one step, also where a file is there
    except OSError as error:
        raise disk_refused(name, target, error) from error
    return place
