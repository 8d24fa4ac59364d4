"""quantmux-deepgemm from outside: built, installed into a fresh environment, found, asked."""

import ast
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import quantmux as qm
from quantmux.dispatch.tuning_files import parse_tuning

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "examples" / "quantmux-deepgemm"
KERNEL = "deepgemm/fp8_gemm_nt"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("deepgemm")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", out, PACKAGE],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(fresh_environment, wheel):
    made = fresh_environment("deepgemm")
    made.install(wheel)
    return made


ASK = """
import json, sys
import quantmux as qm
answers = []
for device, installed_only, m, config in json.loads(sys.stdin.read()):
    # times decide between contenders that all have one: DeepGEMM's package ships torch's too
    found = qm.explain(
        qm.LinearConfig(**config), device, m=m, installed_only=installed_only,
        deny=["cutlass", "flashinfer", "triton"],
    )
    answers.append({
        "taken": [r.pipeline.ids[-1] for r in found.ranges],
        "tier": [str(r.tier) for r in found.ranges],
        "rejected": {k: [(str(r.code), r.text) for r in v] for k, v in found.rejected.items()},
    })
print(json.dumps([answers, "torch" in sys.modules]))
"""

PLAIN = {"in_features": 7168, "out_features": 4096, "scheme": "fp8_block128"}


def ask(environment, *questions):
    """Ask all at once: a process costs more than an answer."""
    done = environment.run("-c", ASK, input=json.dumps(questions))
    assert done.returncode == 0, done.stderr
    answers, imported_torch = json.loads(done.stdout)
    assert not imported_torch
    return answers


def quantmux(environment, *arguments):
    done = environment.run(environment.folder / "bin" / "quantmux", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_wheel_has_every_file_of_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {n for n in archive.namelist() if ".dist-info/" not in n}
    source = PACKAGE / "quantmux_deepgemm"
    # nor the locks that a run with --record-to package leaves
    files = {
        p
        for p in source.rglob("*")
        if p.is_file() and "__pycache__" not in p.parts and p.suffix != ".lock"
    }
    assert names == {p.relative_to(PACKAGE).as_posix() for p in files}


def test_it_is_found_by_its_entry_point_alone(environment):
    found = {p["name"]: p for p in quantmux(environment, "plugins")["plugins"]}
    record = found["deepgemm"]
    assert (record["distribution"], record["kernels"]) == ("quantmux-deepgemm", 1)


def test_doctor_says_what_is_missing(environment):
    found = {p["name"]: p for p in quantmux(environment, "doctor")["plugins"]}
    assert found["deepgemm"]["status"] == "unavailable"
    reason = "DeepGEMM runs on NVIDIA GPUs, the device is cpu"
    assert found["deepgemm"]["reasons"] == [reason]


def test_matrix_shows_it_native_on_an_h200(environment):
    kernels = quantmux(environment, "matrix", "--device", "h200")["kernels"]
    rows = {k["scheme"]: k for k in kernels if k["id"] == KERNEL and k["eligible"]}
    assert set(rows) == {"fp8_block128", "fp8_block128_pow2"}
    assert {row["tier"] for row in rows.values()} == {"native"}
    # shipped in the wheel, and read there; stale or not is for matrix to say
    file = PACKAGE / "quantmux_deepgemm" / "evidence" / "h200.json"
    (shipped,) = json.loads(file.read_text(encoding="utf-8"))["rows"]
    assert shipped["cases"] > 0
    assert {row["evidence"]["cases"] for row in rows.values()} == {shipped["cases"]}


@pytest.mark.parametrize(
    "file",
    [PACKAGE / "quantmux_deepgemm", ROOT / "backends/torch/quantmux_torch"],
    ids=lambda folder: folder.name,
)
def test_shipped_times_are_those_of_both_contenders_at_the_same_points(file):
    content = parse_tuning((file / "tuning/h200.json").read_text(encoding="utf-8"), "h200")
    assert content.problems == ()
    points = {(r.scheme, r.n, r.k, r.m) for r in content.rows}
    assert {("fp8_block128", 4096, 7168, m) for m in (1, 16, 64, 128, 1024, 4096)} <= points


@pytest.mark.parametrize("scheme", ["fp8_block128", "fp8_block128_pow2", "fp8_block128+exact"])
def test_it_can_serve_at_every_m(environment, scheme):
    config = {**PLAIN, "scheme": scheme}
    for answer in ask(environment, *(("h200", False, m, config) for m in (1, 16, 4096))):
        codes = [code for code, _ in answer["rejected"].get(KERNEL, ())]
        assert KERNEL in answer["taken"] or codes == ["outranked"]
        assert answer["tier"] == ["native"]


REFUSALS = [
    ("h200", {"out_features": 4100}, "align_n", "needs a multiple of 8, found 4100"),
    ("h200", {"in_features": 7176}, "align_k", "needs a multiple of 16, found 7176"),
    ("h200", {"out_dtype": "fp16"}, "out_dtype", "needs bf16, found fp16"),
    ("h200", {"out_dtype": "fp32"}, "out_dtype", "needs bf16, found fp32"),
    ("h200", {"bias": True}, "bias", "needs no bias, found bias"),
    ("h200", {"scheme": "fp8_channel_token"}, "operand", "needs 128x128"),
    ("h200", {"scheme": "nvfp4"}, "operand", "needs fp8_e4m3"),
    ("a100", {}, "arch", "needs 90a, found sm80"),
    ("b200", {}, "arch", "needs 90a, found sm100"),
    ("rtx_pro_6000", {}, "arch", "needs 90a, found sm120"),
]


def test_it_refuses_with_the_reason_where_it_does_not_apply(environment):
    asked = [(device, False, 16, {**PLAIN, **change}) for device, change, *_ in REFUSALS]
    found = ask(environment, *asked)
    for (device, change, code, text), answer in zip(REFUSALS, found, strict=True):
        reasons = dict(answer["rejected"][KERNEL])
        assert code in reasons, (device, change, reasons)
        assert text in reasons[code], (device, change)


def test_it_names_every_package_that_is_missing_here(environment):
    """No machine that runs these tests has the wheels of DeepGEMM: they need a GPU."""
    (answer,) = ask(environment, ("h200", True, 16, PLAIN))
    texts = [text for code, text in answer["rejected"][KERNEL] if code == "needs_package"]
    assert "sgl-deep-gemm needs ==0.1.2, found not installed" in texts
    assert "apache-tvm-ffi needs ==0.1.9, found not installed" in texts


def test_it_is_taken_where_it_was_measured_to_be_faster(environment, tmp_path, monkeypatch):
    write_times(environment, tmp_path, {16: (12.0, 16.0), 4096: (193.0, 150.0)})
    monkeypatch.setenv("QUANTMUX_CACHE_DIR", str(tmp_path))
    small, large = ask(environment, *(("h200", False, m, PLAIN) for m in (16, 4096)))
    assert small["taken"] == [KERNEL]
    assert [code for code, _ in small["rejected"]["torch/linear_scaled_mm_block"]] == ["outranked"]
    assert large["taken"] == ["torch/linear_scaled_mm_block"]
    assert [code for code, _ in large["rejected"][KERNEL]] == ["outranked"]


def test_with_rows_for_one_contender_only_the_order_decides(environment, tmp_path, monkeypatch):
    # far from every shape whose times are shipped
    write_times(environment, tmp_path, {16: (12.0, None)}, n=128, k=128)
    monkeypatch.setenv("QUANTMUX_CACHE_DIR", str(tmp_path))
    config = {**PLAIN, "in_features": 128, "out_features": 128}
    (answer,) = ask(environment, ("h200", False, 16, config))
    assert answer["taken"] == ["torch/linear_scaled_mm_block"]


WRITE = """
import json, sys
from pathlib import Path
from quantmux.dispatch.tuning import TuningRow
from quantmux.dispatch.tuning_files import record_tuning
from quantmux.registry.default import default_registry
from quantmux.registry.digest import kernel_digest
registry = default_registry()
n, k, times = json.loads(sys.argv[2])
def row(consumer, m, us):
    ids = ("torch/quantize", consumer)
    digests = {i: kernel_digest(registry.get(i), registry.folder(i.partition("/")[0])) for i in ids}
    return TuningRow(pipeline=ids, scheme="fp8_block128", n=n, k=k, m=m, us=us, digests=digests)
consumers = ("deepgemm/fp8_gemm_nt", "torch/linear_scaled_mm_block")
rows = [row(c, int(m), us) for m, both in times.items() for c, us in zip(consumers, both) if us]
record_tuning(rows, "h200", Path(sys.argv[1]))
"""


def write_times(environment, folder, times, n=4096, k=7168):
    """Write rows {m: (µs of DeepGEMM, µs of torch)} as a user's own measurement."""
    done = environment.run("-c", WRITE, folder / "tuning", json.dumps([n, k, times]))
    assert done.returncode == 0, done.stderr


def test_its_own_tests_pass(environment, tmp_path):
    done = environment.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", PACKAGE,
                           PACKAGE / "tests", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


def sources(name):
    return sorted(p for p in (ROOT / "examples" / name).rglob("*.py") if "tests" not in p.parts)


FILES = [*sources("quantmux-deepgemm"), *sources("acme_backend")]


@pytest.mark.parametrize("file", FILES, ids=lambda p: str(p.relative_to(ROOT / "examples")))
def test_it_is_written_against_public_names_alone(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            inside = [a.name for a in node.names if a.name.startswith("quantmux.")]
            assert not inside, f"line {node.lineno} imports {inside}"
        elif isinstance(node, ast.ImportFrom):
            assert not (node.module or "").startswith("quantmux."), f"line {node.lineno}"
            if node.module == "quantmux":
                private = [a.name for a in node.names if a.name not in qm.__all__]
                assert not private, f"line {node.lineno}: {private}"
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("qm", "quantmux"):
            assert node.attr in qm.__all__, f"line {node.lineno}: {node.attr}"
