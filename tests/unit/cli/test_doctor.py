import subprocess
import sys

import pytest


def test_names_environment_plugins_and_policy(cli):
    answer = cli("doctor", "--device", "cpu", "--json")
    data = answer.json
    assert answer.code == 0
    assert data["usable"] is True
    assert set(data) >= {
        "quantmux",
        "environment",
        "devices",
        "plugins",
        "policy",
        "unknown_variables",
    }
    assert set(data["environment"]) >= {"python", "platform", "torch", "pydantic", "cuda_driver"}
    plugins = {p["name"]: p for p in data["plugins"]}
    assert set(plugins) >= {"cutlass", "flashinfer", "torch", "triton"}
    assert plugins["torch"]["status"] == "ok"
    assert plugins["cutlass"]["status"] == "unavailable"
    assert plugins["cutlass"]["reasons"]


def test_tells_of_misspelt_variables(cli, monkeypatch):
    monkeypatch.setenv("QUANTMUX_PLUGIN", "x")
    assert cli("doctor", "--device", "cpu", "--json").json["unknown_variables"] == {
        "QUANTMUX_PLUGIN": "QUANTMUX_PLUGINS"
    }
    assert "QUANTMUX_PLUGIN is set" in cli("doctor", "--device", "cpu").out


def test_fails_when_nothing_works(cli, policy):
    off = "\n".join(f"[plugins.{name}]\nenabled = false" for name in ("torch", "triton"))
    answer = cli("doctor", "--device", "cpu", "--plugins", policy(off))
    assert answer.code == 1
    assert "not usable" in answer.out
    assert "disabled" in answer.out


def test_policy_file_is_forgotten_when_the_command_ends(cli, policy):
    off = policy("[plugins.torch]\nenabled = false")
    assert cli("doctor", "--device", "cpu", "--plugins", off).code == 1
    assert cli("doctor", "--device", "cpu").code == 0


@pytest.fixture
def broken_plugin(tmp_path):
    info = tmp_path / "acme-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[quantmux.backends]\nacme = acme_plugin\n")
    (tmp_path / "acme_plugin.py").write_text("raise RuntimeError('no such library')\n")
    return tmp_path


def test_shows_a_plugin_that_raises_and_goes_on(broken_plugin):
    code = (
        "import sys; sys.path.append(sys.argv[1]); from quantmux.cli import main; "
        "sys.exit(main(['doctor', '--device', 'cpu', '--json']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(broken_plugin)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert '"status": "failed"' in done.stdout
    assert "RuntimeError: no such library" in done.stdout
    assert "going on without it" in done.stderr
    assert "Traceback" not in done.stderr


def test_text_fits_100_columns(cli):
    for line in cli("doctor", "--device", "cpu").out.splitlines():
        assert len(line) <= 100
        assert line == line.rstrip()
