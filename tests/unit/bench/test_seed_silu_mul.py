"""The experiment `silu_mul`: its ways, how they are judged, and its two Triton kernels."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from quantmux.bench.seeds import silu_mul_ways as ways
from quantmux.bench.seeds.measure import measure
from quantmux.bench.seeds.rows import SeedRow
from quantmux.bench.seeds.silu_mul import COMPILED, LARGE, OURS, PAIR, SEED, TWO, SiluMul
from quantmux.bench.seeds.silu_mul_check import as_the_op, rounded_between
from quantmux.bench.seeds.silu_mul_launch import Launch
from quantmux.bench.seeds.silu_mul_remarks import FUSED_BYTES, PAIR_BYTES, TWO_BYTES
from quantmux.bench.seeds.stage import stage_for
from quantmux.capability.detect import HERE_CPU
from quantmux.config import QuantizeConfig, SiluMulQuantizeConfig
from quantmux.ops.numerics import saturating_cast
from quantmux.ops.quantize.reference import quantize
from quantmux.ops.quantized import DTYPES
from quantmux.ops.silu_mul_quantize.reference import silu_mul, silu_mul_quantize
from quantmux.ops.spec import Call
from quantmux.runtime.context import default_context


def config_of(n=256, group=128, dtype="bf16"):
    return SiluMulQuantizeConfig(operand=f"fp8_group{group}", n=n, in_dtype=dtype)


def x_of(config, m=7, seed=0):
    drawn = torch.Generator().manual_seed(seed)
    return torch.randn(m, 2 * config.n, generator=drawn).to(DTYPES[config.in_dtype])


def plain_quantizer(config):
    asked = QuantizeConfig(operand=config.operand, n=config.n, in_dtype=config.in_dtype)
    return lambda product: quantize(product, asked)


@pytest.fixture
def stage():
    return stage_for(default_context(), HERE_CPU)


@pytest.fixture
def on_a_gpu(stage):
    """A stage that says full, to be asked for cases only."""
    return replace(stage, size="full")


def test_the_full_grid_is_the_one_of_the_pull_request_and_one_case_beside_it(on_a_gpu):
    cases = SiluMul().cases(on_a_gpu)
    asked = {tuple(case.facts[k] for k in ("m", "n", "group", "dtype")) for case in cases}
    assert len(cases) == len(asked) == 4 * 5 * 2 * 2 + 1
    assert {(a, b) for a, b, *_ in asked} == {
        *((m, n) for m in (16, 128, 512, 2048) for n in (1024, 2048, 4096, 5120, 14336)),
        LARGE,
    }
    quick = SiluMul().cases(replace(on_a_gpu, size="quick"))
    assert {case.name for case in quick} < {case.name for case in cases}
    assert {"2048×14336 group 128 bf16"} <= {case.name for case in quick}


def test_every_variant_of_the_tiny_form_is_right_on_numbers_it_has_not_seen(stage):
    rows = measure(SiluMul(), stage)
    assert {row.status for row in rows} == {"ok"}, [row.reason for row in rows]
    first = [row for row in rows if row.case == rows[0].case]
    assert [(row.kernel, row.kind, row.is_main) for row in first][:5] == [
        (PAIR, "before", True),
        (TWO, "before", False),
        (COMPILED, "before", False),
        (SEED, "seed", True),
        (OURS, "ours", True),
    ]
    assert first[-1].kind == "aa"


@pytest.mark.parametrize("group", [64, 128])
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_ways_that_round_between_agree_within_their_two_roundings(group, dtype):
    config = config_of(group=group, dtype=dtype)
    call = Call((x_of(config),))
    for way in (ways.torch_pair, ways.two_kernels):
        found = rounded_between(config, call, way(config, plain_quantizer(config))(*call.args))
        assert found.ok, found.reason


def test_the_definition_itself_passes_the_looser_check():
    config = config_of()
    call = Call((x_of(config),))
    assert rounded_between(config, call, silu_mul_quantize(*call.args, config)).ok


def spoilt_code(q, _):
    data = q.data.view(torch.uint8).clone()
    at = (data[:, 1] & 0x78).argmax()  # a number that is not next to zero
    data[at, 1] = (data[at, 1] & 0x80) | ((data[at, 1] & 0x7F) - 2)
    return replace(q, data=data.view(q.data.dtype))


def spoilt_scale(q, _):
    scales = q.scales.clone()
    scales[2, 1] *= 1.02
    return replace(q, scales=scales)


def shifted_scales(q, _):
    return replace(q, scales=q.scales.roll(1, 1))


def wasted_range(q, values):
    """Codes that fit their scales, which are larger than they need to be."""
    scales = q.scales * 1.05
    wide = scales.repeat_interleave(q.n // scales.shape[1], 1)
    return replace(q, data=saturating_cast(values / wide, q.data.dtype), scales=scales)


@pytest.mark.parametrize("spoil", [spoilt_code, spoilt_scale, shifted_scales, wasted_range])
def test_the_looser_check_sees_what_two_roundings_cannot_explain(spoil):
    config = config_of()
    call = Call((x_of(config),))
    # exact, so that what is spoilt is all that is off
    q = silu_mul_quantize(*call.args, config)
    found = rounded_between(config, call, spoil(q, silu_mul(*call.args)))
    assert not found.ok
    assert found.reason


def test_the_looser_check_sees_up_in_the_place_of_gate():
    config = config_of()
    x = x_of(config)
    gate, up = x.chunk(2, dim=1)
    q = silu_mul_quantize(torch.cat([up, gate], dim=1), config)
    assert not rounded_between(config, Call((x,)), q).ok


def test_the_looser_check_refuses_another_layout_and_what_is_not_quantized():
    config = config_of()
    call = Call((x_of(config),))
    other = config.replace(layout=config.layout.replace(scales="col_major"))
    assert not rounded_between(config, call, silu_mul_quantize(*call.args, other)).ok
    assert not rounded_between(config, call, silu_mul(*call.args)).ok


def test_the_seed_floors_the_scale_where_the_op_floors_amax():
    config = config_of()
    x = x_of(config) * 1e-2  # products around 1e-4, below 1/512
    codes, scales = ways.seed_in_torch(x, 128, 448.0)
    assert bool((scales == torch.tensor(1.0 / (448 * 512))).all())
    assert bool((silu_mul_quantize(x, config).scales < 1e-6).all())
    assert float(codes.to(torch.float32).abs().max()) < 448  # it gives range away there


def test_the_seed_agrees_with_the_op_where_its_floor_is_not_reached():
    config = config_of(group=64, dtype="fp16")
    x = x_of(config)
    assert as_the_op(config, Call((x,)), ways.seed(config)(x)).ok


def test_one_graph_serves_every_m():
    torch._dynamo.reset()
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    config = config_of()
    run = ways.compiled_pair(config, backend=backend)
    for m in (16, 128, 5):
        x = x_of(config, m)
        found = rounded_between(config, Call((x,)), run(x))
        assert found.ok, found.reason
    assert len(graphs) == 1


def test_the_formula_of_every_width_is_compiled_on_its_own_with_m_alone_left_open():
    torch._dynamo.reset()
    shapes = []

    def backend(graph, _):
        held = [n.meta["example_value"] for n in graph.graph.nodes if n.op == "placeholder"]
        (x,) = (value for value in held if isinstance(value, torch.Tensor))
        shapes.append(tuple(isinstance(size, torch.SymInt) for size in x.shape))
        return graph.forward

    # more than dynamo keeps of one code; a width that was another one before stays a number
    for n in range(128, 128 * 11, 128):
        config = config_of(n)
        x = x_of(config, 4)
        q = ways.compiled_pair(config, backend=backend)(x)
        assert rounded_between(config, Call((x,)), q).ok
    assert shapes == [(True, False)] * 10


class Jitted:
    """As Triton's functions: gives what it compiled, which can be launched."""

    def __init__(self):
        self.calls = []

    def __getitem__(self, grid):
        def launch(*args, **options):
            self.calls.append(("jit", grid, args, options))
            return Compiled(self.calls)

        return launch


class Compiled:
    def __init__(self, calls):
        self.calls = calls

    def __getitem__(self, grid):
        return lambda *args: self.calls.append(("compiled", grid, args))


def test_a_launch_goes_by_triton_once_and_then_by_what_it_compiled():
    jitted = Jitted()
    launch = Launch(jitted, {"N": 8, "G": 4}, 2)
    launch((1, 1, 1), "x", "y")
    launch((3, 1, 1), "z", "y")
    constants = {"N": 8, "G": 4, "num_warps": 2, "enable_fp_fusion": True}
    assert jitted.calls == [
        ("jit", (1, 1, 1), ("x", "y"), constants),
        ("compiled", (3, 1, 1), ("z", "y", 8, 4)),
    ]


INTERPRETED = """
import json
import torch
from quantmux.bench.seeds.silu_mul_launch import Launch
from quantmux.bench.seeds.silu_mul_product_kernel import silu_mul_product_kernel
from quantmux.bench.seeds.silu_mul_seed_kernel import silu_mul_seed_kernel
from quantmux.bench.seeds.silu_mul_ways import SEED_LEAST_SCALE, seed_in_torch
from quantmux.ops.silu_mul_quantize.reference import silu_mul

torch.manual_seed(1)

def far(x):
    return float(torch.nan_to_num(x, nan=torch.inf).abs().max())


worst = {"scale": 0.0, "quotient": 0.0, "product": 0.0, "floored": 0}
for dtype in (torch.bfloat16, torch.float16):
    for width, size in ((64, 1.0), (128, 1.0), (128, 1e-2)):
        m, n = 3, 384
        x = (torch.randn(m, 2 * n) * size).to(dtype)
        # fp32, as the interpreter's own cast to fp8 is not to nearest even
        codes, scales = torch.full((m, n), torch.nan), torch.full((m, n // width), torch.nan)
        constants = {"G": width, "FMAX": 448.0, "LEAST": SEED_LEAST_SCALE}
        launch = Launch(silu_mul_seed_kernel, constants, width // 32)
        launch((m, n // width, 1), x, codes, scales, n)
        _, want = seed_in_torch(x, width, 448.0)
        worst["scale"] = max(worst["scale"], far(scales / want - 1))
        worst["floored"] += int((scales == SEED_LEAST_SCALE).sum())
        back = codes * scales.repeat_interleave(width, 1)
        apart = far(back - silu_mul(x)) / far(silu_mul(x))
        worst["quotient"] = max(worst["quotient"], apart)
        if float(codes.abs().max()) > 448.0:
            worst["quotient"] = float("inf")
    guarded = torch.full((m + 1, n), torch.nan)
    product = guarded[:m]
    Launch(silu_mul_product_kernel, {"BLOCK": 256}, 1)((m, 2, 1), x, product, n)
    worst["product"] = max(worst["product"], far(product - silu_mul(x)) / far(silu_mul(x)))
    if not bool(guarded[m].isnan().all()):
        worst["product"] = float("inf")  # beyond its end
print(json.dumps(worst))
"""


def test_the_triton_kernels_compute_what_they_say_in_the_interpreter():
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    worst = json.loads(done.stdout)
    assert worst["scale"] < 2**-20
    assert worst["quotient"] < 2**-20
    assert worst["product"] < 2**-20
    assert worst["floored"] == 2 * 3 * 3  # every group of the small inputs, of both dtypes


def test_remarks_compare_what_ours_took_with_the_others_case_by_case(on_a_gpu):
    facts = {"m": 16, "n": 1024}
    both = [
        SeedRow("silu_mul", "a", PAIR, "before", facts=facts, us=6.0, host_us=30.0, is_main=True),
        SeedRow("silu_mul", "a", OURS, "ours", facts=facts, us=2.0, host_us=10.0, is_main=True),
        SeedRow("silu_mul", "b", PAIR, "before", facts=facts, us=24.0, is_main=True),
        SeedRow("silu_mul", "b", OURS, "ours", facts=facts, us=2.0, is_main=True),
        SeedRow("silu_mul", "c", SEED, "seed", facts=facts, us=9.0, is_main=True),
    ]
    gpu = replace(on_a_gpu, device=replace_name(on_a_gpu.device))
    found = "\n".join(SiluMul().remarks(both, gpu))
    assert f"6.00x {PAIR} (2)" in found  # the geometric mean of 3 and 12
    assert (
        f"host time of an eager call, others over ours, geomean (cases): 3.00x {PAIR} (1)" in found
    )
    assert SEED not in found


@pytest.mark.parametrize(
    ("name", "is_said"),
    [
        ("void at::native::elementwise_kernel<128, 4, silu", True),
        ("void at::native::vectorized_elementwise_kernel<4, silu", False),
    ],
)
def test_remarks_say_when_torch_ran_without_vector_loads(on_a_gpu, name, is_said):
    row = SeedRow("silu_mul", "a", PAIR, "before", us=6.0, launched={name: 1})
    gpu = replace(on_a_gpu, device=replace_name(on_a_gpu.device))
    assert ("without vector loads" in "\n".join(SiluMul().remarks([row], gpu))) == is_said


def replace_name(profile):
    """A device of which only ``is_cuda`` is asked."""
    from types import SimpleNamespace

    return SimpleNamespace(is_cuda=True, name=profile.name)


def test_the_bytes_are_those_of_the_roofline():
    from quantmux.bench.traffic import work

    config = config_of(4096)
    assert work(config, 512).moved / (512 * 4096) == pytest.approx(FUSED_BYTES)
    assert pytest.approx(FUSED_BYTES + 4) == TWO_BYTES
    assert pytest.approx(FUSED_BYTES + 8) == PAIR_BYTES
