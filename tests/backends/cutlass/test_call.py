"""One call of a bound linear: what it launches, what it refuses, and in which words."""

from __future__ import annotations

from dataclasses import replace
from threading import Barrier, Thread
from typing import TYPE_CHECKING, Any

import pytest
import torch

from quantmux.config import LinearConfig, QuantizeConfig
from quantmux.errors import DtypeError, InputError, LaunchError, LayoutError, ShapeError
from quantmux.ops.linear.reference import linear, quantize_input
from quantmux.ops.linear.spec import empty_output, make_inputs
from quantmux.ops.quantize.reference import quantize
from quantmux.ops.spec import Case
from quantmux_cutlass import native
from quantmux_cutlass.linear.choice import Choice
from quantmux_cutlass.linear.consumer import CutlassLinear

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantmux.capability.device import DeviceProfile
    from quantmux.ops.quantized import QuantizedTensor

M, N, K = 5, 24, 144
TMA = (1,)


class Bound:
    """A layer on the host's library, and an x for it."""

    def __init__(
        self,
        library: Any,
        host: DeviceProfile,
        options: tuple[int, ...] = (),
        *,
        n: int = N,
        k: int = K,
        multiple: int = 1,
    ) -> None:
        self.library = library
        self.config = LinearConfig(in_features=k, out_features=n, scheme="fp8_channel_token")
        x, self.weights = make_inputs(Case(self.config, M), "cpu", seed=5).args
        operand = self.config.scheme.activation
        assert operand is not None
        width = -(-k // 16) * 16
        self.producer = QuantizeConfig(operand=operand, n=k, padded_n=width)
        self.x = x
        self.q = quantize(x, self.producer)
        choice = Choice(library.unit, options)
        kernel = CutlassLinear("test", lambda *_: choice, row_multiple=multiple)
        self.prepared = kernel.prepare(self.weights, self.config, host)
        self.fn = kernel.bind(self.config, self.prepared, host)

    @property
    def want(self) -> torch.Tensor:
        return linear(self.q, self.weights, self.config)


@pytest.fixture
def bound(host_libraries: Callable[..., Any], host: DeviceProfile) -> Callable[..., Bound]:
    """Give ``make(options=(), n=, k=, multiple=)``."""

    def make(options: tuple[int, ...] = (), **more: Any) -> Bound:
        return Bound(host_libraries("row"), host, options, **more)

    return make


@pytest.mark.parametrize(("n", "k"), [(1000 // 8, 1000 // 8), (24, 144)])
def test_a_padded_linear_is_one_producer_and_one_launch_and_its_output_no_copy(
    bound: Callable[..., Bound], monkeypatch: pytest.MonkeyPatch, n: int, k: int
) -> None:
    layer = bound(TMA, n=n, k=k, multiple=8)
    q = quantize(layer.x, layer.producer)  # straight into rows of R16(K): nothing pads it later
    assert q.data.shape == (M, -(-k // 16) * 16)
    layer.fn(q)
    calls = layer.library.calls
    given: list[int] = []
    right = layer.library.run

    def run(*args: Any) -> Any:
        given.append(args[3])
        return right(*args)

    monkeypatch.setattr(layer.library, "run", run)
    other = bound(TMA, n=n, k=k, multiple=8)
    operations: list[str] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            operations.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    with Watch():
        y = other.fn(q)
    assert layer.library.calls - calls == 1
    # memory for y, and where N is no multiple of 8 the view of its N columns: no kernel of torch's
    assert set(operations) <= {"empty_strided", "slice", "alias"}
    assert y.data_ptr() == given[0]  # what the library wrote is what comes back
    assert y.shape == (M, n)
    assert y.stride() == (-(-n // 8) * 8, 1)
    assert torch.equal(y, linear(q, layer.weights, layer.config))


def test_a_call_launches_on_the_stream_that_is_current(
    bound: Callable[..., Bound], monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = [0x1000, 0x2000]
    monkeypatch.setattr(native, "raw_stream", lambda _: lambda _: streams[0])
    layer = bound()
    for stream in (0x1000, 0x2000):
        streams[0] = stream
        layer.fn(layer.q)
        assert layer.library.handle.qm_last_stream() == stream


def test_no_rows_launch_nothing_and_give_an_output_of_none(bound: Callable[..., Bound]) -> None:
    for multiple, options in ((1, ()), (8, TMA)):
        layer = bound(options, n=13, multiple=multiple)
        calls = layer.library.calls
        none = quantize(layer.x[:0], layer.producer)
        assert layer.fn(none).shape == (0, 13)
        out = torch.empty((0, 13), dtype=torch.bfloat16)
        assert layer.fn(none, out=out) is out
        assert layer.library.calls == calls


@pytest.mark.parametrize("multiple", [1, 8])
@pytest.mark.parametrize("n", [24, 13])
def test_an_output_of_the_callers_is_filled_and_returned(
    bound: Callable[..., Bound], n: int, multiple: int
) -> None:
    layer = bound(TMA if multiple == 8 else (), n=n, multiple=multiple)
    out = empty_output(M, n, torch.bfloat16, "cpu", multiple).fill_(torch.nan)
    assert layer.fn(layer.q, out=out) is out
    assert torch.equal(out, layer.want)
    wide = torch.full((M + 2, 64), torch.nan, dtype=torch.bfloat16)
    part = wide[1 : M + 1, 8 : 8 + n]
    if multiple == 8 and n == 13:
        # the store would overwrite columns between 13 and 16, which are somebody's
        with pytest.raises(LayoutError, match="wrong strides"):
            layer.fn(layer.q, out=part)
        return
    assert layer.fn(layer.q, out=part) is part
    assert torch.equal(part, layer.want)
    wide[1 : M + 1, 8 : 8 + n] = torch.nan
    assert wide.isnan().all()


def test_an_output_that_cannot_be_stored_into_is_refused_before_anything_runs(
    bound: Callable[..., Bound],
) -> None:
    layer = bound(TMA, multiple=8)
    calls = layer.library.calls
    kind = torch.bfloat16
    odd = torch.empty(M * N + 1, dtype=kind)[1:].view(M, N)
    for out, error, words in (
        (torch.empty((M, N + 1), dtype=kind), ShapeError, "wrong shape"),
        (torch.empty((M, N), dtype=torch.float16), DtypeError, "needs torch.bfloat16"),
        (torch.empty((M, N), dtype=kind, device="meta"), InputError, "is on meta"),
        (torch.empty((N, M), dtype=kind).t(), LayoutError, "wrong strides"),
        (torch.empty((M, 28), dtype=kind)[:, :N], LayoutError, "a multiple of 8"),
        (odd, LayoutError, "begin at a multiple of 16 bytes"),
    ):
        with pytest.raises(error, match=words):
            layer.fn(layer.q, out=out)
    assert layer.library.calls == calls
    narrow = bound(TMA, n=13, multiple=8)
    cut = torch.empty(16 * M - 1, dtype=kind).as_strided((M, 13), (16, 1))
    with pytest.raises(LayoutError, match="ends before the gap"):
        narrow.fn(narrow.q, out=cut)


def _off_by_one(q: QuantizedTensor) -> QuantizedTensor:
    """Give x beginning one byte after a multiple of 16."""
    store = torch.zeros(q.data.numel() + 32, dtype=torch.uint8)
    first = (1 - store.data_ptr()) % 16
    data = store[first : first + q.data.numel()].view(q.data.shape)
    return replace(q, data=data.copy_(q.data.view(torch.uint8)).view(q.data.dtype))


def test_an_x_that_cannot_be_read_is_refused_in_words_that_name_need_and_found(
    bound: Callable[..., Bound],
) -> None:
    layer = bound()
    q, calls = layer.q, layer.library.calls
    token = layer.config.scheme.activation
    assert token is not None
    wide = QuantizeConfig(operand=token, n=K, padded_n=K + 16)
    groups = quantize(layer.x, QuantizeConfig(operand="fp8_group128", n=K))
    apart = torch.zeros((M, 2), dtype=torch.float32)[:, :1]
    no_scales: Any = None
    for bad, error, words in (
        (_off_by_one(q), LayoutError, "multiples of 16 bytes"),
        (replace(q, scales=no_scales), InputError, "scales of x needs to be a tensor"),
        (replace(q, data=q.data.to("meta")), InputError, "x is on meta"),
        (replace(q, data=q.data.view(torch.uint8)), DtypeError, "data needs"),
        (replace(q, data=q.data[:3]), ShapeError, "data has the wrong shape"),
        (replace(q, data=q.data.t().contiguous().t()), LayoutError, "wrong strides"),
        (replace(q, layout=wide.layout), ShapeError, "data has the wrong shape"),
        (replace(q, scales=q.scales[:3]), ShapeError, "scales has the wrong shape"),
        (replace(q, scales=q.scales.to(torch.float64)), DtypeError, "scales needs"),
        (replace(q, scales=apart), LayoutError, "scales has the wrong strides"),
        (replace(q, logical_shape=(M, K - 16)), ShapeError, "wrong logical shape"),
        (groups, LayoutError, "another operand"),
        (layer.x, InputError, "needs to be a QuantizedTensor"),
        (None, InputError, "needs to be a QuantizedTensor"),
    ):
        with pytest.raises(error, match=words):
            layer.fn(bad)
    assert layer.library.calls == calls
    assert torch.equal(layer.fn(q), layer.want)


def test_a_wider_x_is_read_by_its_own_width(bound: Callable[..., Bound]) -> None:
    layer = bound()
    operand = layer.config.scheme.activation
    assert operand is not None
    wide = quantize(layer.x, QuantizeConfig(operand=operand, n=K, padded_n=K + 48))
    assert torch.equal(layer.fn(wide), layer.want)
    assert torch.equal(layer.fn(layer.q), layer.want)
    odd = quantize(layer.x[:, :140], QuantizeConfig(operand=operand, n=140))
    with pytest.raises(ShapeError, match="logical shape"):
        layer.fn(odd)


def test_a_width_that_is_no_multiple_of_16_is_refused_though_its_rows_are_whole(
    bound: Callable[..., Bound],
) -> None:
    layer = bound(k=137)
    plain = quantize_input(layer.x, layer.weights, layer.config)
    assert plain.layout.padded_n == 137
    with pytest.raises(LayoutError, match="rows 137 bytes apart"):
        layer.fn(plain)
    assert torch.equal(layer.fn(layer.q), layer.want)


def test_weights_whose_rows_cannot_be_read_are_refused_when_they_are_bound(
    host_libraries: Callable[..., Any], host: DeviceProfile
) -> None:
    layer = Bound(host_libraries("row"), host)
    kernel = CutlassLinear("test", lambda *_: Choice(layer.library.unit))
    for data in (layer.weights.data.t().contiguous().t(), torch.empty((N, 150))[:, :K]):
        tensors = {**layer.prepared.tensors, "data": data}
        with pytest.raises(LayoutError, match="rows of the weights"):
            kernel.bind(layer.config, replace(layer.prepared, tensors=tensors), host)


@pytest.mark.parametrize(
    ("status", "words", "code", "poisoned"),
    [
        (7, "CUTLASS refused the arguments", "qm_7", False),
        (99, "does not know", "qm_99", False),
        (1001, "CUDA error 1", "cuda", False),
        (1098, "CUDA error 98", "cuda", False),
        (1700, "CUDA error 700", "cuda", True),
        (1719, "CUDA error 719", "cuda", True),
    ],
)
def test_a_status_becomes_an_error_that_tells_whether_the_context_is_lost(
    bound: Callable[..., Bound], status: int, words: str, code: str, poisoned: bool
) -> None:
    layer = bound((0, 0, 0, 0, 0, 0, status))
    with pytest.raises(LaunchError, match=words) as caught:
        layer.fn(layer.q)
    assert caught.value.code == code
    assert caught.value.context_poisoned is poisoned
    assert "N=24 K=144" in str(caught.value)


def test_a_plan_that_the_library_refuses_is_an_error_with_what_was_asked(
    bound: Callable[..., Bound],
) -> None:
    with pytest.raises(LaunchError, match="the driver refused a TMA descriptor") as caught:
        bound((0, 0, 0, 0, 0, 8))  # when it is bound, where another kernel can still be taken
    assert "[0, 0, 0, 0, 0, 8, 0]" in str(caught.value)


def test_device_memory_that_is_out_is_torchs_own_error(bound: Callable[..., Bound]) -> None:
    from quantmux.runtime.failures import Failure, classify

    layer = bound((0, 0, 0, 0, 0, 0, 1002))
    with pytest.raises(torch.OutOfMemoryError) as caught:
        layer.fn(layer.q)
    assert classify(caught.value) is Failure.OUT_OF_MEMORY


def test_threads_that_meet_new_ms_at_once_agree_and_make_each_plan_once(
    host_libraries: Callable[..., Any], host: DeviceProfile
) -> None:
    layer = Bound(host_libraries("row"), host)
    parts = [
        replace(layer.q, data=layer.q.data[:m], scales=layer.q.scales[:m], logical_shape=(m, K))
        for m in range(1, M + 1)
    ]
    unit = layer.library.unit
    kernel = CutlassLinear("test", lambda *given: Choice(unit, (0, given[2])))
    fn = kernel.bind(layer.config, layer.prepared, host)
    wide = QuantizeConfig(operand=layer.producer.operand, n=K, padded_n=K + 48)
    parts += [quantize(layer.x[:m], wide) for m in range(1, M + 1)]  # of a layout not met at bind
    plans, start, wrong = layer.library.plans, Barrier(8), []

    def work() -> None:
        start.wait(timeout=60)
        for part in parts:
            y = fn(part)
            if not torch.equal(y, layer.want[: part.m]):
                wrong.append(part.m)

    threads = [Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    # M = 3 and 5 are no samples, so their choices are new; and all of the second layout
    assert layer.library.plans - plans == 2 + M
