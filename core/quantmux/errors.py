"""Every error quantmux raises, as one tree.

QuantmuxError
├── ConfigError          a layer config, an operand, a policy or plugins.toml is wrong
├── CheckpointError      a checkpoint on disk is broken, mislabelled, or not understood
├── PluginError          a backend plugin is broken; carries ``.plugin``
├── SelectionError       carries ``.selection`` (or None)
│   ├── NoKernelError        nothing can serve; ``.rejected`` has every kernel's reasons
│   └── ForcedKernelError    what was forced cannot serve; ``.rejected`` says why
├── BuildError           preparing or compiling a kernel failed
│   └── NotBuiltError        its library is not compiled yet; ``.wait()`` waits for it
├── RunError             a call failed
│   ├── LaunchError          the kernel raised; ``.context_poisoned`` tells whether CUDA is lost
│   └── NumericsError        a result disagrees with the reference
└── InputError           the caller's tensors
    ├── ShapeError
    ├── DtypeError
    └── LayoutError

Every message has one form: what was asked, what was found (one fact a line, need against value),
what to do next. ``code`` is stable and meant for programs; the text is meant for people.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from threading import Event

__all__ = [
    "BuildError",
    "CheckpointError",
    "ConfigError",
    "DtypeError",
    "ForcedKernelError",
    "InputError",
    "LaunchError",
    "LayoutError",
    "NoKernelError",
    "NotBuiltError",
    "NumericsError",
    "PluginError",
    "QuantmuxError",
    "RunError",
    "SelectionError",
    "ShapeError",
]


class QuantmuxError(Exception):
    """Root of the tree.

    Args:
        headline: What was asked and what is wrong with it, one line, lower case.
        facts: What was found: lines, or a mapping printed as aligned columns.
        hint: What to do next.
        code: Stable identifier; the class default when None.
    """

    default_code: ClassVar[str] = "error"

    def __init__(
        self,
        headline: str,
        *,
        facts: Iterable[str] | Mapping[str, object] = (),
        hint: str | None = None,
        code: str | None = None,
    ) -> None:
        self.headline = headline
        self.facts = _lines(facts)
        self.hint = hint
        self.code = code if code is not None else self.default_code
        super().__init__(self._render())

    def _render(self) -> str:
        parts = [self.headline, *(f"  {line}" for line in self.facts)]
        if self.hint:
            first, *rest = self.hint.splitlines()
            parts.append(f"  next: {first}")
            parts.extend(f"        {line}" for line in rest)
        return "\n".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Give the error as JSON-ready data: type, code, headline, facts, hint."""
        return {
            "type": type(self).__name__,
            "code": self.code,
            "message": self.headline,
            "facts": list(self.facts),
            "hint": self.hint,
        }


class ConfigError(QuantmuxError):
    """A config, operand, scheme, policy or plugins.toml says something impossible."""

    default_code = "config"


class CheckpointError(QuantmuxError):
    """A checkpoint is truncated, mislabelled, incomplete, or of an unknown format."""

    default_code = "checkpoint"


class PluginError(QuantmuxError):
    """A backend plugin cannot be used; ``plugin`` names it, ``distribution`` its package."""

    default_code = "plugin"

    def __init__(
        self,
        headline: str,
        *,
        plugin: str,
        distribution: str | None = None,
        facts: Iterable[str] | Mapping[str, object] = (),
        hint: str | None = None,
        code: str | None = None,
    ) -> None:
        self.plugin = plugin
        self.distribution = distribution
        super().__init__(headline, facts=facts, hint=hint, code=code)


class SelectionError(QuantmuxError):
    """Selection could not give what was asked; ``rejected`` maps kernel id to its rejections."""

    default_code = "selection"

    def __init__(
        self,
        headline: str,
        *,
        selection: Any = None,
        rejected: Mapping[str, tuple[Any, ...]] | None = None,
        facts: Iterable[str] | Mapping[str, object] = (),
        hint: str | None = None,
        code: str | None = None,
    ) -> None:
        self.selection = selection
        self.rejected = dict(rejected or {})
        super().__init__(headline, facts=facts, hint=hint, code=code)


class NoKernelError(SelectionError):
    """No registered kernel can serve the config on the device."""

    default_code = "no_kernel"


class ForcedKernelError(SelectionError):
    """The kernel or backend that was forced cannot serve."""

    default_code = "forced_kernel"


class BuildError(QuantmuxError):
    """Preparing weights or compiling a kernel failed."""

    default_code = "build"


class NotBuiltError(BuildError):
    """A kernel's library is not compiled yet, and somebody is compiling it: no failure.

    What raises it from ``bind`` or ``warmup`` is not quarantined, the next candidate serves
    meanwhile, and those who have time wait: ``quantmux.warmup``, a sweep, a benchmark.

    Args:
        headline: Which kernel or library, and about how long it takes.
        ready: Set once the library is compiled, or has failed to. None: nobody compiles it.
        facts: As in `QuantmuxError`.
        hint: As in `QuantmuxError`.
        code: As in `QuantmuxError`.
    """

    default_code = "not_built"

    def __init__(
        self,
        headline: str,
        *,
        ready: Event | None = None,
        facts: Iterable[str] | Mapping[str, object] = (),
        hint: str | None = None,
        code: str | None = None,
    ) -> None:
        self.ready = ready
        super().__init__(headline, facts=facts, hint=hint, code=code)

    @property
    def is_ready(self) -> bool:
        """Tell whether trying again makes sense now."""
        return self.ready is not None and self.ready.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until trying again makes sense; False when the time is over, or nobody compiles.

        Args:
            timeout: Seconds; None waits as long as the compiler takes.
        """
        return self.ready is not None and self.ready.wait(timeout)


class RunError(QuantmuxError):
    """A call of a bound kernel failed."""

    default_code = "run"


class LaunchError(RunError):
    """A kernel raised. With ``context_poisoned`` the CUDA context is lost for this process."""

    default_code = "launch"

    def __init__(
        self,
        headline: str,
        *,
        context_poisoned: bool = False,
        facts: Iterable[str] | Mapping[str, object] = (),
        hint: str | None = None,
        code: str | None = None,
    ) -> None:
        self.context_poisoned = context_poisoned
        super().__init__(headline, facts=facts, hint=hint, code=code)


class NumericsError(RunError):
    """A kernel's result disagrees with the reference beyond its declared tolerance."""

    default_code = "numerics"


class InputError(QuantmuxError):
    """A tensor the caller passed cannot be used."""

    default_code = "input"


class ShapeError(InputError):
    """A shape disagrees with the config or with another tensor."""

    default_code = "shape"


class DtypeError(InputError):
    """A dtype is not the one the config names."""

    default_code = "dtype"


class LayoutError(InputError):
    """Strides, padding or scale layout are not the ones the reader needs."""

    default_code = "layout"


def _lines(facts: Iterable[str] | Mapping[str, object]) -> tuple[str, ...]:
    items = getattr(facts, "items", None)
    if items is None:
        return tuple(str(f) for f in facts)
    pairs = [(str(k), str(v)) for k, v in items()]
    width = max((len(k) for k, _ in pairs), default=0)
    return tuple(f"{k:<{width}}  {v}" for k, v in pairs)
