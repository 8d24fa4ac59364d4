"""The tables of the FlashInfer page: read from results, and from what the backend declares."""

import pytest

import quantmux as qm
from quantmux.capability.detect import resolve_device
from quantmux.registry import default_registry
from quantmux.runtime.context import Context

from .conftest import ROOT, script

PAGE = ROOT / "docs" / "flashinfer.md"

INSIDE = "flashinfer/linear_fp8_block_sm90_inside"
BEFORE = "triton/quantize_fp8_group -> flashinfer/linear_fp8_block_sm90"
CUTLASS = "triton/quantize_fp8_group -> cutlass/linear_fp8_block_small_m"


@pytest.fixture(scope="module")
def markdown():
    return script("flashinfer_markdown")


def row(kernel, us, m=16, n=576, k=7168, **more):
    blank = {
        "case": f"linear fp8_block128 N={n} K={k} M={m}",
        "kernel": kernel,
        "kind": "kernel",
        "part": "pipeline",
        "us": us,
        "aa_noise": 0.01,
        "status": "ok" if us else "failed",
        "reason": "",
        "n": n,
        "k": k,
        "m": m,
    }
    return {**blank, **more}


def report(*rows):
    return {
        "title": "NVIDIA H200",
        "date": "2026-11-21",
        "ceilings": {"copy_gb_s": 4200.0},
        "versions": {"torch": "2.11.0"},
        "rows": list(rows),
    }


def test_a_case_shows_each_way_once_and_the_fastest_of_all_in_bold(markdown):
    text = markdown.pipelines(
        report(
            row(INSIDE, 15.0),
            row(BEFORE, 14.0),
            row("torch/quantize -> flashinfer/linear_fp8_block_sm90", 60.0),
            row(CUTLASS, 11.0),
            row("triton/quantize_fp8_group -> cutlass/linear_fp8_block", 12.0),
            row(CUTLASS, 5.0, part="gemm"),  # the product alone is no pipeline
        )
    )
    assert "| N×K | M | `block_sm90` | `block_sm90_inside` | CUTLASS | Triton | torch |" in text
    assert "| 576×7168 | 16 | 14.00 | 15.00 | **11.00** | – | – |" in text
    assert "copy 4200 GB/s; A/A 1.0 % in the median; torch 2.11.0." in text


def test_what_has_no_time_is_named_with_its_reason_and_how_often(markdown):
    failed = [row(INSIDE, None, m=m, reason="relative error 1") for m in (1, 16)]
    text = markdown.pipelines(report(row(CUTLASS, 11.0), *failed))
    assert f"Not timed in 2 cases: {INSIDE}: relative error 1." in text


def test_a_gain_is_the_geometric_mean_over_shapes_that_both_have_a_time_for(markdown):
    text = markdown.gains(
        report(
            row(INSIDE, 10.0),
            row(BEFORE, 20.0),
            row(INSIDE, 10.0, n=4096),
            row(BEFORE, 5.0, n=4096),
            row(CUTLASS, 40.0, n=4096),
            row(CUTLASS, 1.0, n=2112),  # nothing of ours there
        )
    )
    assert "| 16 | 1.00x | 4.00x | – | – |" in text


def test_a_call_shows_what_is_added_to_the_librarys_own(markdown):
    text = markdown.calls(
        {
            "calls": [
                {
                    "kernel": INSIDE,
                    "us": 22.0,
                    "library_us": 20.6,
                    "added_us": 1.4,
                    "plain_us": 35.0,
                    "added_to_plain_us": -13.0,
                    "allocating_us": 24.0,
                },
                {"kernel": BEFORE, "failed": "not built"},
                {"kernel": "torch.empty(16, 4096)", "us": 1.7},
            ]
        }
    )
    assert f"| `{INSIDE}` | 35.00 | 22.00 | -13.00 | 20.60 | +1.40 | 24.00 |" in text
    assert f"| `{BEFORE}` | – | – | – | – | – | – |" in text
    assert "| `torch.empty(16, 4096)` |  | 1.70 |  |" in text


def test_launches_are_named_without_arguments_and_namespaces(markdown):
    name = "void tensorrt_llm::kernels::fp8_blockscale_gemm::scale_1x128_kernel<__nv_bfloat16>"
    text = markdown.launches(
        {
            "launches": [
                {"pipeline": INSIDE, "m": 16, "count": 1, "names": [name]},
                {"pipeline": BEFORE, "m": 16, "failed": "not built"},
            ]
        }
    )
    assert f"| {INSIDE} | 16 | 1 | `scale_1x128_kernel` |" in text
    assert BEFORE not in text


def test_errors_are_the_worst_of_few_rows_and_of_many(markdown):
    def case(m, found):
        return {
            "pipeline": INSIDE,
            "m": m,
            "from_definition": found,
            "from_truth": found + 0.02,
            "definition_loses": 0.025,
        }

    text = markdown.accuracy({"rows": [case(1, 0.002), case(31, 0.005), case(32, 0.004)]})
    assert f"| {INSIDE} | < 32 | 2 | 0.0050 | 0.0250 | 0.0250 |" in text
    assert f"| {INSIDE} | ≥ 32 | 1 | 0.0040 | 0.0240 | 0.0250 |" in text


def test_a_page_without_marks_is_refused(markdown, tmp_path):
    with pytest.raises(ValueError, match="no <!-- kind"):
        markdown.filled("# a page", tmp_path)


@pytest.fixture(scope="module")
def is_of_these_sources():
    """Tell whether what was shown and timed on an H200 is of the sources that are here."""
    inventory = Context(default_registry()).inventory(resolve_device("h200"))
    kernels = (INSIDE, "flashinfer/linear_fp8_block_sm90", "flashinfer/linear_fp8_bmm_cublas")
    return not any(inventory.proof(kernel).stale for kernel in kernels)


def test_tables_of_the_page_are_those_of_the_results_and_of_what_is_declared(
    markdown, is_of_these_sources
):
    page = PAGE.read_text(encoding="utf-8")
    leave = () if is_of_these_sources else ("proved", "selected")  # a new run will say
    assert markdown.filled(page, ROOT / "benchmarks" / "results", leave=leave) == page


@pytest.mark.parametrize(
    ("n", "k", "m", "deny"),
    [
        (24576, 1536, 1, ()),
        (24576, 1536, 8, ()),
        (24576, 1536, 64, ()),
        (576, 7168, 16, ("cutlass", "triton/linear*")),
        (4096, 7168, 24, ("cutlass", "triton/linear*")),
        (7168, 2048, 31, ("cutlass", "triton/linear*")),
    ],
)
def test_the_form_that_quantizes_inside_is_taken_where_it_measured_fastest(
    n, k, m, deny, is_of_these_sources
):
    if not is_of_these_sources:
        pytest.skip("the shipped times are of other sources")
    config = qm.LinearConfig(in_features=k, out_features=n, scheme="fp8_block128")
    (one,) = qm.select(config, "h200", m=m, deny=deny).ranges
    assert one.pipeline.ids == (INSIDE,)


def test_where_a_producer_and_a_linear_are_faster_these_are_taken(is_of_these_sources):
    if not is_of_these_sources:
        pytest.skip("the shipped times are of other sources")
    config = qm.LinearConfig(in_features=7168, out_features=2112, scheme="fp8_block128")
    (one,) = qm.select(config, "h200", m=16).ranges
    assert one.pipeline.ids[-1] == "cutlass/linear_fp8_block_small_m"
    (one,) = qm.select(config, "h200", m=1024, deny=("cutlass", "triton/linear*")).ranges
    assert one.pipeline.ids[-1] == "flashinfer/linear_fp8_block_sm90"
