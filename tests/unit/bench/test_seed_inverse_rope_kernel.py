"""The kernel of the inverse RoPE seed: what it writes, and what makes Triton compile it anew."""

import os
import subprocess
import sys

import pytest
import torch

from quantmux.bench.seeds.inverse_rope_ways import (
    PINNED,
    SHAPES,
    TOKENS,
    new_out,
    one_head_call,
    rope_config,
)
from quantmux.capability.arch import Arch
from quantmux.ops.rope import make_cos_sin_cache
from quantmux.testing.compile_triton import compile_triton

triton = pytest.importorskip("triton")

# Triton's interpreter rounds fp32 to fp8 wrongly where a mantissa carries over: codes leave the
# kernel as fp32 here, and torch rounds them.
AS_DEFINED = """
from dataclasses import replace
import torch
from quantmux.bench.seeds.inverse_rope_ways import new_out, one_head_call, rope_config
from quantmux.ops.agreement import agreement
from quantmux.ops.rope import make_cos_sin_cache
from quantmux.ops.spec import Call

config = rope_config(4, 2, 256)
call = one_head_call(config, ())
cache = make_cos_sin_cache(64, 64)
for t in (1, 5, 16):
    o = torch.randn(t, 4, 256).mul(3).bfloat16()
    positions = torch.randint(0, 64, (t,))
    out = new_out(config, t, "cpu")
    whole = out.scales.untyped_storage().nbytes() // 4
    flat = out.scales.as_strided((whole,), (1,), 0).fill_(float("nan"))
    wide = torch.full_like(out.data, 0, dtype=torch.float32).fill_(float("nan"))
    call(o, positions, cache, replace(out, data=wide))
    out.data.copy_(wide.to(torch.float8_e4m3fn))
    found = agreement(config, Call((o, positions, cache)), out)
    assert found.ok, found.reason
    pads = flat.view(2, 4, -1)[:, :, t:]
    assert pads.shape[2] == -t % 4
    assert not pads.any(), "pad rows of the scales"
print("agrees")
"""


def test_one_head_a_program_writes_what_the_definition_says_and_zeros_in_pad_rows():
    done = subprocess.run(
        [sys.executable, "-c", AS_DEFINED],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "agrees", done.stderr[-2000:]


class Keys:
    """Stands for a decorated kernel; keeps what Triton would compile for each launch."""

    def __init__(self, kernel, backend):
        from triton.runtime.jit import create_function_from_signature

        self._bind = create_function_from_signature(kernel.signature, kernel.params, backend)
        self.seen = []

    def __getitem__(self, grid):
        def launch(*args, **kwargs):
            _, kinds, _ = self._bind(*args, **kwargs)
            self.seen.append((grid, str(kinds)))

        return launch


def variants(monkeypatch, pinned, heads, groups):
    """Give the distinct kinds of launches over the token counts, on an sm90 by Triton's rules."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend

    backend = make_backend(GPUTarget("cuda", 90, 32))
    made = []

    def jit(fn, do_not_specialize):
        made.append(Keys(real(fn, do_not_specialize=do_not_specialize), backend))
        return made[-1]

    real = triton.jit
    monkeypatch.setattr(triton, "jit", jit)
    config = rope_config(heads, groups)
    call = one_head_call(config, pinned)
    cache = make_cos_sin_cache(8, 64)
    for t in TOKENS:
        o = torch.empty(t, heads, 512, dtype=torch.bfloat16)
        call(o, torch.empty(t, dtype=torch.int64), cache, new_out(config, t, "cpu"))
    (keys,) = made
    assert [grid for grid, _ in keys.seen] == [(-(-t // 4) * 4, heads) for t in TOKENS]
    return {kinds for _, kinds in keys.seen}


@pytest.mark.parametrize(("heads", "groups"), SHAPES)
@pytest.mark.parametrize(("way", "expected"), [("before", 4), ("seed", 2)])
def test_pinning_the_number_of_tokens_leaves_the_stride_that_is_made_of_it(
    monkeypatch, way, expected, heads, groups
):
    assert len(variants(monkeypatch, PINNED[way], heads, groups)) == expected


def test_pinning_the_strides_as_well_leaves_one_variant(monkeypatch):
    pinned = ("num_tokens", "scale_column_stride")
    assert len(variants(monkeypatch, pinned, *SHAPES[1])) == 1


def test_the_kernel_compiles_for_an_h200():
    from quantmux.bench.seeds.inverse_rope_one_head_kernel import one_head

    pointers = {"o": "*bf16", "positions": "*i64", "cache": "*fp32", "data": "*fp8e4nv",
                "scales": "*fp32"}  # fmt: skip
    constants = {"HEADS_OF_GROUP": 8, "D": 512, "ROPE": 64, "GROUP": 128, "FMAX": 448.0,
                 "EPS": 1e-10}  # fmt: skip
    kernel = triton.jit(one_head)
    integers = [n for n in kernel.arg_names if n not in pointers and n not in constants]
    assert integers[0] == "num_tokens"
    code = compile_triton(
        kernel,
        {**pointers, **dict.fromkeys(integers, "i32")},
        constants,
        Arch.parse("90"),
        {"num_warps": 1, "num_stages": 1},
        divisible_by_16=tuple(pointers),
    )
    assert code
