"""quantmux bench seeds: what is asked, printed and written."""

# ruff: noqa: ARG002 - the arguments are the protocol's

import json

import pytest

from quantmux.bench.gate import Checked
from quantmux.bench.seeds import known
from quantmux.bench.seeds.experiment import (
    About,
    Claim,
    Experiment,
    Made,
    Prepared,
    SeedCase,
    Variant,
)
from quantmux.bench.seeds.report import NO_NUMBERS
from quantmux.cli import main
from quantmux.registry.default import set_default_registry

ON_HOST = ("--device", "cpu")


class One(Experiment):
    """One case, whose before may be wrong."""

    about = About("one", 1, "one case", Claim("ten times", "somebody"), "nothing")
    is_right = True

    def cases(self, stage):
        return [SeedCase("the case", {"m": 1})]

    def prepare(self, case, stage):
        def variant(name, role, ok):
            made = Made((lambda: 1,), lambda _: Checked(ok, "", "" if ok else "it is wrong"))
            return Variant(name, role, lambda: made)

        variants = (variant("old", "before", self.is_right), variant("new", "ours", True))
        return Prepared(variants, 1)


@pytest.fixture
def run(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("QUANTMUX_PLUGINS", raising=False)

    def command(*args):
        code = main([str(arg) for arg in args])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    yield command
    set_default_registry(None)


@pytest.fixture
def only_one(monkeypatch):
    monkeypatch.setattr(One, "is_right", True)
    monkeypatch.setattr(known, "_load", lambda _: One())
    return One


def test_a_host_prints_the_tables_and_that_the_figures_mean_nothing(run):
    code, out, err = run("bench", "seeds", *ON_HOST, "--only", "placeholder,padded_weights")
    assert code == 0, err
    assert out.count(NO_NUMBERS) == 2
    assert "vllm#43677" in out
    assert "13.5% TTFT" in out
    assert "before/ours" in out
    assert "silu_mul" not in out


@pytest.mark.usefixtures("only_one")
def test_the_result_is_json_with_the_claims_and_is_written_under_its_name(run, tmp_path):
    code, out, err = run(
        "bench", "seeds", *ON_HOST, "--json", "--out", tmp_path, "--only", "placeholder"
    )
    assert code == 0, err
    data = json.loads(out)
    assert data["experiments"]["one"]["claim"] == {
        "figure": "ten times", "measured": "somebody", "ratios": None,
    }  # fmt: skip
    assert {row["kind"] for row in data["rows"]} == {"before", "ours", "aa"}
    (file,) = tmp_path.iterdir()
    assert file.name == f"{data['date']}-cpu-seeds.json"
    assert json.loads(file.read_text()) == data


def test_a_variant_that_disagrees_is_the_exit_code_and_is_named(run, only_one, monkeypatch):
    monkeypatch.setattr(only_one, "is_right", False)
    code, out, err = run("bench", "seeds", *ON_HOST, "--only", "placeholder")
    assert code == 1
    assert "FAILED" in out
    assert "one: old was not timed on the case" in err
    assert "it is wrong" in err


def test_an_experiment_that_raises_is_the_exit_code_and_is_named(run, only_one, monkeypatch):
    def breaks(*_):
        raise OSError("no process could be started")

    monkeypatch.setattr(only_one, "run", breaks)
    code, _, err = run("bench", "seeds", *ON_HOST, "--only", "placeholder")
    assert code == 1
    assert "one: it could not be run" in err
    assert "no process could be started" in err


def test_a_name_that_is_no_experiment_is_a_mistake_of_usage(run):
    code, _, err = run("bench", "seeds", *ON_HOST, "--only", "placeholdr")
    assert code == 2
    assert 'did you mean "placeholder"' in err


def test_seeds_is_a_verb_beside_the_ops_of_bench(run):
    code, out, _ = run("bench", "seeds", "--help")
    assert code == 0
    assert "quantmux bench seeds [OPTIONS]" in out
    code, out, _ = run("bench", "--help")
    assert code == 0
    assert "quantmux bench [OPTIONS]" in out
    assert "bench seeds" in out
    code, _, err = run("bench", "--quick", "seeds")
    assert code == 2
    assert "quantmux bench seeds --help" in err


def test_a_device_that_is_not_here_is_refused(run):
    code, _, err = run("bench", "seeds", "--device", "b200")
    assert code == 2
    assert "bench seeds needs a device that is here" in err
