"""CUDA graphs of a quantized MLP: warm up, capture per batch size, replay; and what is refused.

Needs an NVIDIA GPU. As an engine does it at start-up: one graph for each number of tokens that it
decodes with, all in one memory pool, with one static input and output for the largest.
"""

from __future__ import annotations

import argparse
import sys

import torch

import quantmux as qm

BATCHES = (1, 8, 64)


class Mlp(torch.nn.Module):
    """SiLU(gate) · up, then down: one kernel quantizes the product in the form that down reads."""

    def __init__(self, hidden: int, inner: int, scheme: str) -> None:
        super().__init__()
        self.inner = inner
        self.gate_up = linear(2 * inner, hidden, scheme, "mlp.gate_up_proj")
        self.down = linear(hidden, inner, scheme, "mlp.down_proj")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        both = self.gate_up(x)
        reads = self.down.input_layout(x.shape[0])
        if reads is None:  # its kernel for so many rows takes a plain x
            gate, up = both.float().chunk(2, dim=-1)
            return self.down((torch.nn.functional.silu(gate) * up).to(x.dtype))
        config = qm.SiluMulQuantizeConfig(operand=reads.operand, n=self.inner, layout=reads.layout)
        return self.down(qm.silu_mul_quantize(both, config))


def linear(n: int, k: int, scheme: str, name: str) -> qm.Linear:
    weight = torch.randn(n, k, device="cuda", dtype=torch.bfloat16) / k**0.5
    return qm.Linear.from_float(weight, scheme, layer=name)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scheme", default="fp8_channel_token")
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--inner", type=int, default=5632)
    options = parser.parse_args(argv)
    if not torch.cuda.is_available():
        print("this example needs an NVIDIA GPU: a CPU has no CUDA graphs", file=sys.stderr)
        return 1
    with torch.inference_mode():
        return run(Mlp(options.hidden, options.inner, options.scheme), options.hidden)


def run(model: Mlp, hidden: int) -> int:
    from quantmux.testing import launches

    x = torch.zeros(max(BATCHES), hidden, device="cuda", dtype=torch.bfloat16)

    print("== captured before anything is warm: refused, nothing compiled, nothing bound")
    try:
        # the fill makes it a graph that is not empty
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            x.fill_(0)
            model(x[:8])
    except qm.LaunchError as error:
        print(error)

    print("\n== warm up: the linears by warmup, the producer by a call")
    qm.warmup(model, ms=BATCHES)
    for batch in BATCHES:
        model(x[:batch])

    print("\n== capture, the largest first: the others then fit into its memory")
    pool, graphs = torch.cuda.graph_pool_handle(), {}
    for batch in sorted(BATCHES, reverse=True):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            y = model(x[:batch])
        graphs[batch] = (graph, y)

    wrong = 0
    for batch, (graph, y) in sorted(graphs.items()):
        x.copy_(torch.randn_like(x))
        graph.replay()
        same = torch.equal(y, model(x[:batch]))
        wrong += not same
        print(f"M = {batch:<3} replay equals a call, bit by bit: {same}")
    graph, _ = graphs[min(BATCHES)]
    print(f"\n== a replay of M = {min(BATCHES)}\n{launches(graph.replay)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
