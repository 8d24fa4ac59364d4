import ast
import subprocess
import sys
from pathlib import Path

import pytest

import quantmux_torch
from quantmux.capability.profiles import CPU, PROFILES
from quantmux.config import LinearConfig
from quantmux.config.layouts import layouts_for
from quantmux.config.operands import OPERANDS
from quantmux.config.schemes import SCHEMES
from quantmux.registry.protocol import missing_methods
from quantmux_torch import plugin, vetoes
from quantmux_torch.torch_build import TorchBuild, read_build

ROOT = Path(quantmux_torch.__file__).parent


def test_reading_every_spec_imports_no_torch():
    code = (
        "import sys; from quantmux_torch import plugin;"
        "from quantmux.capability.profiles import CPU;"
        "kernels = list(plugin.quantmux_kernels()); plugin.quantmux_probe(CPU);"
        "assert len(kernels) > 10; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_every_spec_is_valid_and_loads_a_kernel_of_its_role(specs, kernel):
    for spec in specs.values():
        spec.check("torch")
        assert missing_methods(spec.op, kernel(spec.id.partition("/")[2]).loaded) == (), spec.id


def test_ids_are_unique(specs):
    assert len(specs) == len(list(plugin.quantmux_kernels()))


def test_sources_are_exactly_the_files_that_the_kernel_and_its_veto_import(specs):
    def closure(name: str, seen: set[str]) -> set[str]:
        if name in seen:
            return seen
        seen.add(name)
        for node in ast.walk(ast.parse((ROOT / name).read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                "quantmux_torch."
            ):
                closure(node.module.partition(".")[2] + ".py", seen)
        return seen

    for spec in specs.values():
        entry = spec.load.partition(":")[0].partition(".")[2] + ".py"
        read = closure(entry, set())
        if spec.veto is not None:
            closure("vetoes.py", read)
        assert set(spec.sources) == read, spec.id


def test_own_weight_layouts_carry_the_name_of_the_backend(specs):
    for spec in specs.values():
        layout = spec.capability.weight_layout
        assert layout == "canonical" or layout.startswith("torch:"), spec.id


@pytest.mark.parametrize("op", ["quantize", "silu_mul_quantize"])
@pytest.mark.parametrize("name", [n for n in OPERANDS if "block" not in n])
def test_producers_offer_every_operand_in_every_layout(specs, op, name):
    operand = OPERANDS[name]
    offers = [
        offer
        for offer in specs[f"torch/{op}"].capability.produces
        if offer.element == operand.element
        and offer.block in (None, operand.block)
        and operand.scale_rounding in offer.roundings
        and ("dynamic" if operand.dynamic else "static") in offer.scale_modes
        and operand.global_scale in offer.global_scales
    ]
    assert {layout for offer in offers for layout in offer.layouts} >= set(layouts_for(operand))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_reference_serves_every_scheme_on_every_device(kernel, scheme):
    config = LinearConfig(in_features=100, out_features=33, scheme=scheme, bias=True)
    for device in PROFILES.values():
        verdict = kernel("linear_reference").verdict(config, device)
        assert verdict.is_eligible, (device.name, verdict.rejections)
        assert verdict.tier == "reference"


@pytest.mark.parametrize("scheme", [s for s in SCHEMES if not s.startswith("int8")])
def test_the_emulation_serves_every_float_scheme_with_its_activations(kernel, scheme):
    config = LinearConfig(in_features=100, out_features=33, scheme=scheme, bias=True)
    verdict = kernel("linear_emulated").verdict(config, CPU)
    assert verdict.tier == "emulated"
    assert (verdict.offer.activation is None) == (config.scheme.activation is None)


FP8_GPUS = "l40s h100 h200 b200 b300 rtx_pro_6000 dgx_spark"


@pytest.mark.parametrize(
    ("name", "scheme", "devices"),
    [
        ("linear_scaled_mm_tensor", "fp8_tensor", FP8_GPUS),
        ("linear_scaled_mm_tensor", "fp8_tensor_static", FP8_GPUS),
        ("linear_scaled_mm_row", "fp8_channel_token", "h100 h200"),
        ("linear_scaled_mm_row", "fp8_tensor_token", "h100 h200"),
        (
            "linear_scaled_mm_row_cutlass",
            "fp8_channel_token",
            "l40s b200 b300 rtx_pro_6000 dgx_spark",
        ),
        ("linear_scaled_mm_block", "fp8_block128", "h100 h200"),
        ("linear_scaled_mm_block", "fp8_block128_pow2", "h100 h200"),
        ("linear_int_mm", "int8_channel_token", "a100 " + FP8_GPUS),
        ("linear_int_mm_small_m", "int8_channel_token", "a100 " + FP8_GPUS),
        ("linear_int_mm_cpu", "int8_channel_token", "cpu"),
    ],
)
def test_native_kernels_serve_their_architectures_and_no_others(kernel, name, scheme, devices):
    config = LinearConfig(in_features=1368, out_features=100, scheme=scheme)
    served = {
        d.name
        for d in PROFILES.values()
        if kernel(name).verdict(config, d).tier == "native"
        and kernel(name).verdict(config, d).is_eligible
    }
    assert served == set(devices.split())


def test_a_bias_beside_an_fp32_output_is_refused_with_a_hint():
    config = LinearConfig(
        in_features=64, out_features=64, scheme="fp8_tensor", bias=True, out_dtype="fp32"
    )
    refusal = vetoes.no_fp32_bias(config, PROFILES["h200"])
    assert refusal.code == "bias"
    assert refusal.hint
    assert vetoes.no_fp32_bias(config.replace(out_dtype="bf16"), PROFILES["h200"]) is None
    assert vetoes.no_fp32_bias(config.replace(bias=False), PROFILES["h200"]) is None


def test_a_torch_older_than_cuda_12_9_is_refused_only_where_it_would_run(monkeypatch):
    config = LinearConfig(in_features=64, out_features=64, scheme="fp8_channel_token")
    here = PROFILES["h200"].replace(is_present=True)
    build = TorchBuild("2.11.0", "12.8")
    monkeypatch.setattr(vetoes, "installed_torch", lambda: build)
    assert vetoes.no_fp32_bias_and_cublas_12_9(config, here).code == "needs_package"
    assert vetoes.no_fp32_bias_and_cublas_12_9(config, PROFILES["h200"]) is None
    build = TorchBuild("2.11.0", "13.0")
    assert vetoes.no_fp32_bias_and_cublas_12_9(config, here) is None


def test_int8_refuses_a_k_whose_sum_could_overflow():
    config = LinearConfig(in_features=133144, out_features=64, scheme="int8_channel_token")
    assert 133144 * 127**2 < 2**31 <= 133145 * 127**2
    assert vetoes.sum_fits_int32(config, CPU) is None
    assert vetoes.sum_fits_int32(config.replace(in_features=133145), CPU).field == "in_features"


def test_the_build_is_read_from_torchs_own_file():
    text = (
        "from typing import Optional\n__version__ = '2.11.0+cu130'\ncuda: Optional[str] = '13.0'\n"
    )
    assert read_build("2.11.0", text) == TorchBuild("2.11.0+cu130", "13.0")
    assert read_build("2.11.0", "hip: Optional[str] = None\n") == TorchBuild("2.11.0")
    assert TorchBuild("2", "12.8").cuda_version == (12, 8)
    assert TorchBuild("2").cuda_version == ()


def test_the_probe_tells_a_torch_without_cuda_from_one_with(monkeypatch):
    here = PROFILES["h200"].replace(is_present=True)
    monkeypatch.setattr(plugin, "installed_torch", lambda: TorchBuild("2.13.0+cpu"))
    assert plugin.quantmux_probe(here).state == "unavailable"
    assert plugin.quantmux_probe(PROFILES["h200"]).state == "ok"
    assert plugin.quantmux_probe(CPU).state == "ok"
    monkeypatch.setattr(plugin, "installed_torch", lambda: TorchBuild("2.13.0", "13.0"))
    assert plugin.quantmux_probe(here).details == {"torch": "2.13.0", "cuda": "13.0"}
    monkeypatch.setattr(plugin, "installed_torch", lambda: None)
    assert plugin.quantmux_probe(CPU).state == "unavailable"
