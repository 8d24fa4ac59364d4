"""One way of launching in a process of its own: what each new number of tokens costs it.

    python -m quantmux.bench.seeds.inverse_rope_worker ORDER.json ANSWER.json

The process says ``ready`` when it has imported and set up what a server has before its first
request, and measures when it is sent a line. The order is that of `inverse_rope_process.Order`.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from quantmux.bench.seeds.inverse_rope_ways import (
    PINNED,
    READY,
    ROPE_DIM,
    Call,
    bound,
    bound_call,
    new_out,
    one_head_call,
    rope_config,
)
from quantmux.capability.detect import resolve_device
from quantmux.ops.rope import make_cos_sin_cache
from quantmux.runtime.context import default_context
from quantmux.testing.checks.variants import compilations

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import InverseRopeQuantizeConfig

_CALLS: Final = 5
"""Calls with each number of tokens: a stall is what the first takes beyond the fastest other."""

_POSITIONS: Final = 8192


def measure(
    call: Call,
    config: InverseRopeQuantizeConfig,
    tokens: Sequence[int],
    where: torch.device,
) -> dict[str, Any]:
    """Call with each number of tokens in turn and take the time of the first call.

    Args:
        call: Not called before.
        config: What it makes.
        tokens: T, in the order of the calls.
        where: Device of the buffers.

    Returns:
        ``variants``: names of what Triton compiled, in order; ``first_s`` and ``stall_s``: by T,
        seconds of the first call, and those beyond the fastest of the four after it.
    """
    cache = make_cos_sin_cache(_POSITIONS, config.rope_dim).to(where)
    first: dict[int, float] = {}
    stall: dict[int, float] = {}
    with compilations() as compiled:
        for t in tokens:
            o = torch.randn(t, config.heads, config.head_dim, device=where).to(torch.bfloat16)
            positions = torch.randint(0, _POSITIONS, (t,), device=where)
            out = new_out(config, t, where)
            took = []
            for _ in range(_CALLS):
                _wait(where)
                start = time.perf_counter()
                call(o, positions, cache, out)
                _wait(where)
                took.append(time.perf_counter() - start)
            first[t] = took[0]
            stall[t] = max(0.0, took[0] - min(took[1:]))
    return {"variants": [str(name) for name in compiled], "first_s": first, "stall_s": stall}


def prepared(
    way: str, config: InverseRopeQuantizeConfig, device: DeviceProfile, tokens: Sequence[int]
) -> tuple[Call, dict[str, Any]]:
    """Give the call of a way, and what was spent before any call.

    ``warmed`` is ``ours`` after ``warmup``: what a server does before it takes requests.
    """
    start = time.perf_counter()
    with compilations() as compiled:
        if way in PINNED:
            call = one_head_call(config, PINNED[way])
        else:
            producer = bound(config, device, default_context())
            if way == "warmed":
                producer.warmup(tokens)
            call = bound_call(producer)
    spent = time.perf_counter() - start
    return call, {"before_s": spent, "before_variants": [str(name) for name in compiled]}


def main(order_file: str, answer_file: str) -> None:
    """Set up, wait for a line, measure, and write the answer."""
    order: Mapping[str, Any] = json.loads(Path(order_file).read_text(encoding="utf-8"))
    device = resolve_device(order["device"])
    where = torch.device(device.torch_name)
    config = rope_config(order["heads"], order["groups"], order["head_dim"])
    tokens = [int(t) for t in order["tokens"]]
    # a server has its context, its random numbers and its model long before the first request
    torch.randn(1, config.heads, ROPE_DIM, device=where).to(torch.bfloat16)
    _wait(where)
    import triton

    sys.stdout.write(READY + "\n")
    sys.stdout.flush()
    if not sys.stdin.readline():
        return  # who started it is gone
    call, before = prepared(order["way"], config, device, tokens)
    found = {**before, **measure(call, config, tokens, where), "triton": triton.__version__}
    Path(answer_file).write_text(json.dumps(found), encoding="utf-8")


def _wait(where: torch.device) -> None:
    if where.type == "cuda":
        torch.cuda.synchronize(where)


if __name__ == "__main__":
    main(*sys.argv[1:])
