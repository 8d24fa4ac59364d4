"""``silu(gate) · up`` on fp32 values, as a device function.

The definition rounds ``gate / (1 + exp(-gate)) · up`` in fp32 at each step; what is quantized may
differ from it by 2^-20 relative (`quantmux.ops.quantize.compare`). Here the exponential and the
reciprocal are the GPU's own instructions, of 2 units and of 1 in the last place. What an
``exp2(x · log2 e)`` loses is the rounding of its argument, |x| · 2^-24: too much for gates below
-11. Two multiply-adds find that error and a third applies it::

    p = RN(x · L)       L a little below log2 e, so that the error has the sign of x
    d = x - p · ln 2    by fused multiply-adds, ln 2 in two parts
    exp(x) = 2^p · exp(d) = 2^p + 2^p · d + ...    |d| < 2^-14 where 2^p is a number

``gate · share`` is then within 10 units of 2^-24 and the product within 11, with both instructions
at their worst; the definition's own roundings are within 5. Together that is what is allowed.

For x beyond the range 2^p is Inf, and d > 0 keeps it so: the quotient is 0 as the definition's.
Only where exp(-gate) is above 2^126 (gates between -88.7 and -87.3) is the reciprocal flushed to 0,
and the product, below 2^-119 · |up|, with it.
"""

import triton
import triton.language as tl

# log2(e) less 3 units in the last place
_LOG2_E_BELOW = tl.constexpr(1.4426946640014648)
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
def silu_mul(gate, up, HW: tl.constexpr):
    """Give ``gate / (1 + exp(-gate)) · up`` of fp32 tensors.

    Args:
        gate: fp32.
        up: fp32 of the same shape.
        HW: Whether to use the instructions for 2^x and 1/x; False (the interpreter, other GPUs)
            computes what the definition says.
    """
    if HW:
        x = tl.minimum(tl.maximum(-gate, -_FAR), _FAR)
        p = x * _LOG2_E_BELOW
        power = tl.inline_asm_elementwise(
            "ex2.approx.ftz.f32 $0, $1;", "=f,f", [p], dtype=tl.float32, is_pure=True, pack=1
        )
        d = tl.fma(p, -_LN2_LOW, tl.fma(p, -_LN2_HIGH, x))
        power = tl.fma(power, d, power)
        product = (gate * reciprocal(1.0 + power, HW)) * up
    else:
        product = tl.div_rn(gate, 1.0 + tl.exp(-gate)) * up
    return product
