"""``silu(gate) · up`` on fp32 values, as a device function.

The definition rounds ``gate / (1 + exp(-gate)) · up`` in fp32 at each step; what is quantized may
differ from it by 2^-20 relative (`quantmux.ops.quantize.compare`). Here the exponential and the
reciprocal are the GPU's own instructions, of 2 units and of 1 in the last place. What an
``exp2(x · log2 e)`` loses is the rounding of its argument, |x| · 2^-24: too much for gates below
-11. Two multiply-adds find that error and a third applies it, with x = -gate::

    p = RZ(x · L)       L next below log2 e and rounded towards 0: the error has the sign of x
    d = x - p · ln 2    by fused multiply-adds, ln 2 in two parts
    exp(x) = 2^p · exp(d) = 2^p + 2^p · d + ...    |d| < 2^-14 where 2^p is a number

``gate · share`` is then within 10 units of 2^-24 and the product within 11, with both instructions
at their worst; the definition's own roundings are within 5. Together that is what is allowed.
Without the correction the kernels are 3 to 5 % faster (2048x4096: 10.99 µs against 11.59, H200,
2026-11-21), and wrong by up to 75 units where a block's largest product has a gate near -88.

For x beyond the range 2^p is Inf, and d > 0 keeps it so: the quotient is 0 as the definition's.
Rounding towards 0 keeps p finite for every finite x. Only where exp(-gate) is above 2^126 (gates
between -88.7 and -87.3) is the reciprocal flushed to 0, and the product, below 2^-119 · |up|, too.
An infinite gate gives NaN, where the definition may give Inf: either way the block's scale is NaN.
Where the scale is given it makes a difference, and KEEP_INF bounds x.
"""

import triton
import triton.language as tl

_LN2_HIGH = tl.constexpr(0.6931471824645996)
_LN2_LOW = tl.constexpr(-1.9046542121259336e-09)
# beyond it exp is 0 or Inf in fp32; finite, so that the correction is finite too
_FAR = tl.constexpr(200.0)


@triton.jit
def reciprocal(s, HW: tl.constexpr):
    """Give 1 / s of scales: within one unit in the last place by the instruction, else rounded."""
    if HW:
        y = tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [s], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        y = tl.div_rn(tl.full(s.shape, 1.0, tl.float32), s)
    return y


@triton.jit
def silu_mul(gate, up, HW: tl.constexpr, KEEP_INF: tl.constexpr = False):
    """Give ``gate / (1 + exp(-gate)) · up`` of fp32 tensors.

    Args:
        gate: fp32.
        up: fp32 of the same shape.
        HW: Whether to use the instructions for 2^x and 1/x; False (the interpreter, other GPUs)
            computes what the definition says.
        KEEP_INF: Whether an infinite gate has to give what the definition gives, not NaN.
    """
    if HW:
        # a unary minus would be 0 - gate, an addition; this becomes a sign of others' operands
        x = tl.inline_asm_elementwise(
            "neg.f32 $0, $1;", "=f,f", [gate], tl.float32, is_pure=True, pack=1
        )
        if KEEP_INF:
            x = tl.minimum(tl.maximum(x, -_FAR), _FAR)
        # L = 1.44269490 by its bits: the fp32 number next below log2(e)
        p = tl.inline_asm_elementwise(
            "mul.rz.f32 $0, $1, 0f3FB8AA3A;", "=f,f", [x], tl.float32, is_pure=True, pack=1
        )
        power = tl.inline_asm_elementwise(
            "ex2.approx.ftz.f32 $0, $1;", "=f,f", [p], tl.float32, is_pure=True, pack=1
        )
        d = tl.fma(p, -_LN2_LOW, tl.fma(p, -_LN2_HIGH, x))
        power = tl.fma(power, d, power)
        product = (gate * reciprocal(1.0 + power, HW)) * up
    else:
        product = tl.div_rn(gate, 1.0 + tl.exp(-gate)) * up
    return product
