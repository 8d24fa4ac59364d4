"""What a release of FlashInfer says of its functions, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["positional", "keyword", "rest", "keywords"]

SKIP_CHECK = "skip_check"
"""Every function behind the library's check of backends takes it, though it stands in no list."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter.

    Attributes:
        name: Its name.
        kind: ``positional`` (by name, too), ``keyword`` only, ``rest`` (``*args``) or ``keywords``.
        is_required: It has no default.
    """

    name: str
    kind: Kind
    is_required: bool


@dataclass(frozen=True, slots=True)
class BackendChoice:
    """One value that a function takes as ``backend``, where a check stands before it.

    Attributes:
        archs: Compute capabilities, major · 10 + minor, that its check lists; None without a list
            that can be read.
        is_experimental: The library keeps it out of its own choice.
    """

    archs: tuple[int, ...] | None
    is_experimental: bool = False


@dataclass(frozen=True, slots=True)
class Function:
    """One function of a release.

    Attributes:
        file: Where it is defined, relative to the package.
        parameters: In their order.
        is_gated: The library's check of backends and compute capabilities stands before it.
        backends: The backends that the check knows; empty where the function has no choice.
        archs: Compute capabilities of a gated function without a choice of backends; None where it
            lists none.
        choices: What the annotation of its parameter ``backend`` allows; None where it names
            nothing.
    """

    file: str
    parameters: tuple[Parameter, ...]
    is_gated: bool = False
    backends: Mapping[str, BackendChoice] = field(default_factory=dict)
    archs: tuple[int, ...] | None = None
    choices: tuple[str, ...] | None = None

    @property
    def required(self) -> tuple[str, ...]:
        """Names without which a call fails."""
        named = (p for p in self.parameters if p.kind in ("positional", "keyword"))
        return tuple(p.name for p in named if p.is_required)

    def takes(self, name: str) -> bool:
        """Tell whether a call may pass a parameter of this name."""
        if self.is_gated and name == SKIP_CHECK:
            return True
        return any(
            p.kind == "keywords" or (p.name == name and p.kind in ("positional", "keyword"))
            for p in self.parameters
        )

    def positions(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Give those of the names that may be passed by position, in the function's order."""
        return tuple(p.name for p in self.parameters if p.kind == "positional" and p.name in names)

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON-ready data."""
        return {
            "file": self.file,
            "parameters": [written(p) for p in self.parameters],
            "is_gated": self.is_gated,
            "backends": {
                name: {"archs": _list(b.archs), "is_experimental": b.is_experimental}
                for name, b in self.backends.items()
            },
            "archs": _list(self.archs),
            "choices": _list(self.choices),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Function:
        """Read what `to_dict` gave.

        Raises:
            KeyError: A key is missing.
            TypeError: A value is of another type.
            ValueError: The same, of a parameter.
        """
        return cls(
            file=str(data["file"]),
            parameters=tuple(_read(text) for text in data["parameters"]),
            is_gated=bool(data["is_gated"]),
            backends={
                str(name): BackendChoice(_archs(b["archs"]), bool(b["is_experimental"]))
                for name, b in data["backends"].items()
            },
            archs=_archs(data["archs"]),
            choices=None if data["choices"] is None else tuple(map(str, data["choices"])),
        )


@dataclass(frozen=True, slots=True)
class Surface:
    """What was read of one release.

    Attributes:
        version: Its version, as its own file says.
        functions: ``module:name`` → what was found; None where the release has no such function.
        artifacts: Names of folders of precompiled machine code → where the release looks for them,
            relative to its folder of such code.
    """

    version: str
    functions: Mapping[str, Function | None]
    artifacts: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON-ready data."""
        return {
            "version": self.version,
            "functions": {
                name: None if found is None else found.to_dict()
                for name, found in sorted(self.functions.items())
            },
            "artifacts": dict(sorted(self.artifacts.items())),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Surface:
        """Read what `to_dict` gave.

        Raises:
            KeyError: A key is missing.
            TypeError: A value is of another type.
            ValueError: The same, of a parameter.
        """
        return cls(
            version=str(data["version"]),
            functions={
                str(name): None if found is None else Function.from_dict(found)
                for name, found in data["functions"].items()
            },
            artifacts={str(k): str(v) for k, v in data["artifacts"].items()},
        )


_MARKS: dict[str, Kind] = {"": "positional", "~": "keyword", "*": "rest", "**": "keywords"}


def written(parameter: Parameter) -> str:
    """Give a parameter as one word: ``a``, ``out=`` with a default, ``~out=`` by name only."""
    mark = next(mark for mark, kind in _MARKS.items() if kind == parameter.kind)
    needs_no_value = parameter.kind in ("rest", "keywords") or parameter.is_required
    return f"{mark}{parameter.name}" + ("" if needs_no_value else "=")


def _read(text: str) -> Parameter:
    name = text.lstrip("~*").removesuffix("=")
    kind = _MARKS.get(text[: len(text.rstrip("=").removesuffix(name))])
    if kind is None or not name.isidentifier():
        raise ValueError(f"{text!r} is no parameter")
    return Parameter(name, kind, kind in ("positional", "keyword") and not text.endswith("="))


def _list(values: tuple[Any, ...] | None) -> list[Any] | None:
    return None if values is None else list(values)


def _archs(values: Any) -> tuple[int, ...] | None:
    return None if values is None else tuple(sorted(int(value) for value in values))
