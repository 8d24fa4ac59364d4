"""KernelSpec: one registered kernel, as data that costs nothing to read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from quantmux.capability.capability import OPS, Capability, OpName
from quantmux.errors import PluginError

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux.capability.rejection import Rejection
    from quantmux.config import LayerConfig

    Veto = Callable[[LayerConfig, DeviceProfile], Rejection | None]
    Versions = Callable[[], Mapping[str, str]]
    Estimate = Callable[[LayerConfig, DeviceProfile, int], float]

HOOK_API: Final = (1, 2)
"""(major, minor) of the plugin contract. A plugin names the range that it was written for.

1.1 added `quantmux_libraries`, `KernelSpec.versions`, needs of the kind ``library``, and the ops
``rmsnorm_quantize`` and ``rope_quantize``.
"""

_ID: Final = re.compile(r"^[a-z][a-z0-9_]*/[a-z0-9][a-z0-9_.+-]*$")
_DOTTED: Final = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")


@dataclass(frozen=True, slots=True)
class KernelSpec:
    """One implementation of one op.

    Attributes:
        id: ``backend/stem``, unique over all plugins; the backend is the plugin's name.
        op: Name of the op.
        capability: What it offers.
        load: ``package.module:attribute`` of an object with the protocol of `protocol.py`;
            imported when the kernel is first bound, never before.
        sources: Files, relative to the plugin's package, whose content makes its digest.
        version: Version of the wrapped library where there is one, part of the digest.
        summary: One line for tables.
        veto: Says no where data cannot; raising turns into a ``plugin_error`` rejection.
        estimate: Expected time, µs, for an M. Orders the kernels of one backend only.
        versions: Gives what compiled its libraries, name to version, where that is no package
            that it needs. Evidence and measured times of another release are stale.
    """

    id: str
    op: OpName
    capability: Capability
    load: str
    sources: tuple[str, ...] = ()
    version: str = ""
    summary: str = ""
    veto: Veto | None = field(default=None, compare=False)
    estimate: Estimate | None = field(default=None, compare=False)
    versions: Versions | None = field(default=None, compare=False)

    @property
    def backend(self) -> str:
        """The part of the id before the slash."""
        return self.id.partition("/")[0]

    def check(self, plugin: str) -> None:
        """Check what can be checked without importing the kernel.

        Raises:
            PluginError: The spec is malformed; names the field.
        """
        problem = _problem(self, plugin)
        if problem:
            raise PluginError(
                f"kernel {self.id!r} of plugin {plugin} is not valid",
                plugin=plugin,
                facts=[problem],
                code="kernel_spec",
            )


@dataclass(frozen=True, slots=True)
class BackendInfo:
    """What a plugin says of itself.

    Attributes:
        name: Backend id, the prefix of its kernels' ids.
        version: Its own version.
        api: Range of `HOOK_API` it was written for, e.g. ``">=1.0,<2"``.
        summary: One line for tables.
    """

    name: str
    version: str
    api: str = ">=1.0,<2"
    summary: str = ""


@dataclass(frozen=True, slots=True)
class BackendStatus:
    """Whether a backend can work on a device, with what is missing and what to do.

    Attributes:
        state: ``ok``, or ``unavailable`` with reasons.
        reasons: What is missing, one fact a line.
        hint: What would make it work.
        details: Versions and paths worth showing in ``doctor``.
    """

    state: str = "ok"
    reasons: tuple[str, ...] = ()
    hint: str | None = None
    details: dict[str, str] = field(default_factory=dict)


def _problem(spec: KernelSpec, plugin: str) -> str | None:
    capability = spec.capability
    if not isinstance(capability, Capability):
        return f"capability is a {type(capability).__name__}, not a Capability"
    for name in ("id", "op", "load", "version", "summary"):
        if not isinstance(getattr(spec, name), str):
            return f"{name} is a {type(getattr(spec, name)).__name__}, not a str"
    sources: Any = spec.sources
    if not isinstance(sources, tuple) or not all(isinstance(s, str) for s in sources):
        return "sources is not a tuple of file names"
    for name in ("veto", "estimate", "versions"):
        if getattr(spec, name) is not None and not callable(getattr(spec, name)):
            return f"{name} is a {type(getattr(spec, name)).__name__}, not a function"
    if not _ID.match(spec.id):
        return f"id {spec.id!r} is not of the form backend/stem in lower case"
    if spec.backend != plugin:
        return f"id {spec.id!r} does not begin with the plugin's name {plugin!r}/"
    if spec.op not in OPS:
        return f"op {spec.op!r} is not an op of this version: {', '.join(OPS)}"
    if not _DOTTED.match(spec.load):
        return f"load {spec.load!r} is not of the form package.module:attribute"
    if not capability.arch:
        return "capability.arch is empty: it would serve no device"
    return _op_problem(spec)


def _op_problem(spec: KernelSpec) -> str | None:
    capability = spec.capability
    offers = {
        "linear": capability.schemes,
        "relayout": capability.relayouts,
    }.get(spec.op, capability.produces)
    if not offers:
        what = {"linear": "schemes", "relayout": "relayouts"}.get(spec.op, "produces")
        return f"capability.{what} is empty: a {spec.op} kernel must offer something"
    own = f"{spec.backend}:"
    # what one plugin prepares or writes under a name, no other may be made to read
    if capability.weight_layout != "canonical" and not capability.weight_layout.startswith(own):
        return (
            f"weight_layout {capability.weight_layout!r} is neither 'canonical' nor its own; "
            f"own ones begin with {own!r}"
        )
    written = [name for offer in capability.produces for name in offer.layouts]
    written += [target for _, target in capability.relayouts]
    for layout in written:
        if ":" in layout and not layout.startswith(own):
            return f"layout {layout!r} belongs to another plugin; own ones begin with {own!r}"
    return None
