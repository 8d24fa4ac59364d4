"""Kernels for the tests of the engine: they do what the test tells them to."""

from quantmux import BackendInfo, Capability, KernelSpec, OperandOffer, hookimpl, operand
from quantmux.ops.quantize.reference import quantize


class Told:
    """The right kernel, unless ``fault`` is set."""

    fault = None

    def bind(self, config, device):
        del device

        def run(x, *, scale=None, global_scale=None, out=None):
            if Told.fault is not None:
                raise Told.fault
            return quantize(x, config, scale=scale, global_scale=global_scale, out=out)

        return run

    def warmup(self, config, ms):
        pass


KERNEL = Told()


class Plugin:
    """A backend ``told`` of one kernel."""

    def __init__(self, **changes):
        self.changes = {"arch": "cpu", "tags": frozenset({"composite"}), **changes}

    @hookimpl
    def quantmux_backend(self):
        return BackendInfo(name="told", version="1", api=">=1.0,<2")

    @hookimpl
    def quantmux_kernels(self):
        token = OperandOffer.of(operand("fp8_token"), ("row_major",))
        capability = Capability(**{"produces": (token,), **self.changes})
        yield KernelSpec(
            id="told/token",
            op="quantize",
            capability=capability,
            load="kernels_under_test:KERNEL",
            sources=("kernels_under_test.py",),
        )
