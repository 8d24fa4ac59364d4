import pytest


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
