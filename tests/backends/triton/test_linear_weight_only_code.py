"""Device code of the linears that widen their weights: the decoding to the bit, what it costs."""

import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
import triton
import triton.compiler

from quantmux.capability.arch import Arch
from quantmux.config import LinearConfig
from quantmux.ops.numerics import decode_e2m1
from quantmux.ops.quantized import DTYPES
from quantmux_triton.linear import (
    e2m1_decode_kernel,
    fp8_w8a16,
    fp8_w8a16_kernel,
    nvfp4_emulated,
    nvfp4_slabs,
    nvfp4_w4a16,
)
from quantmux_triton.linear.weight_only_config import Tile

WIDTH = np.uint32


def bf16(bits):
    return (bits.astype(WIDTH) << WIDTH(16)).view(np.float32).astype(np.float64)


def fp16(bits):
    return bits.astype(np.uint16).view(np.float16).astype(np.float64)


def to_bf16(values):
    return torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)


def to_fp16(values):
    return values.astype(np.float16).view(np.uint16)


def fused(a, b, c, read, write):
    """Give fma.rn of two numbers in each register; b is a power of two or the sum is exact."""
    halves = []
    for shift in (0, 16):
        x, y, z = (read((r >> WIDTH(shift)) & WIDTH(0xFFFF)) for r in (a, b, c))
        halves.append(write(x * y + z).astype(WIDTH) << WIDTH(shift))
    return halves[0] | halves[1]


def run_assembly(text, operands, results):
    """Run a block of PTX on registers uint32 [n]; gives its results, ``$0`` … first."""
    registers = {f"${results + i}": value for i, value in enumerate(operands)}

    def value(name):
        if name in registers:
            return registers[name]
        return np.full_like(operands[0], int(name, 0), dtype=WIDTH)

    def lop3(a, b, c, table):
        assert int(table, 0) == 0xEA, "(a & b) | c"
        return (value(a) & value(b)) | value(c)

    steps = {
        "mov.b32": value,
        "and.b32": lambda a, b: value(a) & value(b),
        "shl.b32": lambda a, b: value(a) << WIDTH(int(b)),
        "shr.b32": lambda a, b: value(a) >> WIDTH(int(b)),
        "lop3.b32": lop3,
        "fma.rn.bf16x2": lambda a, b, c: fused(value(a), value(b), value(c), bf16, to_bf16),
        "fma.rn.f16x2": lambda a, b, c: fused(value(a), value(b), value(c), fp16, to_fp16),
    }
    for line in text.strip().strip("{}").strip().splitlines():
        name, _, rest = line.strip().rstrip(";").partition(" ")
        if name == ".reg":
            continue
        target, *arguments = re.findall(r"\{[^}]*\}|[^,\s]+", rest)
        if target[0] == "{":
            low, high = re.findall(r"\w+", target)
            registers[low] = value(arguments[0]) & WIDTH(0xFFFF)
            registers[high] = value(arguments[0]) >> WIDTH(16)
        elif arguments[0][0] == "{":
            low, high = re.findall(r"\w+", arguments[0])
            registers[target] = value(low) | (value(high) << WIDTH(16))
        else:
            registers[target] = steps[name](*arguments)
    return [registers[f"${i}"] for i in range(results)]


@pytest.mark.parametrize("name", ["BF16", "FP16"])
def test_the_assembly_decodes_every_nvfp4_code_with_every_scale_exactly(name):
    read = {"BF16": bf16, "FP16": fp16}[name]
    codes = torch.arange(256) % 16
    row = torch.stack([(codes + shift) % 16 for shift in range(16)]).to(torch.uint8)
    words = nvfp4_slabs.pack_codes(row[:, 0::2] | (row[:, 1::2] << 4), 256)[0]
    grid = torch.arange(127).to(torch.uint8).repeat_interleave(16).reshape(127, 16)
    scales = nvfp4_slabs.pack_scales(grid.view(torch.float8_e4m3fn), 256)[0, :, :1]
    made = run_assembly(
        getattr(e2m1_decode_kernel, f"_SCALES_{name}").value,
        [scales.reshape(-1).numpy().view(WIDTH)],
        4,
    )
    pairs = np.ascontiguousarray(words.numpy()).view(WIDTH).reshape(-1)
    for index in range(127):
        chosen = [np.full_like(pairs, m[index]) for m in made for _ in range(2)]
        out = run_assembly(getattr(e2m1_decode_kernel, f"_CODES_{name}").value, [pairs, *chosen], 4)
        scale = float(grid[index, :1].view(torch.float8_e4m3fn).to(torch.float32))
        for j, quarter in enumerate(out):
            halves = np.stack([read(quarter & WIDTH(0xFFFF)), read(quarter >> WIDTH(16))], axis=-1)
            want = decode_e2m1(row[:, 64 * j : 64 * j + 64]).numpy().astype(np.float64)
            assert np.array_equal(halves.reshape(16, 64) * 128, want * scale)


@pytest.mark.parametrize("name", ["BF16", "FP16"])
def test_the_assembly_widens_every_fp8_code_exactly(name):
    read = {"BF16": bf16, "FP16": fp16}[name]
    codes = torch.arange(256, dtype=torch.uint8)
    codes[(codes & 0x7F) == 0x7F] = 0
    words = fp8_w8a16.pack_bytes(codes.reshape(1, 256).view(torch.float8_e4m3fn), 256)
    pairs = words.numpy().reshape(-1).view(WIDTH)
    out = run_assembly(getattr(fp8_w8a16_kernel, f"_CODES_{name}").value, [pairs], 2)
    found = [np.stack([read(r & WIDTH(0xFFFF)), read(r >> WIDTH(16))], axis=-1) for r in out]
    want = codes.view(torch.float8_e4m3fn).to(torch.float64).numpy()
    assert np.array_equal(np.concatenate([f.reshape(-1) for f in found]), want)


def compiled(monkeypatch, kernel, arch, scheme, **changes):
    """Compile a layer's kernel and give what Triton made, the variant for few tokens first."""
    made = []
    compile_ = triton.compile

    def spy(*args, **kwargs):
        made.append(compile_(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(triton, "compile", spy)
    fields = {"in_features": 4096, "out_features": 28672, "scheme": scheme, **changes}
    kernel.compile_for(LinearConfig(**fields), Arch.parse(arch))
    return made


def loop_of(made):
    """Give the instructions of the longest loop in a cubin, by their names."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm"
    if not tool.exists():
        pytest.skip("Triton came without nvdisasm")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        done = subprocess.run([tool, "-c", file.name], capture_output=True, text=True, check=True)
    lines, labels, longest = done.stdout.splitlines(), {}, (0, 0)
    for place, line in enumerate(lines):
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = place
        jump = re.search(r"BRA\S*.*`\((\.L_x_\d+)\)", line)
        if jump and place - labels.get(jump[1], place) > longest[1] - longest[0]:
            longest = (labels[jump[1]], place)
    text = "\n".join(lines[slice(*longest)])
    return re.findall(r"\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9]+)", text)


@pytest.mark.parametrize(
    ("kernel", "scheme"),
    [
        (nvfp4_w4a16.kernel, "nvfp4_w4a16"),
        (fp8_w8a16.kernel, "fp8_w8a16"),
        (nvfp4_emulated.kernel, "nvfp4"),
    ],
)
def test_weights_go_from_registers_to_hoppers_matrix_unit(monkeypatch, kernel, scheme):
    made = compiled(monkeypatch, kernel, "90", scheme)[0]
    ptx, ir = str(made.asm["ptx"]), str(made.asm["ttgir"])
    wgmma = re.findall(r"wgmma\.mma_async\S*\n?[^;]*;", ptx)
    assert wgmma
    # a register operand is a second list in braces, one in shared memory a descriptor
    assert all(call.count("{") == 2 for call in wgmma)
    assert "ttg.dot_op<{opIdx = 0" in ir


@pytest.mark.parametrize(("in_dtype", "most"), [("bf16", 3.2), ("fp16", 3.4)])
def test_a_weight_costs_few_instructions(monkeypatch, in_dtype, most):
    config = LinearConfig(
        in_features=4096, out_features=28672, scheme="nvfp4_w4a16", in_dtype=in_dtype
    )
    tile = Tile(block_n=128, block_m=16, warps=4, stages=3, joined=False)
    launcher = nvfp4_w4a16.kernel.launcher(config, tile)
    made = []
    compile_ = triton.compile
    monkeypatch.setattr(
        triton, "compile", lambda *a, **k: made.append(compile_(*a, **k)) or made[-1]
    )
    x = DTYPES[in_dtype]
    tensors = (torch.int16, torch.int32, x, torch.float32, torch.float32, torch.bfloat16)
    launcher.compile_for(
        Arch.parse("90"), *tensors, torch.float32, torch.int32, *(1 for _ in range(6))
    )
    names = loop_of(made[0])
    assert names.count("HGMMA") == 32, "the loop over slabs"
    assert len(names) * 128 / (128 * 256) < most
