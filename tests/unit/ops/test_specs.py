"""Op specs: complete, lazily built, and with cases that say something."""

import subprocess
import sys

import pytest
import torch

from quantmux.capability.capability import OPS
from quantmux.config import parse_layer_config
from quantmux.errors import ConfigError
from quantmux.ops import spec as spec_module
from quantmux.ops.inputs import KINDS, make_matrix
from quantmux.ops.quantized import QuantizedTensor
from quantmux.ops.spec import OP_NAMES, OP_SPECS, op_spec


def test_every_op_of_the_contract_has_a_specification():
    assert set(OP_NAMES) == set(OPS)
    assert list(OP_SPECS) == list(OP_NAMES)
    assert all(op_spec(name).name == name for name in OP_NAMES)


def test_an_unknown_op_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match="no op") as error:
        op_spec("quantise")
    assert 'did you mean "quantize"' in error.value.hint
    with pytest.raises(AttributeError):
        spec_module.NOTHING  # noqa: B018


def test_importing_the_specs_builds_none():
    code = "import sys, quantmux.ops.spec; print([m for m in sys.modules if m.endswith('.cases')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", OP_NAMES)
def test_cases_are_unique_explained_and_begin_with_no_rows(name):
    cases = op_spec(name).cases()
    assert cases[0].m == 0
    assert not cases[-1].is_small
    assert len({(c.config, c.m, c.kind, c.magnitude) for c in cases}) == len(cases)
    assert all(c.source for c in cases)
    assert all(c.config.op == name for c in cases)
    assert all(str(c.m) in str(c) for c in cases)


@pytest.mark.parametrize("name", OP_NAMES)
def test_configs_of_cases_survive_json(name):
    for config in {c.config for c in op_spec(name).cases()}:
        assert parse_layer_config(config.model_dump_json()) == config


@pytest.mark.parametrize("name", OP_NAMES)
def test_every_small_case_runs_and_the_fake_has_its_shape_strides_and_dtype(name):
    spec = op_spec(name)
    for case in spec.cases():
        if not case.is_small:
            continue
        call = spec.inputs(case, "cpu", 0)
        real = spec.reference(*call.args, case.config, **call.kwargs)
        fake = spec.fake(case.config, case.m)
        pairs = [(real, fake)]
        if isinstance(real, QuantizedTensor):
            real.check()
            assert fake.logical_shape == real.logical_shape
            pairs = list(zip(real.tensors(), fake.tensors(), strict=True))
        for a, b in pairs:
            assert b.device.type == "meta"
            assert (a.shape, a.stride(), a.dtype) == (b.shape, b.stride(), b.dtype)


@pytest.mark.parametrize("name", OP_NAMES)
def test_inputs_depend_on_the_seed_and_on_nothing_else(name):
    spec = op_spec(name)
    case = next(c for c in spec.cases() if c.m > 5 and c.kind == "normal")
    first, again, other = (spec.inputs(case, "cpu", seed).args[0] for seed in (1, 1, 2))
    if isinstance(first, QuantizedTensor):
        first, again, other = (q.data.view(torch.uint8) for q in (first, again, other))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_cases_of_producers_reach_every_layout_padding_and_special_matrix():
    for name in ("quantize", "silu_mul_quantize", "rmsnorm_quantize"):
        cases = [c for c in op_spec(name).cases() if c.is_small]
        layouts = {c.config.layout.scales for c in cases}
        assert len(layouts) == 7
        assert {c.kind for c in cases} >= {"zeros", "one_hot", "outliers", "nan", "inf", "mixed"}
        assert {c.magnitude for c in cases} >= {1e-8, 1e-4, 1.0, 1e4}
        for layout in layouts - {"scalar"}:
            here = [c.config for c in cases if c.config.layout.scales == layout]
            assert any(c.layout.padded_n > c.n for c in here)
            assert any(c.layout.padded_m_multiple > 1 for c in here)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_kinds_hold_what_they_say(kind, dtype):
    x = make_matrix(kind, 9, 33, dtype, magnitude=1e4, seed=1).float()
    bad = ~torch.isfinite(x)
    if kind in ("nan", "inf", "mixed"):
        assert bad.any(1).tolist() == [True, False, False] * 3
    else:
        assert not bad.any()
    if kind == "zeros":
        assert not x.any()
    elif kind == "one_hot":
        assert (x != 0).sum(1).tolist() == [1] * 9
    else:
        assert x[torch.isfinite(x)].abs().max() > 10.0


def test_an_unknown_kind_is_refused():
    with pytest.raises(ConfigError, match="no inputs of kind"):
        make_matrix("gaussian", 1, 1, "bf16")
