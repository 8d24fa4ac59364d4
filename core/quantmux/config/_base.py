"""The base of every config model: frozen, strict about unknown fields, cheap to hash."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError

from quantmux.errors import ConfigError


class Frozen(BaseModel):
    """A value: immutable, comparable, hashable, JSON round trip.

    The hash is computed once. Configs are dictionary keys on the path that `select` takes for
    every call, and hashing a nested pydantic model anew costs more than the look-up it guards.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    _hash: int | None = PrivateAttr(default=None)

    def __init__(self, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise as_config_error(type(self), error) from None

    def __hash__(self) -> int:
        value = self._hash
        if value is None:
            value = hash((type(self).__name__, *self.__dict__.values()))
            self._hash = value
        return value

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if type(self) is not type(other):
            return NotImplemented
        return self.__dict__ == other.__dict__

    def __getstate__(self) -> dict[Any, Any]:
        # hashes of strings differ between processes: a pickled one would be wrong where it lands
        return {**super().__getstate__(), "__pydantic_private__": {"_hash": None}}

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Give a copy with fields changed but not validated; `replace` validates."""
        copied = super().model_copy(update=update, deep=deep)
        copied._hash = None  # noqa: SLF001 - of the same class
        return copied

    def replace(self, **changes: Any) -> Self:
        """Give a validated copy with some fields changed."""
        return type(self)(**{**dict(self), **changes})


def as_config_error(model: type[BaseModel], error: ValidationError) -> ConfigError:
    """Turn pydantic's report into ours: which field, what was given, what is allowed."""
    facts: list[str] = []
    hint = None
    for item in error.errors(include_url=False):
        where = ".".join(str(part) for part in item["loc"]) or model.__name__
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(item["loc"][-1]), model.model_fields, n=1)
            facts.append(f"{where}: no such field")
            hint = hint or (
                f'did you mean "{near[0]}"?' if near else "fields: " + ", ".join(model.model_fields)
            )
            continue
        if item["type"] == "missing":
            facts.append(f"{where}: required, not given")
            continue
        message = item["msg"].removeprefix("Value error, ")
        facts.append(f"{where}: {message[0].lower()}{message[1:]}, found {item.get('input')!r}")
    return ConfigError(f"{model.__name__} is not valid", facts=facts, hint=hint)


def closest(name: str, known: Any, cutoff: float = 0.5) -> str | None:
    """Give the known name nearest in spelling, or None when none is near enough (0 … 1)."""
    names = list(known)
    begun = [candidate for candidate in names if name and candidate.startswith(name)]
    found = begun or difflib.get_close_matches(name, names, n=1, cutoff=cutoff)
    return found[0] if found else None
