"""silu(gate) · up into 16 bit, in one kernel: the first of the two that fusion replaces.

What a good pair of kernels has: 16 bytes a load and a store, the product in fp32, one rounding.
"""

# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201 - device code: pointers have no Python type

import triton
import triton.language as tl


@triton.jit
def silu_mul_product_kernel(x, product, n, BLOCK: tl.constexpr):
    """Write BLOCK columns of one row of the product: grid (M, ceil(n / BLOCK)).

    Args:
        x: bf16 or fp16 [M, 2n] = [gate | up], contiguous, n a multiple of 16.
        product: [M, n] in the dtype of x, contiguous; fp32 to see it before its one rounding.
        n: Columns of the product.
        BLOCK: Columns of a program.
    """
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < n
    gates = x + row * (2 * n)
    gate = tl.load(gates + column, inside, other=0.0).to(tl.float32)
    up = tl.load(gates + n + column, inside, other=0.0).to(tl.float32)
    value = gate * (1.0 / (1.0 + tl.exp(-gate))) * up
    tl.store(product + row * n + column, value.to(product.dtype.element_ty), inside)
