"""A backend of a third party, whose one kernel does what a test asks of it."""

# ruff: noqa: ARG002 - the arguments are the protocol's

import sys
from types import ModuleType

from quantmux.capability.capability import Capability, OperandOffer, SchemeOffer
from quantmux.config import scheme as named_scheme
from quantmux.ops.linear.reference import linear, linear_weight_only
from quantmux.registry.hookspecs import hookimpl
from quantmux.registry.kernel_spec import BackendInfo, KernelSpec
from quantmux.registry.protocol import PreparedWeights

MODULE = "quantmux_test_acme_kernels"


class WeightOnly:
    """Ignores the activation operand of the scheme."""

    def prepare(self, weights, config, device):
        return PreparedWeights({"w": weights.data}, "acme:plain", config.n, config.k)

    def compute(self, x, weights, config):
        return linear_weight_only(x, weights, config)

    def bind(self, config, prepared, device):
        weights = self.weights

        def call(x, *, out=None):
            y = self.compute(x, weights, config)
            return y if out is None else out.copy_(y)

        return call

    def warmup(self, config, ms):
        pass


class Wrong(WeightOnly):
    """Gives every element ten percent too large."""

    def compute(self, x, weights, config):
        return linear(x, weights, config) * 1.1


class Unbuildable(WeightOnly):
    def prepare(self, weights, config, device):
        raise RuntimeError("no compiler here")


def plugin(kernel, scheme, *, reads_plain):
    """Give a plugin whose kernel serves one scheme; the kernel must know its canonical weights."""
    wanted = named_scheme(scheme)
    weight = OperandOffer.of(wanted.weight, ("row_major",))
    activation = None
    if not reads_plain:
        activation = OperandOffer.of(wanted.activation, ("row_major",))
    module = ModuleType(MODULE)
    module.kernel = kernel
    sys.modules[MODULE] = module
    prepare = kernel.prepare

    def remembering(weights, config, device):
        kernel.weights = weights
        return prepare(weights, config, device)

    kernel.prepare = remembering
    spec = KernelSpec(
        id="acme/gemm",
        op="linear",
        load=f"{MODULE}:kernel",
        capability=Capability(
            arch=("any",),
            schemes=(SchemeOffer(weight=weight, activation=activation),),
            takes_bias=True,
            weight_layout="acme:plain",
        ),
    )
    return Plugin(spec)


class Plugin:
    __name__ = "acme"

    def __init__(self, spec):
        self._spec = spec

    @hookimpl
    def quantmux_backend(self):
        return BackendInfo(name="acme", version="1.0")

    @hookimpl
    def quantmux_kernels(self):
        return (self._spec,)
