"""What the digest of a kernel depends on, and what it does not: evidence is worth as much."""

import itertools

import pytest

import quantmux as qm
from quantmux.capability.arch import ArchSet
from quantmux.capability.capability import Capability, Needs, OperandOffer, SchemeOffer
from quantmux.config.operands import Block
from quantmux.registry.digest import kernel_digest

FP8 = qm.OperandOffer.of(qm.operand("fp8_block128"), ("row_major",))
GROUP = qm.OperandOffer.of(
    qm.operand("fp8_group128"), ("col_major", "row_major"), roundings=("none", "pow2")
)
FULL = qm.Capability(
    arch=("90a", "100f"),
    schemes=(SchemeOffer(weight=FP8, activation=GROUP),),
    align_n=16,
    takes_bias=True,
    accumulations=("fast", "exact"),
    needs=(
        qm.Needs(kind="package", name="torch", version=">=2.8"),
        qm.Needs(kind="tool", name="nvcc"),
    ),
    tags={"deterministic", "cuda_graph", "experimental"},
    rel_tolerance=0.01,
)


def spec(capability=FULL, sources=(), **changes):
    given = {"id": "acme/one", "op": "linear", "load": "acme.one:KERNEL", "version": "1.2"}
    return qm.KernelSpec(**{**given, **changes}, capability=capability, sources=sources)


class Later(Capability):
    """`Capability` as a later version may have it."""

    brand_new: int = 7


def later(**changes):
    return Later(**{name: getattr(FULL, name) for name in Capability.model_fields}, **changes)


def test_is_the_same_on_every_version_of_python_and_pydantic():
    """Recorded evidence carries these digits. If this fails, all of it has become stale."""
    assert kernel_digest(spec(), None) == "2d1749b65381cade"


def test_a_field_that_a_later_version_adds_changes_nothing():
    assert later().brand_new == 7
    assert kernel_digest(spec(later()), None) == kernel_digest(spec(), None)


def test_a_kernel_that_sets_the_added_field_changes():
    assert kernel_digest(spec(later(brand_new=8)), None) != kernel_digest(spec(), None)


def test_spelling_a_default_out_changes_nothing():
    bare = Capability(arch="90a", schemes=FULL.schemes)
    spelled = bare.replace(align_n=1, tags=set(), m_max=None, in_dtypes=("bf16", "fp16"))
    assert kernel_digest(spec(bare), None) == kernel_digest(spec(spelled), None)


def test_order_of_tags_and_of_listed_sources_changes_nothing(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text(name)
    other = FULL.replace(tags={"experimental", "cuda_graph", "deterministic"})
    one = kernel_digest(spec(sources=("a", "b")), tmp_path)
    assert kernel_digest(spec(other, sources=("b", "a")), tmp_path) == one


OTHERS = {
    "arch": {"arch": ("90a",)},
    "bias": {"takes_bias": False},
    "align": {"align_n": 8},
    "back to the default": {"align_n": 1},
    "tags": {"tags": {"deterministic"}},
    "needs": {"needs": ()},
    "tolerance": {"rel_tolerance": None},
    "nested": {"schemes": (SchemeOffer(weight=FP8, activation=GROUP.replace(eps=1e-12)),)},
    "nested to the default": {"schemes": (SchemeOffer(weight=FP8),)},
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS.keys())
def test_every_change_of_the_capability_changes_it(change):
    assert kernel_digest(spec(FULL.replace(**change)), None) != kernel_digest(spec(), None)


@pytest.mark.parametrize(
    "change", [{"id": "acme/two"}, {"op": "quantize"}, {"load": "acme.two:KERNEL"}, {"version": ""}]
)
def test_every_change_of_the_spec_changes_it(change):
    assert kernel_digest(spec(**change), None) != kernel_digest(spec(), None)


def test_content_name_and_boundaries_of_sources_change_it(tmp_path):
    trees = {
        "plain": {"a": b"x", "b": b"y"},
        "content": {"a": b"x", "b": b"z"},
        "empty": {"a": b"", "b": b"y"},
        "gone": {"a": b"x"},
        "says missing": {"a": b"x", "b": b"missing"},
        "moved": {"a": b"y", "b": b"x"},
        "run together": {"a": b"xb\0y", "b": b""},
    }
    found = {}
    for name, files in trees.items():
        folder = tmp_path / name
        folder.mkdir()
        for file, content in files.items():
            (folder / file).write_bytes(content)
        found[name] = kernel_digest(spec(sources=("a", "b")), folder)
    found["not listed"] = kernel_digest(spec(sources=("a",)), tmp_path / "plain")
    found["not in files"] = kernel_digest(spec(sources=("a", "b")), None)
    for one, other in itertools.combinations(found, 2):
        assert found[one] != found[other], (one, other)


DEFAULTS = {
    Capability: {
        "produces": (),
        "schemes": (),
        "relayouts": (),
        "takes_padded_n": False,
        "takes_padded_m": False,
        "align_n": 1,
        "align_k": 1,
        "pad_n_to": 1,
        "pad_k_to": 1,
        "pad_m_to": 1,
        "m_min": 1,
        "m_max": None,
        "m_multiple": 1,
        "in_dtypes": ("bf16", "fp16"),
        "out_dtypes": ("bf16", "fp16"),
        "takes_bias": False,
        "accumulations": ("fast",),
        "output_row_multiple": 8,
        "weight_layout": "canonical",
        "canonical_if_aligned": False,
        "launches": None,
        "needs": (),
        "tags": frozenset(),
        "is_reference": False,
        "compute": "native",
        "rel_tolerance": None,
    },
    OperandOffer: {
        "scale_type": "fp32",
        "roundings": ("none",),
        "scale_modes": ("dynamic",),
        "global_scales": ("none",),
        "any_eps": True,
        "eps": 1e-10,
        "takes_scale_ub": True,
    },
    SchemeOffer: {"activation": None, "quantizes_inside": False},
    Needs: {"version": "", "import_name": None, "install": None},
    ArchSet: {},
    Block: {},
}


@pytest.mark.parametrize("model", DEFAULTS, ids=lambda model: model.__name__)
def test_no_default_changes_ever(model):
    """A default that changes would change what a kernel offers behind an unchanged digest.

    A new field is added to this table with the meaning that kernels without it had.
    """
    fields = model.model_fields
    assert all(info.default_factory is None for info in fields.values())
    found = {name: info.default for name, info in fields.items() if not info.is_required()}
    assert found == DEFAULTS[model]
