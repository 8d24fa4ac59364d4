"""The table of the CUTLASS backend: read from its result alone."""

import pytest

from .conftest import ROOT, script

PAGE = ROOT / "docs" / "cutlass-speed.md"


@pytest.fixture(scope="module")
def markdown():
    return script("cutlass_markdown")


def row(kernel, us, *, kind="kernel", m=16, n=576, k=7168, scheme="fp8_channel_token", **more):
    blank = {
        "op": "linear",
        "case": f"linear {scheme} N={n} K={k} M={m}",
        "kernel": kernel,
        "kind": kind,
        "part": "gemm",
        "us": us,
        "host_us": None,
        "pct_of_ceiling": 50.0,
        "aa_noise": None,
        "status": "ok" if us else "failed",
        "reason": "",
        "scheme": scheme,
        "n": n,
        "k": k,
        "m": m,
    }
    return {**blank, **more}


def report(*rows):
    return {
        "title": "NVIDIA H200",
        "date": "2026-11-21",
        "ceilings": {"copy_gb_s": 4268.0, "fp8_tflops": 1400.0, "bf16_tflops": 770.0},
        "versions": {"torch": "2.11.0"},
        "missing": {},
        "protocol": {},
        "rows": list(rows),
    }


def line(text, reach):
    return next(found for found in text.splitlines() if reach in found)


def test_a_ratio_is_the_geometric_mean_over_cases_that_both_have_a_time_for(markdown):
    vllm = "vLLM cutlass_scaled_mm"
    text = markdown.table(
        report(
            row("cutlass/linear_fp8_small_m", 4.0),
            row("cutlass/linear_fp8_small_m, PDL off", 5.0),
            row(vllm, 8.0, kind="peer"),
            row("cutlass/linear_fp8_small_m", 2.0, m=64),
            row("cutlass/linear_fp8_small_m, PDL off", 5.0, m=64),
            row(vllm, 16.0, kind="peer", m=64),
            row("cutlass/linear_fp8_small_m", 1.0, m=1),  # vLLM has no time here
        )
    )
    # (8/4 · 16/2)^½ = 4, least 2, and without overlap (8/5 · 16/5)^½
    assert "| 4.00x (2.00x), 2 cases | 2.26x |" in line(text, "≥ 1.1x vLLM CUTLASS")


def test_a_triton_kernel_that_is_faster_does_not_count_as_ours(markdown):
    rows = [
        row("cutlass/linear_a", 4.0),
        row("triton/b", 1.0),
        row("torch._scaled_mm", 8.0, kind="peer"),
    ]
    text = markdown.table(report(*rows))
    assert "2.00x (2.00x), 1 cases" in line(text, "≥ 1.8x torch._scaled_mm")
    assert "| **4.00** | – | a | 1.00 |" in text


def test_many_rows_are_held_against_the_best_of_two_peers_and_are_not_in_the_mean_of_few(markdown):
    text = markdown.table(
        report(
            row("cutlass/linear_fp8", 100.0, m=4096),
            row("vLLM cutlass_scaled_mm", 90.0, kind="peer", m=4096),
            row("torch._scaled_mm fast", 80.0, kind="peer", m=4096),
        )
    )
    assert "0.80x (0.80x), 1 cases" in line(text, "≥ 0.98x the best")
    assert "not measured" in line(text, "≥ 1.1x vLLM CUTLASS")


def test_what_failed_is_missing_or_left_out_stands_below_the_table(markdown):
    data = report(row("cutlass/linear_fp8", None, reason="relative error 1"))
    data["missing"] = {"DeepGEMM": "not installed"}
    data["protocol"] = {"left_out": ["block: …"]}
    text = markdown.table(data)
    assert "Not timed: cutlass/linear_fp8 on" in text
    assert "Not here: DeepGEMM: not installed" in text
    assert "Left out by the budget: 1 cases." in text


def test_padding_is_held_against_both_ways_and_the_next_aligned_size(markdown):
    whole = {"part": "pipeline", "host_us": 10.0}
    size = {"n": 2048, "k": 1368}
    text = markdown.padded(
        report(
            row("torch/q → cutlass/linear_fp8_small_m", 5.0, **size, **whole),
            row("torch/q → cutlass/other", 9.0, **size, **whole),
            row("pad on every call", 20.0, kind="peer", **size, part="pipeline", host_us=80.0),
            row("pad at load, slice on every call", 8.0, kind="peer", **size, part="pipeline"),
            row("torch/q → cutlass/linear_fp8_small_m", 5.1, n=2048, k=1376, **whole),
        )
    )
    assert "| **5.00** | 20.00 (4.00x) | 8.00 (1.60x) | 5.10 (1.02x) | 10.00 | 80.00 | – |" in text
    assert "4.00x pad on every call, 1.60x pad at load, slice on every call, 1.02x aligned" in text
    assert "8.00x pad on every call." in text


def quantizer(kernel, us, *, m, n=7168, scheme="nvfp4_static", layout="swizzled_128x4", **more):
    case = f"quantize {scheme} n={n} {layout} padded_n=7168 from bf16 M={m}"
    return row(kernel, us, op="quantize", case=case, m=m, n=n, scheme=scheme, **more)


def test_quantizers_are_held_against_copy_the_other_backend_and_the_full_width(markdown):
    ours, theirs = "cutlass/quantize_nvfp4", "triton/quantize_nvfp4"
    text = markdown.table(
        report(
            quantizer(ours, 20.0, m=4096, pct_of_ceiling=83.0),
            quantizer(ours + ", PDL off", 21.0, m=4096, pct_of_ceiling=79.0),
            quantizer(theirs, 24.0, m=4096),
            quantizer(ours, 20.5, m=4096, n=7152, pct_of_ceiling=81.0),
            quantizer("quantize, then pad", 60.0, m=4096, n=7152, kind="peer"),
            quantizer(ours, 1.0, m=16, layout="row_major"),
            quantizer(theirs, 1.2, m=16, layout="row_major"),
            quantizer(ours + "_dynamic", 30.0, m=4096, scheme="nvfp4", pct_of_ceiling=50.0),
        )
    )
    assert "| NVFP4 quantizer, M ≥ 4096 | ≥ 80 % of copy | 81–83 % | 79–79 % |" in text
    assert "(our Triton quantizer) | 1.20x (1.20x), 2 cases |" in text
    assert "padded 7152 → 7168 ≤ 3 % | +2.5% at M = 4096 |" in text
    assert "| 4096×7168 | swizzled_128x4 | given | **20.00** | 21.00 | 24.00 | – | 83 |" in text
    assert "| 4096×7152 | swizzled_128x4 | given | **20.50** | – | – | 60.00 | 81 |" in text
    assert "| 4096×7168 | swizzled_128x4 | found | **30.00** | – | – | – | 50 |" in text
    assert "| 16×7168 | row_major | given | **1.00** |" in text


def test_tables_of_the_page_are_those_of_the_results_it_names(markdown):
    page = PAGE.read_text(encoding="utf-8")
    assert markdown.filled(page, ROOT / "benchmarks" / "results") == page
