"""The ceilings of a run: what this device did in this process, not what its data sheet says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.bench.timing import Timing, interleave
from quantmux.bench.watch_cuda import EventWatch, GraphWatch, raise_if_lost
from quantmux.bench.watch_host import HostWatch, last_cache_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantmux.capability.device import DeviceProfile

_COPY_BYTES: Final = 1 << 30
_HOST_COPY_BYTES: Final = 512 << 20
_SIDE: Final = 8192
_BF16: Final = (8192, 4096, 4096)


def measure_ceilings(
    device: DeviceProfile, *, rates: tuple[str, ...] = (), quick: bool = False
) -> dict[str, float]:
    """Give ``copy_gb_s`` (bytes read and written) and ``<rate>_tflops`` of a device.

    The copy is an elementwise kernel outside a graph: in a graph ``copy_`` becomes a memcpy node,
    which is a third slower than a kernel on an H200. A ceiling is the fastest round: what stays
    below it is no noise of its own.

    Args:
        device: A device that is here.
        rates: Compute rates beyond fp8 and bf16 that the cases need: ``int8``.
        quick: Smaller sizes, fewer rounds.
    """
    if not device.is_cuda:
        return _host_ceilings(quick=quick)
    where, rounds = device.torch_name, 3 if quick else 7
    found = {"copy_gb_s": _copy_rate(where, rounds)}
    products: dict[str, tuple[Callable[[], Any], float]] = {
        "fp8": (_scaled_mm(where), 2.0 * _SIDE**3),
        "bf16": (_matmul(where), 2.0 * _BF16[0] * _BF16[1] * _BF16[2]),
    }
    if "int8" in rates:
        products["int8"] = (_int_mm(where), 2.0 * _SIDE**3)
    for name, (call, flops) in products.items():
        try:
            us = interleave({name: EventWatch([call])}, rounds)[name].us_min
        # an fp8 product that this GPU lacks is no ceiling of it, and no failure of the run
        except RuntimeError as error:
            raise_if_lost(error)
            continue
        found[f"{name}_tflops"] = flops / us * 1e-6
    return found


def empty_node(device: DeviceProfile, rounds: int) -> Timing | None:
    """Give the time of a graph node that does nothing to speak of; None without graphs."""
    if not device.is_cuda:
        return None
    one = torch.ones(1, device=device.torch_name)
    return interleave({"empty": GraphWatch([lambda: one.add_(1)])}, rounds)["empty"]


def _copy_rate(where: str, rounds: int) -> float:
    count = _COPY_BYTES // 4
    sources = [torch.randn(count, device=where) for _ in range(2)]
    targets = [torch.empty_like(source) for source in sources]

    def call(i: int) -> Callable[[], Any]:
        return lambda: torch.mul(sources[i], 2.0, out=targets[i])

    us = interleave({"copy": EventWatch([call(0), call(1)])}, rounds)["copy"].us_min
    return 2 * _COPY_BYTES / us * 1e-3


def _scaled_mm(where: str) -> Callable[[], Any]:
    a = torch.randn(_SIDE, _SIDE, device=where).to(torch.float8_e4m3fn)
    b = torch.randn(_SIDE, _SIDE, device=where).to(torch.float8_e4m3fn).T
    one = torch.ones((), device=where)
    product: Any = torch._scaled_mm  # noqa: SLF001 - torch has no public name for it
    return lambda: product(
        a, b, scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True
    )


def _matmul(where: str) -> Callable[[], Any]:
    m, n, k = _BF16
    a = torch.randn(m, k, device=where, dtype=torch.bfloat16)
    b = torch.randn(n, k, device=where, dtype=torch.bfloat16)
    return lambda: torch.nn.functional.linear(a, b)


def _int_mm(where: str) -> Callable[[], Any]:
    a = torch.randint(-127, 128, (_SIDE, _SIDE), device=where, dtype=torch.int8)
    b = torch.randint(-127, 128, (_SIDE, _SIDE), device=where, dtype=torch.int8)
    product: Any = torch._int_mm  # noqa: SLF001 - likewise
    return lambda: product(a, b.T)


def _host_ceilings(*, quick: bool) -> dict[str, float]:
    rounds, side = (3, 256) if quick else (5, 1024)
    size = 4 << 20 if quick else min(max(4 * last_cache_bytes(), 128 << 20), _HOST_COPY_BYTES)
    source = torch.full((size // 4,), 1.5)
    target = torch.empty_like(source)
    a = torch.randn(side, side)
    low = a.to(torch.bfloat16)
    watches = {
        "copy": HostWatch([lambda: torch.mul(source, 2.0, out=target)], round_us=1000.0),
        "fp32": HostWatch([lambda: a @ a], round_us=1000.0),
        "bf16": HostWatch([lambda: low @ low], round_us=1000.0),
    }
    found = interleave(watches, rounds)
    flops = 2.0 * side**3
    return {
        "copy_gb_s": 2 * size / found["copy"].us_min * 1e-3,
        "fp32_tflops": flops / found["fp32"].us_min * 1e-6,
        "bf16_tflops": flops / found["bf16"].us_min * 1e-6,
    }
