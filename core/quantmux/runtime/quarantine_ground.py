"""Ground: what a verdict on a kernel stands on. When it changes, the kernel is tried again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quantmux._version import __version__
from quantmux.capability.needs import package_version
from quantmux.registry.digest import kernel_digest
from quantmux.registry.ledger_versions import compiled_by

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quantmux.capability.device import DeviceProfile
    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux.registry.manager import Registry

_ALWAYS = ("torch", "triton")


@dataclass(frozen=True, slots=True)
class Ground:
    """Digest, driver and versions under which a kernel was tried.

    Attributes:
        digest: `kernel_digest` of it; "" stands for every version of it.
        driver: Driver of the device, None where there is none.
        versions: Package → version, sorted: torch, triton, quantmux, what the kernel needs and
            what compiled its libraries; empty stands for all.
    """

    digest: str = ""
    driver: str | None = None
    versions: tuple[tuple[str, str], ...] = ()

    def change(self, here: Ground) -> str:
        """Say what is another one here than in this ground, one line; "" when nothing is."""
        if self.digest and here.digest and self.digest != here.digest:
            return f"sources changed: digest {self.digest[:8]} then, {here.digest[:8]} here"
        if self.driver != here.driver:
            return f"driver {self.driver or 'none'} then, {here.driver or 'none'} here"
        if not self.versions or not here.versions:
            return ""
        then, now = dict(self.versions), dict(here.versions)
        for name in sorted(then.keys() | now.keys()):
            if then.get(name) != now.get(name):
                return f"{name} {then.get(name, 'none')} then, {now.get(name, 'none')} here"
        return ""

    def to_dict(self) -> dict[str, Any]:
        """Give the ground as JSON-ready data."""
        return {"digest": self.digest, "driver": self.driver, "versions": dict(self.versions)}

    @classmethod
    def of_dict(cls, data: Mapping[str, Any]) -> Ground:
        """Build it from `to_dict`.

        Raises:
            TypeError: The data is of another form.
        """
        digest, driver, versions = data.get("digest", ""), data.get("driver"), data.get("versions")
        versions = {} if versions is None else versions
        is_fine = isinstance(digest, str) and isinstance(driver, str | None)
        if not is_fine or not isinstance(versions, dict):
            raise TypeError("not a ground")
        pairs = sorted((str(name), str(version)) for name, version in versions.items())
        return cls(digest, driver, tuple(pairs))


def ground_here(spec: KernelSpec, registry: Registry, device: DeviceProfile) -> Ground:
    """Give the ground of a kernel on a device today; imports nothing.

    What does not compile is tried again by another compiler.
    """
    needed = [need.name for need in spec.capability.needs if need.kind == "package"]
    found = {name: package_version(name) for name in (*_ALWAYS, *needed)}
    found |= {**compiled_by(spec), "quantmux": __version__}
    versions = sorted((name, version) for name, version in found.items() if version is not None)
    digest = kernel_digest(spec, registry.folder(spec.backend))
    return Ground(digest, device.driver, tuple(versions))
