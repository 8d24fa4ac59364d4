"""Bad input of a linear: every kernel of the backend refuses it in words, before anything runs.

Each kernel is its own object with its own preparation, rows and choice of M; only its library is
the host's (conftest.py), which is as strict as the real ones. What concerns files (a library that
is truncated, of another version, two builds at once, a full disk) is in ``build/``; here is what a
layer makes of it: the next kernel serves. Bad input of the quantizers: test_nvfp4_quantize_host.py.
"""

import importlib
import sys
import types
from dataclasses import replace

import pytest
import torch

from quantmux.capability.detect import HERE_CPU
from quantmux.capability.profiles import PROFILES
from quantmux.config import LinearConfig, QuantizeConfig
from quantmux.config.settings import Policy, Settings
from quantmux.dispatch.eligible import judge
from quantmux.dispatch.inventory import Inventory
from quantmux.dispatch.join import input_of
from quantmux.errors import (
    BuildError,
    ConfigError,
    DtypeError,
    InputError,
    LaunchError,
    LayoutError,
    ShapeError,
)
from quantmux.ops.linear.reference import linear
from quantmux.ops.linear.weights import quantize_weight
from quantmux.ops.quantize.reference import quantize
from quantmux.registry import BackendInfo, Registry, hookimpl
from quantmux.runtime.binding import bind
from quantmux.runtime.context import Context
from quantmux.runtime.events import reset_stats
from quantmux.runtime.quarantine import Quarantine
from quantmux_cutlass import abi, native
from quantmux_cutlass.catalog import offers
from quantmux_cutlass.linear.choice import Choice
from quantmux_torch import plugin as torch_plugin

from .conftest import HOST, unit_of

M, N, K = 5, 24, 160
SCHEMES = ("fp8_tensor", "fp8_channel_token", "fp8_block128", "nvfp4_dynamic")
LINEARS = {offer.spec.id: offer.spec for offer in offers() if offer.spec.op == "linear"}


def serves(spec, scheme):
    config = LinearConfig(scheme=scheme, in_features=K, out_features=N)
    devices = [PROFILES[name] for name in ("h200", "b200", "rtx_pro_6000")]
    inventory = Inventory(kernels=(spec,))
    return any(judge(spec, config, d, Settings(), inventory).is_eligible for d in devices)


SERVED = [(name, s) for name, spec in LINEARS.items() for s in SCHEMES if serves(spec, s)]


class Layer:
    """One kernel bound on the library of the host, with an x that is right."""

    def __init__(self, name, scheme, host_libraries, monkeypatch, options=None):
        self.spec = LINEARS[name]
        module, _, attribute = self.spec.load.partition(":")
        self.kernel = getattr(importlib.import_module(module), attribute)
        self.config = LinearConfig(scheme=scheme, in_features=K, out_features=N)
        kind = {"nvfp4_dynamic": "nvfp4", "fp8_block128": "block"}.get(scheme, "row")
        by_tma = (1,) if self.kernel.row_multiple == 8 else ()
        choice = Choice(unit_of(kind), by_tma if options is None else options)
        monkeypatch.setattr(self.kernel, "_choose", lambda *_: choice)
        self.library = host_libraries(kind)
        generator = torch.Generator().manual_seed(7)
        weight = torch.randn(N, K, generator=generator)
        self.weights = quantize_weight(weight, self.config.scheme)
        self.x = torch.randn(M, K, generator=generator).to(torch.bfloat16)
        capability, activation = self.spec.capability, self.config.scheme.activation
        (offer,) = (
            one.activation
            for one in capability.schemes
            if one.activation.element == activation.element
            and one.activation.block == activation.block
            and one.weight.block == self.config.scheme.weight.block
        )
        self.producers = input_of(capability, offer, activation, K, "bf16")
        self.q = quantize(self.x, self.producers[0])
        self.prepared = self.kernel.prepare(self.weights, self.config, HOST)
        self.fn = self.kernel.bind(self.config, self.prepared, HOST)

    def still_right(self):
        y = self.fn(self.q).to(torch.float32)
        want = linear(self.q, self.weights, self.config).to(torch.float32)
        return torch.allclose(y, want, rtol=2**-7, atol=2**-6)


def of(wanted):
    """Give the layers whose scheme is wanted, as a parameter of one test."""
    pairs = [pair for pair in SERVED if wanted(pair[1])]
    return pytest.mark.parametrize("layer", pairs, ids="-".join, indirect=True)


@pytest.fixture(params=SERVED, ids="-".join)
def layer(request, host_libraries, monkeypatch):
    return Layer(*request.param, host_libraries, monkeypatch)


def shifted(tensor, by):
    """Give the same values ``by`` bytes after a multiple of 16."""
    size = tensor.untyped_storage().nbytes()
    store = torch.zeros(size + 32, dtype=torch.uint8)
    first = (by - store.data_ptr()) % 16
    part = store[first : first + size].view(tensor.dtype)
    return part.as_strided(tensor.shape, tensor.stride()).copy_(tensor)


def apart(matrix):
    """Give the same values with twice as much between rows and columns."""
    rows, columns = matrix.stride()
    size = 2 * matrix.untyped_storage().nbytes() // matrix.element_size() + 2
    store = torch.zeros(size, dtype=matrix.dtype).as_strided(matrix.shape, (2 * rows, 2 * columns))
    for row in range(matrix.shape[0]):
        for column in range(matrix.shape[1]):
            store[row, column] = matrix[row, column]
    return store


def as_bytes(matrix):
    return matrix.view(torch.uint8)


def refused(layer, bad, errors, words):
    """Check that x is refused by a layer that has seen none, and by one that has seen good ones."""
    for _ in range(2):
        calls = layer.library.calls
        with pytest.raises(errors, match=words):
            layer.fn(bad)
        assert layer.library.calls == calls, "it was launched all the same"
        assert layer.still_right()


def test_every_linear_of_the_backend_is_asked():
    assert {name for name, _ in SERVED} == set(LINEARS)


@pytest.mark.parametrize("by", [1, 8])
def test_an_x_at_an_address_that_tma_cannot_read_is_refused(layer, by):
    data = shifted(as_bytes(layer.q.data), by).view(layer.q.data.dtype)
    refused(layer, replace(layer.q, data=data), LayoutError, "multiples of 16 bytes")


@of(lambda scheme: scheme.startswith("nvfp4"))  # fp32 scales are read one at a time
def test_scales_at_an_address_that_tma_cannot_read_are_refused(layer):
    scales = shifted(as_bytes(layer.q.scales), 8).view(layer.q.scales.dtype)
    refused(layer, replace(layer.q, scales=scales), (LayoutError, LaunchError), "16 bytes")


def test_an_x_with_other_strides_is_refused(layer):
    data = apart(as_bytes(layer.q.data)).view(layer.q.data.dtype)
    refused(layer, replace(layer.q, data=data), LayoutError, "data has the wrong strides")


@of(lambda scheme: scheme != "fp8_tensor")  # one scale has no strides
def test_scales_with_other_strides_are_refused(layer):
    given = layer.q.scales
    wide = given.element_size() > 1
    scales = apart(given) if wide else apart(as_bytes(given)).view(given.dtype)
    refused(layer, replace(layer.q, scales=scales), LayoutError, "scales has the wrong strides")


@pytest.mark.parametrize("part", ["data", "scales"])
def test_a_missing_part_of_x_is_named(layer, part):
    refused(layer, replace(layer.q, **{part: None}), InputError, f"{part} of x needs to be")


@of(lambda scheme: scheme.startswith("nvfp4"))
def test_a_global_scale_that_is_missing_or_another_is_named(layer):
    for wrong in (None, torch.ones(2), torch.ones(1, dtype=torch.float64)):
        refused(layer, replace(layer.q, global_scale=wrong), InputError, "global[ _]scale")


def test_an_x_of_another_width_is_refused(layer):
    operand = layer.config.scheme.activation
    other = quantize(layer.x[:, :128], QuantizeConfig(operand=operand, n=128))
    refused(layer, other, ShapeError, "logical shape")


def test_an_x_with_other_rows_than_it_says_is_refused(layer):
    refused(layer, replace(layer.q, logical_shape=(M + 1, K)), ShapeError, "wrong shape")
    refused(layer, replace(layer.q, data=layer.q.data[:2]), ShapeError, "wrong shape")


def test_scales_for_fewer_rows_than_x_has_are_refused(layer):
    given = layer.q.scales
    short = given[:0] if given.ndim == 1 else given[: given.shape[0] - 1]
    refused(layer, replace(layer.q, scales=short), ShapeError, "scales has the wrong shape")


def test_an_x_of_another_dtype_is_refused(layer):
    wrong = as_bytes(layer.q.data).view(torch.int8)
    refused(layer, replace(layer.q, data=wrong), DtypeError, "data needs")
    scales = layer.q.scales.to(torch.float64)
    refused(layer, replace(layer.q, scales=scales), DtypeError, "scales needs")


def test_an_x_of_another_operand_is_refused(layer):
    other = "int8_token" if layer.config.scheme.name != "int8_channel_token" else "fp8_token"
    refused(layer, quantize(layer.x, QuantizeConfig(operand=other, n=K)), LayoutError, "operand")


@pytest.mark.parametrize(
    ("operand", "scales"),
    [
        ("nvfp4", "row_major"),
        ("nvfp4", "swizzled_8x4"),
        ("fp8_group128_pow2", "packed_pow2"),
    ],
)
def test_an_x_whose_scales_lie_otherwise_is_refused(host_libraries, monkeypatch, operand, scales):
    scheme = "nvfp4_dynamic" if operand == "nvfp4" else "fp8_block128"
    for name in [name for name, one in SERVED if one == scheme]:
        layer = Layer(name, scheme, host_libraries, monkeypatch)
        width = layer.q.layout.padded_n
        asked = QuantizeConfig(operand=operand, n=K, layout=scales, padded_n=width)
        refused(layer, quantize(layer.x, asked), LayoutError, "does not read")


def test_a_plain_tensor_is_refused(layer):
    refused(layer, layer.x, InputError, "needs to be a QuantizedTensor")
    refused(layer, None, InputError, "found NoneType")


def test_an_output_that_cannot_be_stored_into_is_refused(layer):
    calls, kind = layer.library.calls, torch.bfloat16
    for out, error in (
        (torch.empty((M, N + 1), dtype=kind), ShapeError),
        (torch.empty((M + 1, N), dtype=kind), ShapeError),
        (torch.empty((M, N), dtype=torch.float32), DtypeError),
        (torch.empty((M, N), dtype=kind, device="meta"), InputError),
        (torch.empty((N, M), dtype=kind).t(), LayoutError),
        (torch.empty((1, N), dtype=kind).expand(M, N), LayoutError),
    ):
        with pytest.raises(error):
            layer.fn(layer.q, out=out)
    if layer.kernel.row_multiple == 8:
        with pytest.raises(LayoutError, match="16 bytes"):
            layer.fn(layer.q, out=torch.empty(M * N + 1, dtype=kind)[1:].view(M, N))
    assert layer.library.calls == calls
    assert layer.still_right()


@pytest.mark.parametrize("field", ["in_features", "out_features"])
@pytest.mark.parametrize("size", [0, -16])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_layer_without_rows_or_columns_cannot_even_be_asked_for(scheme, field, size):
    sizes = {"in_features": K, "out_features": N, field: size}
    with pytest.raises(ConfigError):
        LinearConfig(scheme=scheme, **sizes)


@pytest.mark.parametrize("field", ["n", "k"])
@pytest.mark.parametrize("size", [0, -16])
def test_a_library_refuses_no_rows_and_no_columns_too(layer, field, size):
    problem = plan_of(layer)
    setattr(problem, field, size)
    with pytest.raises(LaunchError, match="N or K is not positive") as caught:
        native.Plan(layer.library, problem)
    assert caught.value.code == "qm_4"


def test_a_struct_of_another_version_is_refused(layer):
    problem = plan_of(layer)
    problem.abi = abi.VERSION + 1
    with pytest.raises(LaunchError, match="of another version"):
        native.Plan(layer.library, problem)


@pytest.mark.parametrize("field", ["w", "w_scales"])
def test_weights_that_are_not_there_are_refused_by_the_library(layer, field):
    problem = plan_of(layer)
    setattr(problem, field, None)
    with pytest.raises(LaunchError, match="null"):
        native.Plan(layer.library, problem)


def test_prepared_weights_without_a_scale_are_refused(layer):
    kept = {name: t for name, t in layer.prepared.tensors.items() if name != "scales"}
    with pytest.raises((InputError, KeyError)):
        layer.kernel.bind(layer.config, replace(layer.prepared, tensors=kept), HOST)


def test_a_status_of_the_library_becomes_one_error_with_what_was_asked(host_libraries, monkeypatch):
    name, scheme = next(pair for pair in SERVED if pair[1] == "fp8_channel_token")
    by_tma = int(Layer(name, scheme, host_libraries, monkeypatch).kernel.row_multiple == 8)
    failing = Layer(
        name, scheme, host_libraries, monkeypatch, options=(by_tma, 0, 0, 0, 0, 0, abi.CUDA + 700)
    )
    with pytest.raises(LaunchError, match="CUDA error 700") as caught:
        failing.fn(failing.q)
    assert caught.value.context_poisoned


def plan_of(layer):
    """Give the problem that the layer's first plan was made from."""
    seen = []

    class Watched(native.Plan):
        def __init__(self, library, problem, keep=()):
            seen.append((problem, keep))
            super().__init__(library, problem, keep)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "Plan", Watched)
        layer.kernel.bind(layer.config, layer.prepared, HOST)(layer.q)
    problem, keep = seen[0]
    layer.kept = keep
    return problem


class HostKernels:
    """A plugin with one kernel of this backend that claims the host."""

    def __init__(self, spec):
        self.spec = spec

    @hookimpl
    def quantmux_backend(self):
        return BackendInfo("cutlass", "1")

    @hookimpl
    def quantmux_kernels(self):
        return (self.spec,)


@pytest.fixture
def context(monkeypatch, host_libraries):
    """Give ``make(error)``: cutlass/linear_fp8 before torch's, whose library is or is not there."""
    reset_stats()
    spec = LINEARS["cutlass/linear_fp8"]
    made = Layer(spec.id, "fp8_channel_token", host_libraries, monkeypatch)
    module = types.ModuleType("cutlass_kernels_of_the_host")
    module.kernel = made.kernel
    monkeypatch.setitem(sys.modules, module.__name__, module)
    capability = spec.capability.replace(arch=("cpu",), needs=())
    here = replace(
        spec, capability=capability, load=f"{module.__name__}:kernel", sources=(), veto=None
    )

    def make(error):
        if error is not None:
            monkeypatch.setattr(native, "opened", raises(error))
        policy = Policy(order=("cutlass", "torch"), self_check="never")
        plugins = {"cutlass": HostKernels(here), "torch": torch_plugin}
        return Context(Registry.of(plugins, policy), Quarantine()), made

    return make


def raises(error):
    def opened(*_):
        raise error

    return opened


def test_with_its_library_the_kernel_serves(context):
    here, layer = context(None)
    bound = bind(here.select(layer.config, HERE_CPU), layer.weights, context=here)
    assert bound.pipeline_for(M).main.id == "cutlass/linear_fp8"
    assert torch.equal(bound(layer.x), linear(layer.x, layer.weights, layer.config))


@pytest.mark.parametrize("code", ["abi", "wrong_target", "truncated", "self_test", "compile"])
def test_with_a_broken_library_the_next_kernel_serves_and_the_reason_is_told(context, code):
    here, layer = context(BuildError(f"its library is broken: {code}", code=code))
    bound = bind(here.select(layer.config, HERE_CPU), layer.weights, context=here)
    assert bound.pipeline_for(M).main.id.startswith("torch/")
    (event,) = bound.events
    assert event.stage == "build"
    assert code in event.reason
    want = linear(layer.x, layer.weights, layer.config).to(torch.float32)
    assert torch.allclose(bound(layer.x).to(torch.float32), want, rtol=2**-6, atol=2**-4)
