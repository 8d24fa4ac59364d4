"""Kernels that compile ahead: three that hold what they claim, and those that do not."""

# ruff: noqa: ARG002 - the arguments are the protocol's

from pathlib import Path

import triton
import triton.language as tl

from quantmux.errors import BuildError
from quantmux.registry.protocol import CompiledCode
from quantmux.testing.compile_cuda import compile_cuda
from quantmux.testing.compile_triton import compile_triton

HERE = Path(__file__).parent
TARGETS = {90: "90a", 100: "100f", 103: "100f", 120: "120f", 121: "120f"}


@triton.jit
def token_quantize(x, codes, scales, n, stride, eps, BLOCK: tl.constexpr):
    """One row: its greatest magnitude, its scale, its codes; the columns beyond n are masked."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < n
    value = tl.load(x + row * stride + column, mask=inside, other=0.0).to(tl.float32)
    scale = tl.div_rn(tl.maximum(tl.max(tl.abs(value), axis=0), eps), 448.0)
    tl.store(scales + row, scale)
    code = tl.div_rn(value, scale).to(tl.float8e4nv)
    tl.store(codes + row * stride + column, code, mask=inside)


class Runs:
    """What the protocol asks for; nothing here is ever called."""

    def bind(self, config, device):
        raise NotImplementedError

    def warmup(self, config, ms):
        raise NotImplementedError


class TokenTriton(Runs):
    def compile_for(self, config, arch):
        types = {"x": "*bf16", "codes": "*fp8e4nv", "scales": "*fp32"}
        numbers = {"n": "i32", "stride": "i32", "eps": "fp32"}
        block = triton.next_power_of_2(config.n)
        code = compile_triton(
            token_quantize, {**types, **numbers}, {"BLOCK": block}, arch, {"num_warps": 4}
        )
        return [code]


class FromSource(Runs):
    def __init__(self, source):
        self._source = HERE / source

    def compile_for(self, config, arch):
        return [compile_cuda(self._source, TARGETS[arch.sm], flags=["-std=c++17"])]


class NoCompiler(Runs):
    def compile_for(self, config, arch):
        raise BuildError("nvcc is not here", code="no_compiler")


class Gives(Runs):
    """Gives what a test tells it to."""

    def __init__(self):
        self.answer = lambda *_: []
        self.calls = []

    def compile_for(self, config, arch):
        self.calls.append((config, arch))
        return self.answer(config, arch)


def object_code(sm=90, target="sm_90a", abi=8):
    """Give the header of a cubin, which is all that is looked at."""
    header = bytearray(64)
    header[:4] = b"\x7fELF"
    header[8] = abi
    header[18] = 190
    header[49 if abi >= 8 else 48] = sm
    return CompiledCode("made_up", target, bytes(header), "test", "1.0")


triton_kernel = TokenTriton()
cuda_kernel = FromSource("row_scale.cu")
hopper_only = FromSource("hopper_only.cu")
missing_tool = NoCompiler()
plain = Runs()
gives = Gives()
