"""What `import quantmux` offers: exported once, each name to be had, none left out."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import quantmux as qm

INTERFACE = {
    "InverseRopeQuantizeConfig",
    "Linear",
    "LinearConfig",
    "LinearWeights",
    "QuantizeConfig",
    "QuantizedTensor",
    "RmsNormQuantizeConfig",
    "RopeQuantizeConfig",
    "SiluMulQuantizeConfig",
    "calibrate",
    "explain",
    "inverse_rope_quantize",
    "plan",
    "policy",
    "quantize",
    "quantize_",
    "rmsnorm_quantize",
    "rope_quantize",
    "select",
    "shared_input",
    "silu_mul_quantize",
    "stats",
}


def test_all_is_the_exports_and_nothing_else() -> None:
    assert set(qm.__all__) == {"__version__", *qm._EXPORTS, *qm._ROOMS}
    assert len(qm.__all__) == len(set(qm.__all__))


def test_the_promised_interface_is_exported() -> None:
    assert set(qm.__all__) >= INTERFACE


@pytest.mark.parametrize("name", qm.__all__)
def test_every_public_name_can_be_had(name: str) -> None:
    assert getattr(qm, name) is not None


def test_type_checkers_see_every_public_name() -> None:
    tree = ast.parse(Path(qm.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname or alias.name
        for node in ast.walk(block)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen | {"__version__"} == set(qm.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        qm.nonsense  # noqa: B018 - the access is the test


def test_public_functions_and_classes_have_docstrings() -> None:
    bare = [
        name
        for name in qm.__all__
        if callable(getattr(qm, name)) and not (getattr(qm, name).__doc__ or "").strip()
    ]
    assert bare == []
