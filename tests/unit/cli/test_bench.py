"""bench: what is asked, what is printed, what is written."""

import importlib
import json
from types import SimpleNamespace

import pytest

from quantmux.config import LinearConfig, QuantizeConfig
from quantmux.registry.default import set_default_registry
from quantmux.registry.user_folder import user_folder

QUICK = ("--quick", "--device", "cpu")
SMALL = ("--shapes", "64x128", "--m", "1,4", "--scheme", "fp8_tensor")


def kernels(answer):
    return [row for row in answer.json["rows"] if row["kind"] == "kernel"]


def test_prints_a_table_with_ceilings_and_noise(cli):
    found = cli("bench", "linear", *QUICK, *SMALL, "--peers", "bf16")
    assert found.code == 0
    assert "ceilings: copy" in found.out
    assert "A/A" in found.out
    assert "torch/linear_emulated" in found.out
    assert "torch bf16" in found.out


def test_json_is_the_result_and_nothing_else(cli):
    found = cli("bench", "linear", *QUICK, *SMALL, "--json")
    assert set(found.json) >= {"device", "date", "versions", "ceilings", "rows"}
    assert {(row["n"], row["k"], row["m"]) for row in kernels(found)} == {
        (64, 128, 1),
        (64, 128, 4),
    }
    assert all(row["us"] > 0 for row in kernels(found))


@pytest.mark.parametrize(
    "op",
    [
        "quantize",
        "silu_mul_quantize",
        "inverse_rope_quantize",
        "rmsnorm_quantize",
        "rope_quantize",
        "relayout",
    ],
)
def test_every_op_can_be_measured(cli, op):
    shape = "16" if "rope" in op else "256"
    found = cli("bench", op, *QUICK, "--shapes", shape, "--m", "4", "--json")
    assert found.code == 0
    assert {row["op"] for row in kernels(found)} == {op}
    assert all(row["us"] > 0 for row in kernels(found))


def test_a_checkpoint_is_measured_by_its_distinct_layers(cli, quantized):
    found = cli("bench", quantized("fp8_block128"), *QUICK, "--m", "1", "--json")
    assert found.code == 0
    # two layers of three linears each; those of one shape are measured once
    assert {(row["n"], row["k"]) for row in kernels(found)} == {(64, 128), (128, 128), (128, 192)}


def test_only_the_asked_kernels_are_measured_whatever_their_tier(cli):
    found = cli("bench", "linear", *QUICK, *SMALL, "--kernels", "*/linear_reference", "--json")
    assert {row["pipeline"][-1] for row in kernels(found)} == {"torch/linear_reference"}


def test_consumers_are_timed_alone_where_asked(cli):
    found = cli("bench", "linear", *QUICK, *SMALL, "--gemm", "--json")
    assert {row["part"] for row in kernels(found)} == {"pipeline", "gemm"}


def test_writes_result_and_picture(cli, tmp_path):
    plot = tmp_path / "r.svg"
    found = cli("bench", "linear", *QUICK, *SMALL, "--out", tmp_path, "--plot", plot)
    assert found.code == 0
    (file,) = tmp_path.glob("*.json")
    assert file.name.endswith("-cpu-linear-fp8_tensor.json")
    assert json.loads(file.read_text())["device"] == "cpu"
    assert plot.read_text().startswith("<svg")


def test_a_wrong_kernel_is_not_timed_and_the_exit_code_says_so(cli, monkeypatch):
    from quantmux_torch.linear_emulated import kernel

    bind = type(kernel).bind

    def wrong(self, config, prepared, device):
        run = bind(self, config, prepared, device)
        return lambda x, *, out=None: run(x, out=out) * 1.1

    monkeypatch.setattr(type(kernel), "bind", wrong)
    found = cli("bench", "linear", *QUICK, *SMALL)
    assert found.code == 1
    assert "FAILED" in found.out
    assert "relative error" in found.err


def test_recorded_times_are_what_selection_ranks_by(cli, monkeypatch):
    monkeypatch.setattr("quantmux.bench.run.measure_ceilings", lambda *_, **__: {"copy_gb_s": 9.0})
    found = cli("bench", "linear", "--device", "cpu", *SMALL, "--record")
    assert found.code == 0
    file = user_folder() / "tuning" / "cpu.json"
    data = json.loads(file.read_text())
    by_m = {}
    for row in data["rows"]:
        by_m.setdefault(row["m"], {})[row["pipeline"][-1]] = row["us"]
    assert set(by_m) == {1, 4}
    # the order of the two is turned round by hand, and selection follows
    set_default_registry(None)  # a new process would read the file anew
    first = cli("explain", "linear", "--scheme", "fp8_tensor", "--n", "64", "--k", "128", "--json")
    winner = first.json["ranges"][0]["pipeline"][-1]
    for row in data["rows"]:
        row["us"] = 900.0 if row["pipeline"][-1] == winner else 1.0
    file.write_text(json.dumps(data))
    set_default_registry(None)
    again = cli("explain", "linear", "--scheme", "fp8_tensor", "--n", "64", "--k", "128", "--json")
    assert again.json["ranges"][0]["pipeline"][-1] != winner


def test_doctor_tells_of_times_that_do_not_count(cli):
    folder = user_folder() / "tuning"
    folder.mkdir(parents=True)
    (folder / "cpu.json").write_text('{"schema": 1, "device": "cpu", "rows": [{"us": -1}]}')
    found = cli("doctor", "--device", "cpu")
    assert "measured times on cpu" in found.out
    assert "not counted" in found.out
    assert cli("doctor", "--device", "cpu", "--json").json["tuning"]["rows"] == 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("linaer",), "did you mean"),
        (("linear", "--model", "dsv9"), "did you mean"),
        (("linear", "--shapes", "64*128"), "N×K"),
        (("linear", "--shapes", "0x128"), "N×K"),
        (("linear", "--shapes", "64x128", "--model", "dsv3"), "both say"),
        (("linear", "--m", "0"), "numbers above 0"),
        (("linear", "--operand", "fp8_token"), "takes no --operand"),
        (("quantize", "--scheme", "nvfp4"), "takes no --scheme"),
        (("relayout", "--layout", "row_major"), "SOURCE:TARGET"),
        (("linear", "--scheme", "fp9"), "not a preset"),
        (("linear", "--peers", "deepgem"), "did you mean"),
        (("linear", "--peer-env", "deepgemm"), "PEER=FOLDER"),
        (("linear", "--plot", "r.pdf"), ".svg and .png"),
        (("./weights-of-mine",), 'no op and no checkpoint "./weights-of-mine"'),
        (("linaer",), 'did you mean "linear"?'),
        (("linear", "--quick", "--record"), "quick run"),
        (("linear", "--device", "b200"), "device that is here"),
    ],
)
def test_a_question_that_cannot_be_is_refused_before_anything_runs(cli, args, words):
    found = cli("bench", *args, *(() if "--device" in args else ("--device", "cpu")))
    assert found.code == 2
    assert words in found.err


def test_default_cases_are_small_where_a_quick_look_is_asked():
    from quantmux.cli._bench_cases import cases_of

    blank = dict.fromkeys(("scheme", "operand", "layout", "shapes", "model"))
    plain = {"m": None, "in_dtype": "bf16", "out_dtype": "bf16", "bias": False}
    full = cases_of("linear", blank, **plain, quick=False)
    assert len(full) == 24
    assert isinstance(full[0].config, LinearConfig)
    assert len(cases_of("linear", blank, **plain, quick=True)) == 2
    widths = cases_of("quantize", {**blank, "model": "dsv3"}, **plain, quick=False)
    assert [case.config for case in widths[:1]] == [QuantizeConfig(operand="fp8_group128", n=7168)]
    # DeepSeek V3's linears have six widths
    assert len({case.config for case in widths}) == 6


def test_a_result_names_the_command_without_folders_of_one_machine(cli, tmp_path, monkeypatch):
    out = tmp_path / "result.json"
    args = ["bench", "linear", *QUICK, *SMALL, "--out", str(out), "--peer-env", f"bf16={tmp_path}"]
    args += ["--kernels", "torch/linear_emulated"]
    monkeypatch.setattr("sys.argv", ["quantmux", *args])
    assert cli(*args).code == 0
    command = json.loads(out.read_text())["command"]
    assert command.startswith("quantmux bench linear --quick")
    assert "result.json" in command
    assert str(tmp_path) not in command
    assert "torch/linear_emulated" in command  # an id is no path


def test_a_plot_that_cannot_be_drawn_is_refused_before_anything_is_timed(cli, monkeypatch):
    monkeypatch.setattr("quantmux.bench.roofline.util.find_spec", lambda _name: None)
    monkeypatch.setattr("quantmux.bench.run.run_bench", lambda *_: pytest.fail("it was timed"))
    found = cli("bench", "linear", *QUICK, *SMALL, "--plot", "r.png")
    assert found.code == 2
    assert "cairosvg" in found.err


def test_the_bar_begins_with_nothing_done(monkeypatch):
    module = importlib.import_module("quantmux.cli.bench")
    done = []
    monkeypatch.setattr(
        "rich.progress.Progress.update", lambda *_, **at: done.append(at["completed"])
    )
    monkeypatch.setattr(
        "quantmux.bench.run.run_bench", lambda _plan, _context, tell: [tell("one"), tell("two")]
    )
    module._run(SimpleNamespace(cases=(1,), environments=()), None)
    assert done == [0, 1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--record-to", "package"), "times of a host are not recorded"),
        (("--quick", "--record"), "quick run is not recorded"),
        (("--out", "FILE/result.json"), "cannot write into"),
        (("--out", "FILE/folder"), "cannot write into"),
    ],
)
def test_what_could_not_be_kept_is_refused_before_anything_is_measured(
    cli, tmp_path, monkeypatch, options, said
):
    def measured(*_):
        raise AssertionError("minutes were spent")

    monkeypatch.setattr("quantmux.bench.run.run_bench", measured)
    (tmp_path / "FILE").write_text("")
    given = [option.replace("FILE", str(tmp_path / "FILE")) for option in options]
    found = cli("bench", "linear", "--device", "cpu", *SMALL, *given)
    assert found.code == 2
    assert said in found.err
