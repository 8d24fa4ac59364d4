"""sources: what a kernel is made of is what its digest covers.

Evidence and quarantine hold for a digest. A file that the kernel imports and does not declare may
change without either of them noticing.
"""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from quantmux.testing.answers import agrees, fails, not_here
from quantmux.testing.cell import Cell

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux.testing.cell import Outcome
    from quantmux.testing.stage import Stage

ALWAYS: Final = True


def cells(spec: KernelSpec, stage: Stage, small_only: bool) -> Iterator[Cell]:
    """Give the one cell of the kernel."""
    del stage, small_only
    yield Cell(spec.id, "sources", "import closure")


def run(cell: Cell, stage: Stage) -> Outcome:
    """Compare the declared sources with the files that the kernel's module imports."""
    spec = stage.spec(cell.kernel)
    folder = stage.registry.folder(spec.backend)
    if folder is None:
        return not_here("the plugin is not in files", "sources")
    absent = [name for name in spec.sources if not (folder / name).is_file()]
    if absent:
        return fails(f"declared and absent: {', '.join(absent)}", "sources")
    module = spec.load.partition(":")[0]
    file = _file_of(module)
    if file is None or not file.is_relative_to(folder):
        return not_here(f"{module} is not in the plugin's package", "sources")
    read = import_closure(module, folder)
    if spec.veto is not None:
        # what it refuses was never run: changed, it lets through what nothing has been shown of
        read |= import_closure(spec.veto.__module__, folder)
    used = {f.relative_to(folder).as_posix() for f in read}
    missing = sorted(used - set(spec.sources))
    if missing:
        return fails(f"imported and not among its sources: {', '.join(missing)}", "sources")
    return agrees()


def import_closure(module: str, folder: Path) -> frozenset[Path]:
    """Give the files under a folder that importing a module can read, imports in functions too.

    Imports for type checkers only, and packages' ``__init__`` files that do nothing, are left out.
    """
    found: set[Path] = set()
    waiting = [module]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        file = _file_of(name)
        if file is None or not file.is_relative_to(folder):
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        if file.name != "__init__.py" or _does_something(tree):
            found.add(file)
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        waiting += _imported(tree, package)
        waiting.append(name.rpartition(".")[0])
    return frozenset(found)


def _imported(tree: ast.AST, package: str) -> Iterator[str]:
    """Give the names of modules that may be imported; some are attributes of modules instead."""
    for node in _running(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                above = ".".join(parts[: len(parts) - node.level + 1])
                base = f"{above}.{base}" if base else above
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    """Walk the code that can run: not what stands under ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            for other in child.orelse:
                yield other
                yield from _running(other)
            continue
        yield child
        yield from _running(child)


def _does_something(tree: ast.Module) -> bool:
    return any(
        not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        and not (isinstance(node, ast.ImportFrom) and node.module == "__future__")
        for node in tree.body
    )


def _file_of(module: str) -> Path | None:
    if not module:
        return None
    try:
        found = find_spec(module)
    except (ImportError, ValueError, AttributeError):
        return None  # a name in a module, no module
    origin = None if found is None else found.origin
    return Path(origin) if origin and origin.endswith(".py") else None
