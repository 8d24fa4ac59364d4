"""The sweep over a backend of a third party whose kernels crash, hang, raise and lie."""

import json
import os
import shlex
from pathlib import Path

import pytest

from quantmux.capability.detect import detect_devices
from quantmux.cli import main
from quantmux.registry.default import set_default_registry

HAZARDS = Path(__file__).with_name("sweep_hazards")


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install the backend as pip would: a package and its entry point on the path."""
    info = tmp_path / "site" / "quantmux_hazards-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: quantmux-hazards\nVersion: 1.0\n")
    entry = "[quantmux.backends]\nhazards = quantmux_hazards.plugin\n"
    (info / "entry_points.txt").write_text(entry)
    monkeypatch.syspath_prepend(str(HAZARDS))
    monkeypatch.syspath_prepend(str(info.parent))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    set_default_registry(None)
    yield
    set_default_registry(None)


def swept(capsys, *options, device="cpu", stems=()):
    kernels = [word for stem in stems for word in ("--kernel", f"hazards/{stem}")]
    code = main(["sweep", "--backend", "hazards", "--device", device, "--json", *kernels, *options])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, json.loads(out)


@pytest.mark.usefixtures("installed")
def test_every_hazard_is_told_and_the_sound_kernel_is_proved(capsys):
    options = ("--jobs", "2", "--timeout", "5", "--give-up", "1", "--record")
    stems = ("crashes", "exits", "hangs", "raises", "sound", "zeros")
    code, found = swept(capsys, *options, stems=stems)
    assert code == 1
    kernels = {k["kernel"].partition("/")[2]: k for k in found["kernels"]}
    sound = kernels.pop("sound")
    assert sound["fails"] == 0
    assert sound["agrees"] > 20
    assert all(k["fails"] for k in kernels.values())
    assert all(k["missing"] == 0 for k in kernels.values())
    codes = {}
    for failure in found["failures"]:
        codes.setdefault(failure["kernel"].partition("/")[2], set()).add(failure["code"])
    assert "crash" in codes["crashes"]
    assert "crash" in codes["exits"]
    assert "timeout" in codes["hangs"]
    assert "raised" in codes["raises"]
    assert not codes["zeros"] & {"crash", "timeout"}
    first = {f["kernel"].partition("/")[2]: f["reason"] for f in reversed(found["failures"])}
    assert "SIGSEGV" in first["crashes"]
    assert "_crashes (kernels.py" in first["crashes"]
    assert "exit code 0" in first["exits"]
    assert "_hangs (kernels.py" in first["hangs"]

    file = Path(os.environ["QUANTMUX_CACHE_DIR"]) / "evidence" / "cpu.json"
    rows = {row["kernel"]: row for row in json.loads(file.read_text())["rows"]}
    assert rows["hazards/sound"]["level"] == "verified"
    assert rows["hazards/sound"]["failed"] == 0
    for stem in kernels:
        assert rows[f"hazards/{stem}"]["level"] == "declared"
        assert rows[f"hazards/{stem}"]["failed"] > 0


@pytest.mark.usefixtures("installed")
def test_the_command_that_is_printed_repeats_one_cell(capsys):
    code, found = swept(capsys, "--check", "numbers", "--jobs", "1", stems=("raises",))
    assert code == 1
    failure = found["failures"][0]
    words = shlex.split(failure["repeat"])
    assert words[:2] == ["quantmux", "sweep"]
    code = main([*words[1:], "--json"])
    again = json.loads(capsys.readouterr().out)
    assert code == 1
    assert [f["cell"] for f in again["failures"]] == [failure["cell"]]
    assert again["cells"] == 1
    assert again["kept"] == 0


@pytest.mark.gpu
@pytest.mark.usefixtures("installed")
@pytest.mark.skipif(not detect_devices(), reason="no GPU is here")
def test_a_lost_cuda_context_costs_the_cell_that_lost_it(capsys):
    stems = ("gpu_poisons", "gpu_sound")
    code, found = swept(capsys, "--give-up", "2", device="cuda:0", stems=stems)
    assert code == 1
    poisons, sound = found["kernels"]
    assert sound["fails"] == 0
    assert sound["agrees"] > 20
    lost = [f for f in found["failures"] if f["code"] == "context_poisoned"]
    assert len(lost) == 2
    assert {f["kernel"] for f in found["failures"]} == {"hazards/gpu_poisons"}
    assert poisons["missing"] == 0
