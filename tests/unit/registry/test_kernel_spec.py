import pytest

from quantmux.capability import Capability, OperandOffer
from quantmux.config import operand
from quantmux.errors import PluginError
from quantmux.registry.protocol import ROLE_METHODS, missing_methods

from .conftest import make_kernel

FOREIGN = OperandOffer.of(operand("fp8_token"), ("zeta:tiles",))
OWN = OperandOffer.of(operand("fp8_token"), ("acme:tiles",))


def test_a_sound_spec_passes():
    make_kernel().check("acme")
    make_kernel(capability=Capability(arch="any", produces=(OWN,))).check("acme")
    assert make_kernel().backend == "acme"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"id": "acme"}, "backend/stem"),
        ({"id": "acme/Upper"}, "backend/stem"),
        ({"id": "acme/a/b"}, "backend/stem"),
        ({"id": "zeta/one"}, "does not begin with"),
        ({"id": 3}, "id is a int"),
        ({"op": "gemm"}, "is not an op"),
        ({"op": None}, "op is a NoneType"),
        ({"load": "module.only"}, "package.module:attribute"),
        ({"load": "a b:c"}, "package.module:attribute"),
        ({"sources": "kernel.cu"}, "sources"),
        ({"sources": (1,)}, "sources"),
        ({"veto": True}, "veto is a bool"),
        ({"estimate": 3.0}, "estimate is a float"),
        ({"capability": {"arch": "any"}}, "not a Capability"),
        ({"capability": Capability(arch=())}, "arch is empty"),
        ({"capability": Capability(arch="any")}, "produces is empty"),
        ({"op": "linear"}, "schemes is empty"),
        ({"op": "relayout"}, "relayouts is empty"),
        ({"capability": Capability(arch="any", produces=(FOREIGN,))}, "belongs to another plugin"),
    ],
)
def test_a_malformed_spec_names_the_field(fields, words):
    with pytest.raises(PluginError) as caught:
        make_kernel(**fields).check("acme")
    assert words in str(caught.value)
    assert caught.value.code == "kernel_spec"
    assert caught.value.plugin == "acme"


def test_every_op_has_a_role():
    class Nothing:
        bind = 3

    for op, methods in ROLE_METHODS.items():
        assert missing_methods(op, Nothing()) == methods
