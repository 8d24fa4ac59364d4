"""plugins.toml: read, checked with file and line, and laid over the shipped default.

A file is read from an explicit argument, from the path in QUANTMUX_PLUGINS, or from the package;
never from the working directory, since it decides which code is imported.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final, NamedTuple

from quantmux.config._base import closest
from quantmux.config.environment import variable, warn_unknown
from quantmux.config.patterns import is_plain
from quantmux.config.policy import (
    CHOICES,
    MATCHERS,
    FallbackPolicy,
    Partial,
    PluginSettings,
    Policy,
    Rule,
)
from quantmux.config.toml_lines import KeyPath, LineIndex
from quantmux.errors import ConfigError

SCHEMA: Final = 1
SHIPPED: Final = "plugins.toml"
_SECTIONS: Final = ("schema", "policy", "plugins", "rule")
_AT_LINE: Final = re.compile(r"\s*\(at line (\d+), column \d+\)")
# A section for a plugin that is not here is legal, unless it is a known name misspelt.
_TYPO: Final = 0.75


class Where(NamedTuple):
    """A file and a line of it."""

    file: str
    line: int | None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file} line {self.line}"

    @property
    def prefix(self) -> str:
        """Give the beginning of an error's headline: ``plugins.toml, line 7``."""
        return self.file if self.line is None else f"{self.file}, line {self.line}"


@dataclass(frozen=True, eq=False)
class LoadedPolicy:
    """A policy from files. Compared by identity: the same values may stand on other lines.

    Attributes:
        policy: The effective policy of the files.
        path: The user's file, None when only the shipped default was read.
        lines: Where each value stands, by key: ``policy.order``, ``policy.order[triton]``,
            ``rule.0.deny``, ``plugins.acme.enabled``.
    """

    policy: Policy
    path: Path | None = None
    lines: Mapping[str, Where] = field(default_factory=dict)

    def where(self, key: str) -> Where | None:
        """Give the place of a key, else of the nearest key above it."""
        while key:
            if key in self.lines:
                return self.lines[key]
            key = key.rpartition("[" if key.endswith("]") else ".")[0]
        return None

    def check_names(self, backends: Collection[str], kernels: Collection[str] = ()) -> None:
        """Check every backend and kernel that the policy names against those that exist.

        A backend that has its own ``[plugins.<name>]`` section counts as known, so that one file
        can serve machines of which some lack it.

        Args:
            backends: Names of all plugins here, failed and disabled ones included.
            kernels: Ids of all registered kernels.

        Raises:
            ConfigError: A name is unknown; carries file, line and the nearest known name.
        """
        policy = self.policy
        for name in policy.plugins:
            near = closest(name, backends, cutoff=_TYPO)
            if name not in backends and near:
                raise self._unknown(f"plugins.{name}", f"[plugins.{name}] names", name, backends)
        known = {*backends, *policy.plugins}
        for prefix, title, choices in self._named():
            for key, names in choices.items():
                for name in names:
                    self._check_name(f"{prefix}.{key}", f"{title}.{key}", name, known, kernels)

    def _named(self) -> Iterable[tuple[str, str, dict[str, tuple[str, ...]]]]:
        levels: list[tuple[str, str, Policy | Rule]] = [("policy", "[policy]", self.policy)]
        levels += [
            (f"rule.{i}", f"[[rule]] {i + 1}", rule) for i, rule in enumerate(self.policy.rules)
        ]
        for prefix, title, level in levels:
            given = level.given()
            force = given.get("force")
            yield (
                prefix,
                title,
                {
                    "order": given.get("order", ()),
                    "deny": tuple(p for p in given.get("deny", ()) if is_plain(p)),
                    "force": () if force is None else (force,),
                },
            )

    def _check_name(
        self, key: str, title: str, name: str, backends: Collection[str], kernels: Collection[str]
    ) -> None:
        backend, slash, _ = name.partition("/")
        if backend not in backends:
            raise self._unknown(f"{key}[{name}]", f"{title} names", name, backends, kernels)
        own = [kernel for kernel in kernels if kernel.startswith(f"{backend}/")]
        # a backend that registered nothing (failed, disabled) cannot tell a typo from its kernels
        if slash and own and name not in own:
            raise self._unknown(f"{key}[{name}]", f"{title} names", name, (), own)

    def _unknown(
        self,
        key: str,
        what: str,
        name: str,
        backends: Collection[str],
        kernels: Collection[str] = (),
    ) -> ConfigError:
        where = self.where(key)
        shown = what if what.endswith(name) else f'{what} "{name}"'
        near = closest(name, [*backends, *kernels])
        facts = ["known backends: " + ", ".join(sorted(backends))] if backends else []
        if kernels and "/" in name:
            facts.append("known kernels: " + ", ".join(sorted(kernels)))
        return ConfigError(
            f"{where.prefix if where else 'policy'}: {shown}",
            facts=facts,
            hint=f'did you mean "{near}"?'
            if near
            else f"install its plugin, or declare [plugins.{name.partition('/')[0]}]",
            code="unknown_name",
        )


def load_policy(path: str | Path | None = None) -> LoadedPolicy:
    """Read the policy: the shipped default and, over it, the user's file if there is one.

    Args:
        path: The user's file; None takes the path in QUANTMUX_PLUGINS, if set.

    Raises:
        ConfigError: A file cannot be read or says something wrong; names file and line.
    """
    named_by = "the argument"
    if path is None:
        path, named_by = variable("QUANTMUX_PLUGINS"), "QUANTMUX_PLUGINS"
    else:
        warn_unknown()
    shipped = _shipped()
    if path is None:
        return shipped
    file = Path(path).expanduser()
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"policy file {file} cannot be read",
            facts=[f"named by {named_by}", str(error.strerror or error)],
        ) from None
    text = _decode(data, str(file))
    own, lines = parse_policy(text, str(file))
    merged = dict(shipped.lines)
    if "rules" in own.model_fields_set:
        merged = {k: v for k, v in merged.items() if not k.startswith("rule.")}
    for key in lines:  # a list that is replaced takes the places of its elements with it
        merged = {k: v for k, v in merged.items() if not k.startswith(f"{key}[")}
    return LoadedPolicy(shipped.policy.overlaid(own), file, {**merged, **lines})


def default_policy() -> LoadedPolicy:
    """Give the process-wide policy: `load_policy` without an argument, read once per path."""
    return _default(variable("QUANTMUX_PLUGINS"))


@cache
def _default(path: str | None) -> LoadedPolicy:
    return _shipped() if path is None else load_policy(path)


@cache
def _shipped() -> LoadedPolicy:
    data = resources.files("quantmux").joinpath(SHIPPED).read_bytes()
    policy, lines = parse_policy(_decode(data, SHIPPED), SHIPPED)
    return LoadedPolicy(policy, None, lines)


def _decode(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"{name}, line {line}: not UTF-8 text", hint="TOML files are UTF-8"
        ) from None


def parse_policy(text: str, name: str) -> tuple[Policy, dict[str, Where]]:
    """Build a policy from the text of a plugins.toml.

    Args:
        text: TOML.
        name: File name for errors and origins.

    Returns:
        The policy with only the keys that the text gives, and the places of its values.

    Raises:
        ConfigError: Broken TOML, an unknown key, a wrong type, an impossible value, or a schema
            this version does not read.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        at = _AT_LINE.search(message)
        line = int(at[1]) if at else max(len(text.splitlines()), 1)
        raise ConfigError(
            f"{name}, line {line}: not valid TOML",
            facts=[_AT_LINE.sub("", message)],
            code="toml",
        ) from None
    return _Reader(text, name).read(data)


class _Reader:
    """Checks one file section by section, so that every error knows its line."""

    def __init__(self, text: str, name: str) -> None:
        self._index = LineIndex(text)
        self._name = name
        self._lines: dict[str, Where] = {}

    def read(self, data: dict[str, Any]) -> tuple[Policy, dict[str, Where]]:
        self._known_keys(data, _SECTIONS, (), "the file")
        self._check_schema(data)
        given = self._choices(self._table(data, "policy"), CHOICES, Policy, ("policy",), "[policy]")
        plugins = self._table(data, "plugins")
        if plugins:
            given["plugins"] = {name: self._plugin(name, table) for name, table in plugins.items()}
        if "rule" in data:
            given["rules"] = self._rules(data["rule"])
        return Policy(**given), self._lines

    def _check_schema(self, data: dict[str, Any]) -> None:
        schema = data.get("schema")
        if schema == SCHEMA and not isinstance(schema, bool):
            return
        found = "is missing" if schema is None else f"is {schema!r}"
        raise ConfigError(
            f"{self._where(('schema',)).prefix}: schema {found}",
            facts=[f"this version of quantmux reads schema = {SCHEMA}"],
            hint=f"write schema = {SCHEMA} at the top of the file"
            if schema is None
            else "take a quantmux that reads it, or rewrite the file",
            code="schema",
        )

    def _table(self, data: dict[str, Any], key: str) -> dict[str, Any]:
        table = data.get(key, {})
        if not isinstance(table, dict):
            raise ConfigError(
                f"{self._where((key,)).prefix}: {key} is a table, found {table!r}",
                hint=f"write [{key}] on a line of its own",
            )
        return table

    def _choices(
        self,
        table: dict[str, Any],
        known: tuple[str, ...],
        model: type[Partial],
        path: KeyPath,
        title: str,
    ) -> dict[str, Any]:
        self._known_keys(table, known, path, title)
        given: dict[str, Any] = {}
        for key, value in table.items():
            here = (*path, key)
            if key == "fallback" and isinstance(value, dict):
                stages = tuple(FallbackPolicy.model_fields)
                inner = f"{title[:-1]}.fallback]" if title == "[policy]" else f"{title} fallback"
                given[key] = FallbackPolicy(
                    **self._choices(value, stages, FallbackPolicy, here, inner)
                )
                continue
            try:
                given[key] = getattr(model(**{key: value}), key)
            except ConfigError as error:
                raise self._at(error, here, f"{title}.{key}") from None
            self._note(here)
            for item in value if isinstance(value, list) else ():
                self._note(here, str(item))
        return given

    def _plugin(self, name: str, table: Any) -> PluginSettings:
        path: KeyPath = ("plugins", name)
        title = f"[plugins.{name}]"
        if not isinstance(table, dict):
            raise ConfigError(
                f"{self._where(path).prefix}: plugins.{name} is a table, found {table!r}",
                hint=f"write {title} on a line of its own",
            )
        self._note(path)
        known = tuple(PluginSettings.model_fields)
        settings = PluginSettings(**self._choices(table, known, PluginSettings, path, title))
        try:
            Policy(plugins={name: settings})
        except ConfigError as error:
            raise self._at(error, path, title) from None
        return settings

    def _rules(self, rules: Any) -> tuple[Rule, ...]:
        if not isinstance(rules, list) or not all(isinstance(r, dict) for r in rules):
            raise ConfigError(
                f"{self._where(('rule',)).prefix}: rule is not a list of tables",
                hint="begin each rule with [[rule]] on a line of its own",
            )
        found = []
        for index, table in enumerate(rules):
            path: KeyPath = ("rule", index)
            title = f"[[rule]] {index + 1}"
            self._note(path)
            given = self._choices(table, (*MATCHERS, *CHOICES), Rule, path, title)
            if not any(key in CHOICES for key in given):
                raise ConfigError(
                    f"{self._where(path).prefix}: {title} sets nothing",
                    facts=["settings: " + ", ".join(CHOICES)],
                    hint="delete it, or give it a setting",
                )
            found.append(Rule(**given))
        return tuple(found)

    def _known_keys(
        self, table: dict[str, Any], known: tuple[str, ...], path: KeyPath, title: str
    ) -> None:
        for key in table:
            if key in known:
                continue
            near = closest(key, known)
            raise ConfigError(
                f'{self._where((*path, key)).prefix}: {title} has no key "{key}"',
                facts=["known keys: " + ", ".join(known)],
                hint=f'did you mean "{near}"?' if near else None,
                code="unknown_key",
            )

    def _at(self, error: ConfigError, path: KeyPath, title: str) -> ConfigError:
        where = self._where(path)
        headline = error.headline
        facts = list(error.facts)
        if headline.endswith("is not valid") and facts:
            # as_config_error's form: the one field is in the title already
            headline, *facts = (fact.partition(": ")[2] for fact in facts)
        return ConfigError(
            f"{where.prefix}: {title}: {headline}", facts=facts, hint=error.hint, code=error.code
        )

    def _where(self, path: KeyPath, containing: str | None = None) -> Where:
        return Where(self._name, self._index.line(path, containing))

    def _note(self, path: KeyPath, item: str | None = None) -> None:
        key = ".".join(str(part) for part in path)
        self._lines[key if item is None else f"{key}[{item}]"] = self._where(path, item)
