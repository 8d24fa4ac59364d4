"""The files of a package as syntax trees, read once each and never run."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Definition = ast.FunctionDef | ast.ClassDef
Scope = dict[str, "Definition | ast.expr | Reexport"]


class Reexport:
    """A name that a module takes from another one of the package."""

    __slots__ = ("module", "name")

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name


class Sources:
    """The modules of one package, as what their names stand for.

    Args:
        folder: The package's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.package = folder.name
        self.files: dict[str, Path] = {}
        self._scopes: dict[str, Scope] = {}
        self._stars: dict[str, list[str]] = {}

    def file_of(self, module: str) -> Path | None:
        """Give the file of a module of the package: ``x/__init__.py``, else ``x.py``."""
        parts = module.split(".")
        if parts[0] != self.package:
            return None
        path = self.folder.joinpath(*parts[1:])
        beside = path.with_suffix(".py") if len(parts) > 1 else None
        for file in (path / "__init__.py", beside):
            if file is not None and file.is_file():
                return file
        return None

    def scope(self, module: str) -> Scope:
        """Give what the names of a module stand for; {} where it cannot be read or parsed."""
        if module not in self._scopes:
            self._scopes[module] = {}
            file = self.file_of(module)
            if file is not None:
                self.files[module] = file
                self._scopes[module] = self._read(module, file)
        return self._scopes[module]

    def find(self, module: str, name: str) -> tuple[str, Definition | ast.expr] | None:
        """Follow a name to the module that defines it, and what it is there.

        Returns:
            The module and the definition or the assigned expression; None where the name ends
            nowhere in the package.
        """
        seen: set[tuple[str, str]] = set()
        waiting = [(module, name)]
        while waiting:
            here = waiting.pop(0)
            if here in seen:
                continue
            seen.add(here)
            found = self.scope(here[0]).get(here[1])
            if isinstance(found, Reexport):
                waiting.append((found.module, found.name))
            elif isinstance(found, ast.Name):  # one function under two names
                waiting.append((here[0], found.id))
            elif found is not None:
                return here[0], found
            else:
                waiting += [(star, here[1]) for star in self._stars.get(here[0], ())]
        return None

    def _read(self, module: str, file: Path) -> Scope:
        try:
            tree = ast.parse(file.read_bytes())
        except (OSError, SyntaxError, ValueError):
            return {}
        package = module if file.name == "__init__.py" else module.rpartition(".")[0]
        scope: Scope = {}
        for node in _statements(tree.body):
            if isinstance(node, Definition):
                scope[node.name] = node
            elif isinstance(node, ast.Assign):
                scope |= {t.id: node.value for t in node.targets if isinstance(t, ast.Name)}
            elif isinstance(node, ast.AnnAssign) and node.value is not None:
                if isinstance(node.target, ast.Name):
                    scope[node.target.id] = node.value
            elif isinstance(node, ast.ImportFrom):
                self._imported(node, module, package, scope)
        return scope

    def _imported(self, node: ast.ImportFrom, module: str, package: str, scope: Scope) -> None:
        base = node.module or ""
        if node.level:
            parts = package.split(".")
            above = ".".join(parts[: len(parts) - node.level + 1])
            base = f"{above}.{base}" if base else above
        if base.split(".")[0] != self.package:
            return
        for alias in node.names:
            if alias.name == "*":
                self._stars.setdefault(module, []).append(base)
            else:
                scope[alias.asname or alias.name] = Reexport(base, alias.name)


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Walk the statements of a module, those in ``try``, ``if`` and ``with`` too."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.With | ast.Try):
            yield from _statements(node.body)
        if isinstance(node, ast.If | ast.Try):
            yield from _statements(node.orelse)
        if isinstance(node, ast.Try):
            for handler in node.handlers:
                yield from _statements(handler.body)
