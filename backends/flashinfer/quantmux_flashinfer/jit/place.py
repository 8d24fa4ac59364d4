"""Where the installed FlashInfer keeps modules: found without importing it.

Where it is imported already, it says so itself: it decided at its import, from an environment that
may have been another one.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quantmux.capability.needs import package_version
from quantmux_flashinfer.jit import settings
from quantmux_flashinfer.jit.targets import folder_of, joined
from quantmux_flashinfer.surface.installed import installed_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

BASE: Final = "FLASHINFER_WORKSPACE_BASE"

_VERSION: Final = re.compile(r'^__version__\s*=\s*"([^"]+)"', re.MULTILINE)
_CACHES: Final = "flashinfer_jit_cache"


@dataclass(frozen=True, slots=True)
class Place:
    """Where modules of one release lie, for one user.

    Attributes:
        version: Of the release.
        package: Its folder in site-packages.
        base: The folder below which it writes: ``<base>/.cache/flashinfer``.
        imported: The target that it settled on when it was imported; None while it is not.
    """

    version: str
    package: Path
    base: Path
    imported: str | None = None

    @property
    def cache(self) -> Path:
        """The folder of all releases and targets."""
        return self.base / ".cache" / "flashinfer"

    def modules(self, target: str) -> Path:
        """Give the folder of the modules that are compiled for a target."""
        return self.cache / self.version / folder_of(target) / "cached_ops"

    def module(self, name: str, target: str) -> Path:
        """Give the folder of one module."""
        return self.modules(target) / name

    def library(self, name: str, target: str) -> Path:
        """Give the file that FlashInfer loads."""
        return self.module(name, target) / f"{name}.so"

    def lock(self, name: str, target: str) -> Path:
        """Give the file that FlashInfer locks while it compiles a module."""
        return self.modules(target) / "tmp" / f"{name}.lock"

    @property
    def prebuilt(self) -> Path:
        """The folder of modules that somebody else compiled, in the package itself."""
        return self.package / "data" / "aot"


def find_place() -> Place | None:
    """Give where modules lie; None where FlashInfer is not installed.

    Raises:
        ConfigError: Option ``workspace`` is no folder.
    """
    loaded: Any = sys.modules.get("flashinfer.jit.env")
    if loaded is not None and hasattr(loaded, "FLASHINFER_JIT_DIR"):
        return _of_loaded(loaded)
    package = installed_folder()
    if package is None:
        return None
    return Place(_version(package), package, base_folder())


def base_folder() -> Path:
    """Give ``FLASHINFER_WORKSPACE_BASE``, else option ``workspace``, else the home folder."""
    given = os.environ.get(BASE)
    if given is not None:
        return Path(given)
    return settings.workspace() or Path.home()


def shipped(place: Place, name: str) -> Path | None:
    """Give a module that somebody else compiled: in the package, or in FlashInfer's own wheels.

    Those wheels count where their version is the release's; which GPUs they are for, FlashInfer
    itself finds out when it loads them.
    """
    own = place.prebuilt / name / f"{name}.so"
    if own.is_file():
        return own
    return next((file for file in _in_wheels(place.version, name) if file.is_file()), None)


def _of_loaded(env: Any) -> Place:
    package = Path(env.__file__).resolve().parents[1]
    base = Path(env.FLASHINFER_BASE_DIR).absolute()
    version = str(env.flashinfer_version)
    folder = Path(env.FLASHINFER_JIT_DIR).parent.name
    parts = [] if folder == version else folder.split("_")  # without a GPU it has no folder
    return Place(version, package, base, joined(parts))


def _version(package: Path) -> str:
    try:
        found = _VERSION.search((package / "_build_meta.py").read_text(encoding="utf-8"))
    except OSError:
        found = None
    return found[1] if found is not None else "0.0.0+unknown"  # what it calls a checkout


def _in_wheels(version: str, name: str) -> Iterator[Path]:
    found = package_version("flashinfer-jit-cache")
    folder = _package_folder(_CACHES)
    if folder is None or found is None or found.partition("+")[0] != version:
        return
    for wheel in sorted(folder.parent.glob(f"{_CACHES}*")):
        yield from wheel.glob(f"*/{name}/{name}.so")


def _package_folder(name: str) -> Path | None:
    try:
        spec = util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent
