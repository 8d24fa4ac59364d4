import json

import pytest

from quantmux.capability import Capability, Needs, OperandOffer, SchemeOffer
from quantmux.config import operand
from quantmux.errors import ConfigError

OFFER = OperandOffer.of(operand("fp8_group128_pow2"), ("row_major", "packed_pow2"))


def test_an_offer_takes_its_fields_from_the_operand():
    assert OFFER.roundings == ("pow2",)
    assert OFFER.scale_modes == ("dynamic",)
    assert OperandOffer.of(operand("fp8_tensor_static"), ("scalar",)).scale_modes == ("static",)
    assert OperandOffer.of(operand("nvfp4"), ("row_major",), eps=1e-5, any_eps=False).eps == 1e-5


def test_round_trips_through_json_in_one_spelling():
    capability = Capability(
        arch=["90a", "100f"], produces=(OFFER,), tags={"cuda_graph", "deterministic", "composite"}
    )
    text = capability.model_dump_json()
    assert Capability.model_validate_json(text) == capability
    assert json.loads(text)["tags"] == ["composite", "cuda_graph", "deterministic"]


def test_one_architecture_may_be_written_without_brackets():
    assert Capability(arch="90a") == Capability(arch=("90a",))


def test_experimental_is_a_tag():
    assert Capability(arch="any", tags={"experimental"}).is_experimental
    assert not Capability(arch="any").is_experimental


@pytest.mark.parametrize(
    "fields",
    [
        {"m_min": 9, "m_max": 8},
        {"align_k": 0},
        {"m_min": 0},
        {"arch": ">=90"},
        {"takes_bais": True},
    ],
)
def test_refuses_data_that_is_no_capability(fields):
    with pytest.raises(ConfigError):
        Capability(**{"arch": "any", **fields})


def test_quantizing_inside_needs_the_operand_it_makes():
    with pytest.raises(ConfigError, match="quantizes_inside"):
        SchemeOffer(weight=OFFER, quantizes_inside=True)


def test_a_need_prints_as_pip_would_take_it():
    assert str(Needs(kind="package", name="torch", version=">=2.8")) == "torch>=2.8"
