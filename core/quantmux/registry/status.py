"""PluginRecord: what became of one plugin."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from quantmux.errors import QuantmuxError
from quantmux.registry.guard import describe
from quantmux.registry.kernel_spec import BackendStatus

PluginState = Literal["ok", "unavailable", "failed", "disabled"]


@dataclass(frozen=True, slots=True)
class PluginRecord:
    """One plugin that was found, usable or not.

    Attributes:
        name: Entry-point name, the backend's id.
        state: ``ok``; ``unavailable`` (loads, or is declared, but cannot work here); ``failed``
            (raised or broke the contract); ``disabled`` (by plugins.toml, not imported).
        distribution: Package that brings it, None when registered by a program.
        version: What the plugin says, else the package's version.
        api: Range of the plugin contract that it was written for.
        summary: Its own one line.
        kernels: Number of kernels it registered.
        error: The exception of a failed plugin.
        reasons: Why it is not ok, one fact a line.
        hint: What would change that.
        notes: What is wrong but does no harm.
        details: Versions and paths found by the probe.
    """

    name: str
    state: PluginState
    distribution: str | None = None
    version: str | None = None
    api: str | None = None
    summary: str = ""
    kernels: int = 0
    error: BaseException | None = field(default=None, compare=False)
    reasons: tuple[str, ...] = ()
    hint: str | None = None
    notes: tuple[str, ...] = ()
    details: dict[str, str] = field(default_factory=dict, compare=False)

    @property
    def is_usable(self) -> bool:
        """Tell whether its kernels are registered."""
        return self.state in ("ok", "unavailable")

    def to_dict(self) -> dict[str, Any]:
        """Give the record as JSON-ready data; ``error`` has type, code and message."""
        error: dict[str, Any] | None = None
        if isinstance(self.error, QuantmuxError):
            error = self.error.to_dict()
        elif self.error is not None:
            error = {"type": type(self.error).__name__, "message": str(self.error)}
        return {
            "name": self.name,
            "status": self.state,
            "distribution": self.distribution,
            "version": self.version,
            "api": self.api,
            "summary": self.summary,
            "kernels": self.kernels,
            "reasons": list(self.reasons),
            "hint": self.hint,
            "notes": list(self.notes),
            "details": dict(self.details),
            "error": error,
        }


def probe_failure(error: BaseException) -> BackendStatus:
    """Give the status of a plugin whose probe raised."""
    return BackendStatus(
        state="failed",
        reasons=(f"quantmux_probe raised {describe(error)}",),
        hint="report it to the plugin's authors",
    )


def status_problem(status: Any) -> str | None:
    """Say what is wrong with what a probe returned, None when nothing is."""
    if not isinstance(status, BackendStatus):
        return f"quantmux_probe returned {type(status).__name__}, not BackendStatus"
    if status.state not in ("ok", "unavailable"):
        return f"quantmux_probe returned state {status.state!r}, not 'ok' or 'unavailable'"
    reasons: Any = status.reasons
    if not isinstance(reasons, tuple | list) or not all(isinstance(r, str) for r in reasons):
        return "quantmux_probe returned reasons that are not a tuple of strings"
    details: Any = status.details
    if not isinstance(details, dict):
        return "quantmux_probe returned details that are not a dict"
    return None
