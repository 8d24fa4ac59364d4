"""The machine code of SiLU·mul and inverse RoPE, compiled for GPUs that need not be here."""

from collections import Counter

import pytest
import triton
from triton.backends.compiler import GPUTarget

from quantmux.capability.arch import Arch
from quantmux.config import InverseRopeQuantizeConfig, SiluMulQuantizeConfig
from quantmux_triton.inverse_rope_quantize import tokens
from quantmux_triton.inverse_rope_quantize.tokens_kernel import inverse_rope_kernel
from quantmux_triton.launcher import TYPE_NAMES
from quantmux_triton.silu_mul_quantize import fp8_group, tensor, token
from quantmux_triton.silu_mul_quantize.fp8_group_kernel import silu_mul_fp8_group_kernel
from quantmux_triton.silu_mul_quantize.tensor_kernel import (
    silu_mul_amax_kernel,
    silu_mul_tensor_kernel,
)
from quantmux_triton.silu_mul_quantize.token_kernel import silu_mul_token_kernel

SM90 = Arch.parse("90")
ROPE = InverseRopeQuantizeConfig(heads=16, head_dim=512, rope_dim=64, groups=1)


@pytest.mark.parametrize(
    "kernel",
    [
        silu_mul_fp8_group_kernel,
        silu_mul_token_kernel,
        silu_mul_tensor_kernel,
        silu_mul_amax_kernel,
        inverse_rope_kernel,
    ],
    ids=lambda kernel: kernel.__name__,
)
def test_no_integer_and_no_address_makes_a_variant(kernel):
    pointers = {"x", "o", "data", "scales", "source", "partial", "positions", "cache"}
    for parameter in kernel.params:
        if parameter.is_constexpr or parameter.name in ("eps", "scale_ub"):
            continue
        assert parameter.do_not_specialize or parameter.do_not_specialize_on_alignment, (
            parameter.name
        )
        assert (parameter.name in pointers) == (not parameter.do_not_specialize), parameter.name


@pytest.mark.parametrize("kernel", [fp8_group.kernel, token.kernel, tensor.kernel])
def test_rows_are_read_sixteen_bytes_at_a_time(kernel):
    name = {
        fp8_group.kernel: "fp8_group128",
        token.kernel: "fp8_token",
        tensor.kernel: "fp8_tensor",
    }
    config = SiluMulQuantizeConfig(operand=name[kernel], n=4096)
    for launcher, kinds in kernel.plan(config, SM90).launchers().items():
        found = _memory_accesses(launcher, kinds)
        if launcher.constexprs["ALIGNED"]:
            assert found["ld.global.v4.b32"] >= 2
            assert not found["ld.global.b16"]
            wide = found["st.global.v4.b32"] + found["st.global.v2.b32"]
            assert wide or "amax" in launcher.fn.__name__
            assert not found["st.global.b8"]
        else:
            assert found["ld.global.b16"]


def test_heads_are_read_once_and_sixteen_bytes_at_a_time():
    plan = tokens.TokensPlan(ROPE, SM90)
    found = _memory_accesses(plan.aligned, plan.kinds())
    lanes = 32 * plan.aligned.options["num_warps"]
    tile = plan.aligned.constexprs["TOKENS"] * plan.aligned.constexprs["HEADS"]
    cosines = found["ld.global.v4.b32"] - tile * 512 // lanes // 8
    assert 0 <= cosines <= 4
    assert not found["ld.global.b16"]
    assert not found["st.global.b8"]


def test_it_compiles_where_there_is_no_fp8_type():
    sm80 = Arch.parse("80")
    assert all(c.code for c in tokens.kernel.compile_for(ROPE, sm80))
    config = SiluMulQuantizeConfig(operand="fp8_group128", n=1408, layout="col_major_aligned4")
    assert all(c.code for c in fp8_group.kernel.compile_for(config, sm80))


def _memory_accesses(launcher, kinds):
    """Count the kinds of loads from and stores to global memory in the PTX for sm_90."""
    fn = launcher.fn
    runtime = [name for name in fn.arg_names if name not in launcher.constexprs]
    types = {
        name: TYPE_NAMES.get(kind, "fp32" if isinstance(kind, float) else "i32")
        for name, kind in zip(runtime, kinds, strict=True)
    }
    signature = {name: types.get(name, "constexpr") for name in fn.arg_names}
    source = triton.compiler.ASTSource(fn, signature, dict(launcher.constexprs), {})
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=launcher.options)
    words = (line.split() for line in compiled.asm["ptx"].splitlines())
    return Counter(
        word.rstrip(";")
        for line in words
        for word in line
        if word.startswith(("ld.global", "st.global"))
    )
