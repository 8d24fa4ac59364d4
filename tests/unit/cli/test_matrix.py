import pytest

from quantmux.capability.ledger import EvidenceRow
from quantmux.registry.default import default_registry
from quantmux.registry.digest import kernel_digest
from quantmux.registry.ledger import record_evidence
from quantmux.registry.user_folder import user_folder


@pytest.fixture(autouse=True)
def _nothing_is_shipped(monkeypatch):
    """Hide what the backends ship: these tests say themselves what has been shown."""
    monkeypatch.setattr(
        "quantmux.registry.ledger.row_folders",
        lambda _registry, user: [] if user is None else [(set(), user)],
    )


def test_gives_the_shape_of_the_design(cli):
    data = cli("matrix", "--device", "h200", "--json").json
    assert set(data) >= {"device", "kernels"}
    assert data["device"] == "h200"
    row = data["kernels"][0]
    assert set(row) >= {"id", "op", "backend", "scheme", "tier", "eligible", "evidence"}
    assert set(row["evidence"]) >= {"level", "stale", "cases", "worst_error", "date"}


def test_has_a_row_for_every_kernel_of_every_op(cli):
    rows = cli("matrix", "--device", "b200", "--json").json["kernels"]
    assert {row["op"] for row in rows} == {
        "linear",
        "quantize",
        "silu_mul_quantize",
        "inverse_rope_quantize",
        "rmsnorm_quantize",
        "rope_quantize",
        "relayout",
    }
    linears = [row for row in rows if row["op"] == "linear" and row["scheme"] == "nvfp4"]
    assert "torch/linear_scaled_mm_block" in {row["id"] for row in linears}
    for row in rows:
        assert row["eligible"] == (row["tier"] is not None)
        assert row["eligible"] or row["rejections"]


def test_the_arch_decides(cli):
    def serving(device):
        rows = cli("matrix", "-d", device, "-s", "fp8_block128", "--json").json["kernels"]
        return {row["id"] for row in rows if row["eligible"]}

    assert "torch/linear_scaled_mm_block" in serving("h200")
    assert "torch/linear_scaled_mm_block" not in serving("b200")


def test_several_devices_are_a_list(cli):
    data = cli("matrix", "-d", "h200", "-d", "cpu", "-s", "nvfp4", "--json").json
    assert [item["device"] for item in data["devices"]] == ["h200", "cpu"]


def test_scheme_and_op_narrow_it(cli):
    rows = cli("matrix", "-d", "cpu", "-s", "nvfp4", "--op", "quantize", "--json").json["kernels"]
    assert {row["scheme"] for row in rows} == {
        "nvfp4 row_major",
        "nvfp4 swizzled_128x4",
        "nvfp4 swizzled_8x4",
    }


def test_text_leaves_out_what_was_never_offered(cli):
    short = cli("matrix", "-d", "h200", "--op", "linear", "-s", "nvfp4").out
    full = cli("matrix", "-d", "h200", "--op", "linear", "-s", "nvfp4", "--all").out
    assert "torch/linear_int_mm" not in short
    assert "--all" in short
    assert "torch/linear_int_mm" in full


def test_markdown_is_a_table(cli):
    lines = cli("matrix", "-d", "h200", "-s", "nvfp4", "--format", "md").out.splitlines()
    assert lines[0] == "## h200 (sm90)"
    assert any(line.startswith("| torch/linear_reference | linear | nvfp4 |") for line in lines)


@pytest.mark.parametrize(
    ("args", "near"),
    [
        (("--scheme", "nvfp5"), "nvfp4"),
        (("--op", "liner"), "linear"),
        (("--device", "h20"), "h200"),
    ],
)
def test_refuses_unknown_names_with_the_nearest(cli, args, near):
    answer = cli("matrix", *args)
    assert answer.code == 2
    assert f'did you mean "{near}"?' in answer.err


@pytest.fixture
def record():
    """Record evidence of today's torch kernels in the user's folder."""

    def write(device="h200", kernels=("torch/linear_emulated",), **fields):
        registry = default_registry()
        rows = []
        for name in kernels:
            spec = registry.get(name)
            digest = kernel_digest(spec, registry.folder(spec.backend))
            data = {"kernel": name, "digest": digest, "level": "verified", "cases": 40}
            rows.append(EvidenceRow(**{**data, **fields}))
        return record_evidence(rows, device, user_folder() / "evidence")

    return write


def levels(rows):
    return {row["id"]: row["evidence"]["level"] for row in rows}


def test_evidence_of_the_user_is_shown_for_a_named_device(cli, record, policy):
    record()
    others = ("cutlass", "flashinfer", "triton")
    only_torch = policy("\n".join(f"[plugins.{name}]\nenabled = false" for name in others))
    asked = ("matrix", "-d", "h200", "-s", "nvfp4", "--op", "linear", "--plugins", only_torch)
    rows = cli(*asked, "--json").json["kernels"]
    assert levels(rows)["torch/linear_emulated"] == "verified"
    assert levels(rows)["torch/linear_reference"] == "declared"
    text = cli(*asked).out
    assert "verified, 40 cases" in text
    assert "evidence: 1 verified, 1 declared" in text


def test_level_keeps_what_is_proved_so_far(cli, record):
    record()
    record(kernels=["torch/linear_reference"], digest="0" * 16)
    args = ("matrix", "-d", "h200", "-s", "nvfp4", "--op", "linear", "--json", "--level")
    assert set(levels(cli(*args, "verified").json["kernels"])) == {"torch/linear_emulated"}
    assert cli(*args, "measured").json["kernels"] == []


def test_a_broken_evidence_file_is_told_and_counts_for_nothing(cli, record):
    file = record()
    file.write_text(file.read_text()[:-40])
    answer = cli("matrix", "-d", "h200", "-s", "nvfp4", "--op", "linear")
    assert answer.code == 0
    assert "verified" not in answer.out
    assert f"does not count: {file}: it is no JSON" in answer.out
    assert "does not count" in answer.err
    data = cli("matrix", "-d", "h200", "-s", "nvfp4", "--op", "linear", "--json").json
    assert str(file) in data["evidence_problems"][0]
    doctor = cli("doctor", "-d", "h200", "--json").json["evidence"]
    assert str(file) in doctor["problems"][0]
    assert doctor["kernels"]["verified"] == 0


def test_doctor_counts_and_names_what_is_stale_or_failed(cli, record):
    record()
    record(kernels=["torch/quantize"], failed=3, note="numbers[m=7]")
    record(kernels=["torch/linear_reference"], digest="0" * 16)
    found = cli("doctor", "-d", "h200", "--json").json["evidence"]
    assert {k: n for k, n in found["kernels"].items() if k != "declared"} == {
        "measured": 0,
        "verified": 1,
        "compiled": 0,
        "stale": 1,
        "failed": 1,
    }
    assert found["failed"] == {"torch/quantize": "failed 3 of 43: numbers[m=7]"}
    assert "sources changed since" in found["stale"]["torch/linear_reference"]
    out = cli("doctor", "-d", "h200").out
    assert "1 verified" in out
    assert "torch/quantize: failed 3 of 43" in out


def test_the_policy_may_take_verified_kernels_only(cli, record, policy):
    wants = policy('[policy]\nrequire_evidence = "verified"')
    args = ("explain", "linear", "--scheme", "fp8_w8a16", "--n", "64", "--k", "64", "-d", "h200")
    assert cli(*args, "--plugins", wants, "--json").code == 1
    record()
    record(kernels=["torch/linear_reference"], digest="0" * 16)
    answer = cli(*args, "--plugins", wants, "--json")
    assert answer.code == 0
    assert answer.json["ranges"][0]["pipeline"][-1] == "torch/linear_emulated"
    (why,) = answer.json["rejected"]["torch/linear_reference"]
    assert why["code"] == "evidence"
    assert why["required"] == "verified"
    assert "stale (sources changed since: digest 00000000 was run" in why["actual"]
    assert "quantmux sweep --backend torch --record" in why["hint"]


def test_html_is_one_page_of_every_known_device(cli, tmp_path):
    file = tmp_path / "matrix.html"
    answer = cli("matrix", "--html", file)
    assert answer.code == 0
    assert answer.out.startswith(f"wrote {file}: ")
    text = file.read_text()
    assert text.startswith("<!doctype html>")
    for name in ("cpu", "a100", "h200", "b300", "dgx_spark"):
        assert f"<b>{name}</b>" in text
    assert "torch/</span>linear_scaled_mm_block" in text
    assert file.stat().st_size < 1_500_000


def test_html_takes_the_devices_named_and_what_is_proved(cli, record, tmp_path):
    record()
    file = tmp_path / "matrix.html"
    cli("matrix", "-d", "h200", "-d", "b200", "--level", "verified", "--html", file)
    text = file.read_text()
    assert "linear_emulated" in text
    assert "linear_reference" not in text
    assert "<b>cpu</b>" not in text


@pytest.mark.parametrize(
    "args", [("--json",), ("--format", "md"), ("--level", "proved"), ("--html", "/no/such/x.html")]
)
def test_html_refuses_what_does_not_go_with_it(cli, tmp_path, args):
    assert cli("matrix", "--html", tmp_path / "m.html", *args).code == 2
