"""What a call through the FlashInfer backend adds to the library's own call, and what it launches.

    python benchmarks/device/flashinfer_calls.py FOLDER

Needs an sm90 GPU, an installed quantmux and FlashInfer, and compiled modules. Writes
``FOLDER/<date>-<device>-flashinfer-calls.json``. Ours and the library's are called in turns in one
process, ABBA, each call timed alone, on a GPU that is never behind. The library's call is the very
one that ours makes, with the same tensors: it was written down while ours ran. So the difference
is all that we add: views, checks, locks, the frame of the call.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch

from quantmux.bench.contenders import Binder, pipelines_of
from quantmux.bench.materials import Materials
from quantmux.bench.run import versions
from quantmux.capability.detect import resolve_device
from quantmux.config import (
    Layout,
    LinearConfig,
    RelayoutConfig,
    RmsNormQuantizeConfig,
    RopeQuantizeConfig,
)
from quantmux.dispatch.pipeline import Pipeline
from quantmux.ops.quantized import QuantizedTensor
from quantmux.runtime.context import default_context
from quantmux.runtime.steps import build
from quantmux.testing.checks.launches import launched
from quantmux_flashinfer.library import functions

PAIRS: Final = 1000
"""Turns of ours with ``out=`` against the library's call; each calls both twice."""

FEW_PAIRS: Final = 200
"""Turns of the other forms."""

BEFORE_WAITING: Final = 10
"""Turns between two waits for the GPU."""

M: Final = 16
SHAPE: Final = (4096, 4096)
LAUNCH_MS: Final = (16, 64)

Call = Callable[[], Any]


@dataclass(frozen=True)
class Subject:
    """One kernel's call on given tensors.

    Attributes:
        kernel: Its id.
        into: The bound function, with ``out=``.
        alone: The same without: it allocates what it gives.
        library: What ``into`` calls of FlashInfer.
        plain: The same as a user writes it, with the library's own checks; None where it is that.
    """

    kernel: str
    into: Call
    alone: Call
    library: Call
    plain: Call | None


class Notebook:
    """Writes down what reaches the library behind our guards, and calls it.

    Attributes:
        calls: What was called, ready to be called again.
    """

    def __init__(self) -> None:
        self.calls: list[partial[Any]] = []
        self._guard = functions.guarded

    def guarded(self, call: Callable[..., Any], name: str, index: int) -> Callable[..., Any]:
        def noted(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(partial(call, *args, **kwargs))
            return call(*args, **kwargs)

        return self._guard(noted, name, index)


@contextmanager
def noting() -> Iterator[Notebook]:
    """Have what is bound meanwhile go through a notebook."""
    book = Notebook()
    ready: Any = functions._ready  # noqa: SLF001 - bound functions are remembered there
    kept, given = dict(ready), functions.guarded
    ready.clear()
    functions.guarded = book.guarded
    try:
        yield book
    finally:
        functions.guarded = given
        ready.clear()
        ready.update(kept)


def subject(kernel: str, bind: Callable[[], Callable[..., Any]], args: Any, kwargs: Any) -> Subject:
    """Give the calls of a kernel that `bind` binds."""
    call = bind()
    y = output(call, args, kwargs)
    with noting() as book:
        noted = bind()
        other = output(noted, args, kwargs)
        noted(*args, **kwargs, out=other)
        book.calls.clear()
        noted(*args, **kwargs, out=other)
        theirs = tuple(book.calls)
    if len(theirs) != 1:
        raise RuntimeError(f"{kernel} calls the library {len(theirs)} times, not once")
    (library,) = theirs
    checked = {name: value for name, value in library.keywords.items() if name != "skip_check"}
    return Subject(
        kernel,
        partial(call, *args, **kwargs, out=y),
        partial(call, *args, **kwargs),
        library,
        partial(library.func, *library.args, **checked)
        if len(checked) < len(library.keywords)
        else None,
    )


def output(call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Give an output of a bound function that it may write again without copying a scale."""
    y = call(*args, **kwargs)
    if isinstance(y, QuantizedTensor) and "scale" in kwargs:
        return replace(y, scales=kwargs["scale"])
    return y


def consumer(kernel: str, scheme: str) -> Subject:
    """Give a linear's calls on what its pipeline hands to it."""
    n, k = SHAPE
    config = LinearConfig(in_features=k, out_features=n, scheme=scheme)
    device, context = resolve_device("cuda:0"), default_context()
    found = pipelines_of(config, M, context, device, only=[kernel])
    pipeline = min((p for p in found if p.main.id == kernel), key=lambda p: len(p.steps))
    materials = Materials(config, device)
    (given,) = materials.inputs(M, 1)
    *head, last = pipeline.steps
    x = given.args[0]
    for step in head:
        x = build(Pipeline((step,), pipeline.tier), context, device).run(x)
    loaded = context.load(last.kernel)
    prepared = loaded.prepare(materials.weights, last.config, device)
    return subject(kernel, partial(loaded.bind, last.config, prepared, device), (x,), {})


def producer(kernel: str, config: Any) -> Subject:
    """Give the calls of a kernel without weights."""
    device, context = resolve_device("cuda:0"), default_context()
    spec = next(s for s in context.registry.kernels if s.id == kernel)
    (given,) = Materials(config, device).inputs(M, 1)
    loaded = context.load(spec)
    return subject(kernel, partial(loaded.bind, config, device), given.args, given.kwargs)


def paired_us(ours: Call, theirs: Call, pairs: int = PAIRS) -> dict[str, float]:
    """Give medians, µs, of single calls that take turns, and their difference."""
    now = time.perf_counter_ns
    mine: list[int] = []
    other: list[int] = []
    for turn in range(-20, pairs):
        if turn % BEFORE_WAITING == 0:
            torch.cuda.synchronize()
            ours()
            theirs()
        begin = now()
        ours()
        one = now()
        theirs()
        two = now()
        theirs()
        three = now()
        ours()
        end = now()
        if turn >= 0:
            mine += (one - begin, end - three)
            other += (two - one, three - two)
    us, library = median(mine) * 1e-3, median(other) * 1e-3
    return {"us": us, "library_us": library, "added_us": us - library, "calls": len(mine)}


def subjects() -> dict[str, Callable[[], Subject]]:
    """Give the kernels whose calls are timed."""
    block = "fp8_block128"
    rows = {"operand": "fp8_tensor_static", "n": 4096}
    heads = {"heads": 40, "head_dim": 128, "rope_dim": 128}
    return {
        "linear_fp8_bmm_cublas": lambda: consumer("flashinfer/linear_fp8_bmm_cublas", "fp8_tensor"),
        "linear_fp8_bmm_cudnn": lambda: consumer("flashinfer/linear_fp8_bmm_cudnn", "fp8_tensor"),
        "linear_fp8_block_sm90": lambda: consumer("flashinfer/linear_fp8_block_sm90", block),
        "linear_fp8_block_sm90_inside": lambda: consumer(
            "flashinfer/linear_fp8_block_sm90_inside", block
        ),
        "rmsnorm_quantize_fp8_tensor": lambda: producer(
            "flashinfer/rmsnorm_quantize_fp8_tensor", RmsNormQuantizeConfig(**rows)
        ),
        "rope_quantize_fp8_tensor": lambda: producer(
            "flashinfer/rope_quantize_fp8_tensor", RopeQuantizeConfig(**heads, static_scale=0.05)
        ),
        "relayout_nvfp4": lambda: producer(
            "flashinfer/relayout_nvfp4",
            RelayoutConfig(
                operand="nvfp4",
                n=4096,
                source=Layout(scales="row_major", padded_n=4096),
                target=Layout(scales="swizzled_128x4", padded_n=4096),
            ),
        ),
    }


def calls() -> Iterator[dict[str, Any]]:
    """Give one row per kernel, or why it has none."""
    for name, make in subjects().items():
        try:
            made = make()
            few = partial(paired_us, theirs=made.library, pairs=FEW_PAIRS)
            timed = paired_us(made.into, made.library)
            plain = few(made.plain)["us"] if made.plain else timed["library_us"]
            yield {
                "kernel": made.kernel,
                **timed,
                "plain_us": plain,
                "added_to_plain_us": timed["us"] - plain,
                "allocating_us": few(made.alone)["us"],
                "launches": launched(made.into, 1),
                "library_launches": launched(made.library, 1),
            }
        except Exception as error:  # noqa: BLE001 - one kernel that is not here costs its row only
            yield {"kernel": f"flashinfer/{name}", "failed": f"{error!r}"[:400]}
    empty = partial(torch.empty, M, SHAPE[0], dtype=torch.bfloat16, device="cuda")
    yield {"kernel": "torch.empty(16, 4096)", **paired_us(empty, empty, FEW_PAIRS)}


def pipelines() -> Iterator[dict[str, Any]]:
    """Give what the pipelines of a block-scaled linear launch from a bf16 x.

    Those of CUTLASS are left out: they would be compiled here, and another page counts them.
    """
    n, k = SHAPE
    config = LinearConfig(in_features=k, out_features=n, scheme="fp8_block128")
    device, context = resolve_device("cuda:0"), default_context()
    binder = Binder(context, Materials(config, device))
    for m in LAUNCH_MS:
        inputs = binder.materials.inputs(m, 1)
        for pipeline in pipelines_of(config, m, context, device):
            if any(kernel.startswith("cutlass/") for kernel in pipeline.ids):
                continue
            row: dict[str, Any] = {"pipeline": str(pipeline), "m": m}
            try:
                names = launched(binder.contender(pipeline, inputs).calls[0], 1)
            except Exception as error:  # noqa: BLE001 - likewise
                yield {**row, "failed": f"{error!r}"[:400]}
                continue
            yield {**row, "count": len(names), "names": [short(name) for name in names]}


def short(name: str) -> str:
    """Give a kernel's name without its arguments."""
    return name.partition("(")[0][:100]


def main(folder: Path) -> None:
    device = resolve_device("cuda:0")
    date = datetime.now(UTC).date().isoformat()
    timed: list[dict[str, Any]] = []
    counted: list[dict[str, Any]] = []
    result = {
        "device": device.name,
        "date": date,
        "versions": versions(device) | {"flashinfer-python": version("flashinfer-python")},
        "m": M,
        "n": SHAPE[0],
        "k": SHAPE[1],
        "calls": timed,
        "launches": counted,
    }
    file = folder / f"{date}-{device.name}-flashinfer-calls.json"
    for rows, found, tell in ((timed, calls(), tell_call), (counted, pipelines(), tell_launches)):
        for row in found:
            rows.append(row)
            file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            print(tell(row), flush=True)


def tell_call(row: dict[str, Any]) -> str:
    """Give a row of `calls` in a line."""
    if "failed" in row:
        return f"no time: {row['kernel']}: {row['failed']}"
    last = ", ".join(short(name)[:48] for name in row.get("launches", ()))
    return (
        f"{row['us']:7.2f} µs, the library's call {row.get('plain_us', 0):.2f} "
        f"({row.get('added_to_plain_us', 0):+.2f}), without its checks {row['library_us']:.2f} "
        f"({row['added_us']:+.2f}), ours without out= {row.get('allocating_us', 0):.2f}  "
        f"{row['kernel']}  [{last}]"
    )


def tell_launches(row: dict[str, Any]) -> str:
    """Give a row of `pipelines` in a line."""
    names = row.get("failed") or ", ".join(name[:44] for name in row["names"])
    return f"M={row['m']} {row.get('count', '-')} launches  {row['pipeline']}: {names}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
