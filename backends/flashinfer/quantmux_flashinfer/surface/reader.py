"""Reads what a release says of its functions: parameters, backends, compute capabilities.

The library states what it supports in decorators: ``backend_requirement`` names a check for each
backend, and ``supported_compute_capability`` before a check lists where it holds. Both are read
from the files as they stand; what is written in another way is unknown, and unknown is no yes.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Final

from quantmux_flashinfer.surface.declared import BackendChoice, Function, Parameter, Surface
from quantmux_flashinfer.surface.sources import Sources

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from quantmux_flashinfer.surface.declared import Kind

REQUIREMENT: Final = "backend_requirement"
CAPABILITIES: Final = "supported_compute_capability"
EXPERIMENTAL: Final = "experimental_backend"


def read_surface(folder: Path, functions: Iterable[str]) -> tuple[Surface, tuple[Path, ...]]:
    """Read a release.

    Args:
        folder: The folder of its package.
        functions: ``module:name`` of what to look for.

    Returns:
        What was found, and the files that it was read from.
    """
    sources = Sources(folder)
    found = {name: _function(sources, name) for name in sorted(set(functions))}
    version = _text(sources, f"{sources.package}._build_meta", "__version__") or ""
    surface = Surface(version, found, _artifacts(sources))
    return surface, tuple(sources.files.values())


def _function(sources: Sources, name: str) -> Function | None:
    module, _, attribute = name.partition(":")
    where, node = _defined(sources, module, attribute)
    if node is None:
        return None
    requirement = _call(node.decorator_list, REQUIREMENT)
    return Function(
        file=sources.files[where].relative_to(sources.folder).as_posix(),
        parameters=_parameters(node.args),
        is_gated=requirement is not None,
        backends={} if requirement is None else _backends(sources, where, requirement),
        archs=None if requirement is None else _common(sources, where, requirement),
        choices=_choices(sources, where, node.args),
    )


def _defined(sources: Sources, module: str, name: str) -> tuple[str, ast.FunctionDef | None]:
    """Give a function and the module that defines it; None where it is none."""
    where, node = sources.find(module, name) or (module, None)
    return where, node if isinstance(node, ast.FunctionDef) else None


def _parameters(given: ast.arguments) -> tuple[Parameter, ...]:
    plain = [*given.posonlyargs, *given.args]
    without = len(plain) - len(given.defaults)
    found = [Parameter(a.arg, "positional", i < without) for i, a in enumerate(plain)]
    rest: list[tuple[ast.arg | None, Kind]] = [(given.vararg, "rest"), (given.kwarg, "keywords")]
    found += [Parameter(a.arg, kind, is_required=False) for a, kind in rest[:1] if a]
    for a, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        found.append(Parameter(a.arg, "keyword", default is None))
    found += [Parameter(a.arg, kind, is_required=False) for a, kind in rest[1:] if a]
    return tuple(found)


def _backends(sources: Sources, module: str, call: ast.Call) -> dict[str, BackendChoice]:
    table = _argument(call, 0, "backend_checks")
    if isinstance(table, ast.Name):
        found = sources.find(module, table.id)
        module, table = (found[0], _expression(found[1])) if found else (module, None)
    if not isinstance(table, ast.Dict):
        return {}
    return {
        key.value: _check(sources, module, check)
        for key, check in zip(table.keys, table.values, strict=True)
        if isinstance(key, ast.Constant) and isinstance(key.value, str)
    }


def _common(sources: Sources, module: str, call: ast.Call) -> tuple[int, ...] | None:
    check = _argument(call, 1, "common_check")
    if check is None or _backends(sources, module, call):
        return None
    return _check(sources, module, check).archs


def _check(sources: Sources, module: str, check: ast.expr) -> BackendChoice:
    """Give what stands before a check."""
    if not isinstance(check, ast.Name):
        return BackendChoice(None)
    where, node = _defined(sources, module, check.id)
    if node is None:
        return BackendChoice(None)
    listed = _call(node.decorator_list, CAPABILITIES)
    archs = None
    if listed is not None:
        archs = _numbers(sources, where, _argument(listed, 0, "supported_ccs"))
    marks = [_name(decorator) for decorator in node.decorator_list]
    return BackendChoice(archs, EXPERIMENTAL in marks)


def _numbers(sources: Sources, module: str, node: ast.expr | None) -> tuple[int, ...] | None:
    if isinstance(node, ast.Name):
        found = sources.find(module, node.id)
        node = _expression(found[1]) if found else None
    if not isinstance(node, ast.List | ast.Tuple | ast.Set):
        return None
    values = [e.value if isinstance(e, ast.Constant) else None for e in node.elts]
    numbers = [value for value in values if type(value) is int]
    return tuple(sorted(set(numbers))) if len(numbers) == len(values) else None


def _choices(sources: Sources, module: str, given: ast.arguments) -> tuple[str, ...] | None:
    """Give what the annotation of ``backend`` allows: ``Literal["a", "b"]``, by name too."""
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    node: ast.expr | None = next((a.annotation for a in every if a.arg == "backend"), None)
    if isinstance(node, ast.Name):
        found = sources.find(module, node.id)
        node = _expression(found[1]) if found else None
    if not isinstance(node, ast.Subscript) or _name(node.value) != "Literal":
        return None
    items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    texts = [e.value for e in items if isinstance(e, ast.Constant) and isinstance(e.value, str)]
    return tuple(sorted(texts)) if len(texts) == len(items) else None


def _artifacts(sources: Sources) -> dict[str, str]:
    """Give the folders of precompiled machine code that the release names."""
    found = sources.find(f"{sources.package}.artifacts", "ArtifactPath")
    if found is None or not isinstance(found[1], ast.ClassDef):
        return {}
    texts: dict[str, str] = {}
    for node in found[1].body:
        target = node.target if isinstance(node, ast.AnnAssign) else None
        value = node.value if isinstance(node, ast.AnnAssign | ast.Assign) else None
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target = node.targets[0] if isinstance(node.targets[0], ast.Name) else None
        if isinstance(target, ast.Name) and isinstance(value, ast.Constant):
            texts[target.id] = str(value.value)
    return texts


def _text(sources: Sources, module: str, name: str) -> str | None:
    found = sources.find(module, name)
    value = found[1] if found else None
    return str(value.value) if isinstance(value, ast.Constant) else None


def _call(decorators: list[ast.expr], name: str) -> ast.Call | None:
    calls = [d for d in decorators if isinstance(d, ast.Call)]
    return next((call for call in calls if _name(call.func) == name), None)


def _argument(call: ast.Call, position: int, name: str) -> ast.expr | None:
    if len(call.args) > position:
        return call.args[position]
    return next((word.value for word in call.keywords if word.arg == name), None)


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Call):
        return _name(node.func)
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _expression(node: ast.AST) -> ast.expr | None:
    return node if isinstance(node, ast.expr) else None
