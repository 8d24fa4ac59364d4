"""bench selection: a look on the host, and a run judged again without measuring."""

import json

import pytest

QUICK = ("--quick", "--device", "cpu")
SMALL = ("--shapes", "64x128", "--m", "1,4", "--scheme", "fp8_tensor")


def test_a_quick_look_prints_tables_and_says_that_they_mean_nothing(cli):
    found = cli("bench", "selection", *QUICK, *SMALL)
    assert found.code == 0
    assert "figures mean nothing" in found.out
    assert "what selection takes, over the best of the run" in found.out
    assert "one backend taken everywhere" in found.out


def test_a_result_of_the_host_says_that_its_figures_mean_nothing(cli, tmp_path):
    file = tmp_path / "run.json"
    assert cli("bench", "selection", "--device", "cpu", *SMALL, "--out", file).code == 0
    assert json.loads(file.read_text())["means_nothing"] is True
    again = cli("bench", "selection", "--from", file, "--json")
    assert again.json["means_nothing"] is True


def test_a_run_is_judged_again_without_measuring(cli, tmp_path, monkeypatch):
    file, plot = tmp_path / "run.json", tmp_path / "run.svg"
    assert cli("bench", "selection", *QUICK, *SMALL, "--out", file, "--plot", plot).code == 0
    assert plot.read_text().startswith("<svg")

    def measured(*_):
        raise AssertionError("nothing is to be measured")

    monkeypatch.setattr("quantmux.cli.bench_selection._measure", measured)
    found = cli("bench", "selection", "--from", file, "--json")
    assert found.code == 0
    assert [(c["n"], c["k"], c["m"]) for c in found.json["cells"]] == [(64, 128, 1), (64, 128, 4)]
    assert set(found.json["quality"]) == {
        "as it is", "order only", "held out", "two copies",
    }  # fmt: skip
    assert found.json["rows"] == json.loads(file.read_text())["rows"]


def test_times_of_another_run_may_choose(cli, tmp_path):
    file = tmp_path / "first.json"
    cli("bench", "selection", *QUICK, *SMALL, "--out", file)
    assert cli("bench", "selection", "--from", file, "--json").json["times_known"] == 0
    found = cli("bench", "selection", "--from", file, "--times", file, "--json").json
    assert found["times_known"] == sum(row["kind"] == "kernel" for row in found["rows"])
    assert "first.json" in found["times_from"]
    # its own times choose the best that reads the weights as they lie, within what counts as a tie
    assert found["cells"]
    for cell in found["cells"]:
        assert cell["pick"]["us"] <= 1.031 * cell["on_layout"]["us"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--shapes", "64x128", "--model", "dsv3"), "both say"),
        (("--model", "dsv9"), "did you mean"),
        (("--rounds", "0"), "at least 1"),
        (("--from", "nowhere.json"), "cannot read"),
        (("--quick", "--record-to", "package"), "quick run"),
        (("--plot", "x.gif"), ".svg"),
    ],
)
def test_what_cannot_be_asked_is_told_before_anything_is_measured(cli, monkeypatch, args, words):
    monkeypatch.delattr("quantmux.cli.bench_selection._measure")
    found = cli("bench", "selection", "--device", "cpu", *args)
    assert found.code == 2
    assert words in found.err
