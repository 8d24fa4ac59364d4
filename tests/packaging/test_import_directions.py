"""Imports point downward only: read from the syntax trees, so that nothing has to be importable."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

ROOMS = (
    "config",
    "capability",
    "registry",
    "dispatch",
    "ops",
    "runtime",
    "layers",
    "checkpoint",
    "compile",
    "testing",
    "bench",
    "cli",
)
# The front door's functions (api) and the lazy face, `quantmux` itself, lie on top of what they
# offer and below what uses them.
FACE = "<face>"
ORDER = (
    "errors",
    "_version",
    *ROOMS[: ROOMS.index("testing")],
    "api",
    FACE,
    *ROOMS[ROOMS.index("testing") :],
    "__main__",
)
FOR_EVERYBODY = {"errors", "_version"}

# A type-only import executes nothing, but still says who knows whom. Each pair has its reason.
UPWARD_TYPES = {
    ("registry", "ops"): "the kernel protocol names the values that kernels hand to each other",
}

# What a config, a laptop or a plugin list must never need.
HEAVY = {"torch", "triton"}
WITHOUT_TORCH = {"config", "capability", "registry", "dispatch"}
CONFIG_MAY_IMPORT = sys.stdlib_module_names | {"pydantic", "pydantic_core"}
# The library behind each backend, however its modules are called.
NOT_IN_A_PLUGIN_MODULE = HEAVY | {"flashinfer", "cutlass", "cutlass_library", "cutlass_cppgen"}


@dataclass(frozen=True)
class Import:
    name: str  # dotted; for `from a import b` it is a.b, b being a module or a name in one
    line: int
    types_only: bool
    at_module_level: bool

    @property
    def top(self) -> str:
        return self.name.partition(".")[0]


def _says_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _names(node: ast.AST, package: str) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=module, names=names, level=level):
            base = module or ""
            if level:
                parents = package.split(".")
                base = ".".join(parents[: len(parents) - level + 1] + ([module] if module else []))
            return [f"{base}.{alias.name}" for alias in names]
        # import_module("…") with a literal is an import by another spelling
        case ast.Call(
            func=ast.Name(id="import_module") | ast.Attribute(attr="import_module"),
            args=[ast.Constant(value=str(name)), *_],
        ):
            return [name]
    return []


def imports(source: str, package: str) -> Iterator[Import]:
    """Every import in a module of `package`, wherever it stands."""

    def walk(node: ast.AST, *, types_only: bool, at_module_level: bool) -> Iterator[Import]:
        for name in _names(node, package):
            yield Import(name, node.lineno, types_only, at_module_level)
        inner = at_module_level and not isinstance(
            node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
        )
        for field, value in ast.iter_fields(node):
            guarded = types_only or (
                isinstance(node, ast.If) and field == "body" and _says_type_checking(node.test)
            )
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from walk(child, types_only=guarded, at_module_level=inner)

    yield from walk(ast.parse(source), types_only=False, at_module_level=True)


def _place(parts: tuple[str, ...]) -> str:
    """The room, or top-level module, that a path below quantmux/ or a dotted name belongs to."""
    return parts[0] if parts and parts[0] in ORDER else FACE


def _core_violations(place: str, found: Import) -> Iterator[str]:
    if found.top.startswith("quantmux_"):
        yield f"core imports the backend {found.name}"
    if (
        place in WITHOUT_TORCH
        and found.top in HEAVY
        and not (found.types_only and found.top == "torch")
    ):
        yield f"{place} imports {found.name}"
    foreign = found.top not in CONFIG_MAY_IMPORT | {"quantmux"}
    if place == "config" and foreign and not found.types_only:
        yield f"config imports {found.name}; it stands on pydantic and the standard library"
    if found.top != "quantmux":
        return
    target = _place(tuple(found.name.split(".")[1:]))
    if target in FOR_EVERYBODY or target == place:
        return
    # The face is lazy: its functions may reach every room, its module level none.
    if place == FACE and (found.types_only or not found.at_module_level):
        return
    if found.types_only and (place, target) in UPWARD_TYPES:
        return
    if place == FACE or ORDER.index(target) > ORDER.index(place):
        yield f"{place} imports {target} ({found.name})"


def violations(root: Path) -> list[str]:
    """Every import in `root`/core and `root`/backends that points the wrong way."""
    bad = []
    for path in sorted(root.glob("core/quantmux/**/*.py")):
        below = path.relative_to(root / "core/quantmux").with_suffix("")
        package = ".".join(("quantmux", *below.parts[:-1]))
        if len(below.parts) == 1 and below.name not in {*ORDER, "__init__"}:
            bad.append(f"{path.relative_to(root)}: lies in no room")
        place = _place(below.parts)
        bad += [
            f"{path.relative_to(root)}:{found.line}: {text}"
            for found in imports(path.read_text(encoding="utf-8"), package)
            for text in _core_violations(place, found)
        ]
    for path in sorted(root.glob("backends/*/quantmux_*/plugin.py")):
        bad += [
            f"{path.relative_to(root)}:{found.line}: a plugin module imports {found.name}"
            for found in imports(path.read_text(encoding="utf-8"), path.parent.name)
            if found.at_module_level and not found.types_only
            if found.top in NOT_IN_A_PLUGIN_MODULE
        ]
    return bad


def test_imports_point_downward():
    assert list(ROOT.glob("core/quantmux/**/*.py")), "nothing to check"
    bad = violations(ROOT)
    assert not bad, "\n".join(bad)


def test_every_folder_of_the_core_is_a_room():
    folders = {path.parent.name for path in ROOT.glob("core/quantmux/*/*.py")}
    assert folders <= set(ROOMS)


@pytest.mark.parametrize(
    ("path", "source", "said"),
    [
        ("core/quantmux/config/a.py", "from quantmux.dispatch import b", "config imports dispatch"),
        ("core/quantmux/config/a.py", "from ..dispatch import b", "config imports dispatch"),
        ("core/quantmux/config/a.py", "from quantmux import ops", "config imports ops"),
        ("core/quantmux/ops/a.py", "import quantmux", "ops imports <face>"),
        ("core/quantmux/ops/x/a.py", "from quantmux import Linear", "ops imports <face>"),
        ("core/quantmux/config/a.py", "import numpy", "config imports numpy"),
        ("core/quantmux/dispatch/a.py", "def f():\n import torch", "dispatch imports torch"),
        ("core/quantmux/registry/a.py", "import torch.nn", "registry imports torch.nn"),
        (
            "core/quantmux/capability/a.py",
            "if TYPE_CHECKING:\n import triton",
            "capability imports triton",
        ),
        (
            "core/quantmux/capability/a.py",
            "if TYPE_CHECKING:\n pass\nelse:\n import torch",
            "capability imports torch",
        ),
        ("core/quantmux/cli/a.py", "def f():\n import quantmux_triton.x", "core imports the back"),
        (
            "core/quantmux/cli/a.py",
            "importlib.import_module('quantmux_torch')",
            "core imports the back",
        ),
        ("core/quantmux/__init__.py", "from quantmux.layers import Linear", "<face> imports layer"),
        ("core/quantmux/errors.py", "from quantmux.config import Operand", "errors imports config"),
        ("core/quantmux/helpers.py", "", "lies in no room"),
        ("backends/a/quantmux_a/plugin.py", "import torch", "a plugin module imports torch"),
        ("backends/a/quantmux_a/plugin.py", "try:\n import flashinfer.x\nfinally:\n pass", "flash"),
    ],
)
def test_sees_an_import_that_points_upward(tmp_path, path, source, said):
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(source)
    (found,) = violations(tmp_path)
    assert said in found


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("core/quantmux/config/a.py", "import re, pydantic\nfrom quantmux.errors import E"),
        ("core/quantmux/config/a.py", "from . import b\nfrom quantmux.config.c import d"),
        ("core/quantmux/runtime/a.py", "import torch\nfrom quantmux.ops import b"),
        ("core/quantmux/registry/a.py", "if typing.TYPE_CHECKING:\n import torch"),
        ("core/quantmux/registry/a.py", "if TYPE_CHECKING:\n from quantmux.ops.q import Q"),
        ("core/quantmux/cli/a.py", "import quantmux\nfrom quantmux import Linear"),
        ("core/quantmux/cli/a.py", "from quantmux._version import __version__"),
        ("core/quantmux/__init__.py", "def __getattr__(n):\n from quantmux.layers import Linear"),
        ("backends/a/quantmux_a/plugin.py", "def probe():\n import torch"),
        ("backends/a/quantmux_a/kernel.py", "import torch, triton"),
    ],
)
def test_accepts_an_import_that_points_downward(tmp_path, path, source):
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(source)
    assert violations(tmp_path) == []
