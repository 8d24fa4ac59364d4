"""Plugins of all kinds: objects for the contract, real installed packages for discovery."""

from __future__ import annotations

import importlib
import sys
import textwrap

import pytest

from quantmux.capability import Capability, OperandOffer
from quantmux.config import operand
from quantmux.registry import BackendInfo, KernelSpec, hookimpl

PLUGIN = """
from quantmux.capability import Capability, OperandOffer
from quantmux.config import operand
from quantmux.registry import BackendInfo, BackendStatus, KernelSpec, hookimpl

def kernel(stem, backend="{name}"):
    offer = OperandOffer.of(operand("fp8_token"), ("row_major",))
    return KernelSpec(
        f"{{backend}}/{{stem}}", "quantize", Capability(arch="any", produces=(offer,)),
        "{module}:KERNEL",
    )

@hookimpl
def quantmux_backend():
    return BackendInfo("{name}", "1.2.3", summary="for tests")

@hookimpl
def quantmux_kernels():
    return (kernel("one"), kernel("two"))
"""


def make_kernel(stem="one", backend="acme", **fields):
    offer = OperandOffer.of(operand("fp8_token"), ("row_major",))
    capability = Capability(arch="any", produces=(offer,))
    data = {
        "id": f"{backend}/{stem}",
        "op": "quantize",
        "capability": capability,
        "load": "nowhere:KERNEL",
        **fields,
    }
    return KernelSpec(**data)


class Plugin:
    """A plugin that keeps the contract; tests override what they need."""

    name = "acme"
    info = None
    kernels = None

    @hookimpl
    def quantmux_backend(self):
        return BackendInfo(self.name, "1.0") if self.info is None else self.info

    @hookimpl
    def quantmux_kernels(self):
        return [make_kernel(backend=self.name)] if self.kernels is None else self.kernels


@pytest.fixture
def plugin():
    """Give a plugin object with some answers and hooks replaced."""

    def building(name="acme", **members):
        made = type("Made", (Plugin,), {"name": name})()
        for key, value in members.items():
            if key.startswith("quantmux_"):
                setattr(type(made), key, hookimpl(value))
            else:
                setattr(made, key, value)
        return made

    return building


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package that declares a plugin: real files, real metadata, found as any other.

    The text is the module's; ``more`` is appended to a plugin that keeps the contract.
    """
    root = tmp_path / "site-packages"
    root.mkdir()
    monkeypatch.syspath_prepend(str(root))
    modules = set(sys.modules)

    def installing(name, text=None, *, more="", distribution=None, module=None):
        distribution = distribution or f"quantmux-{name}"
        module = module or distribution.replace("-", "_")
        body = PLUGIN.format(name=name, module=module) if text is None else text
        (root / f"{module}.py").write_text(body + textwrap.dedent(more))
        info = root / f"{distribution.replace('-', '_')}-9.9.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 9.9\n"
        )
        (info / "entry_points.txt").write_text(f"[quantmux.backends]\n{name} = {module}\n")
        importlib.invalidate_caches()
        # another test of this process may have imported a module of that name
        monkeypatch.delitem(sys.modules, module, raising=False)
        return module

    yield installing
    for name in set(sys.modules) - modules:
        if name.startswith("quantmux_"):
            del sys.modules[name]
