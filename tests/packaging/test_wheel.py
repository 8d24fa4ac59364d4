"""What a user receives: sdist, then the wheel built from that sdist, as an index would serve it."""

import configparser
import stat
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PACKAGES = {
    "quantmux": ROOT / "core/quantmux",
    "quantmux_cutlass": ROOT / "backends/cutlass/quantmux_cutlass",
    "quantmux_flashinfer": ROOT / "backends/flashinfer/quantmux_flashinfer",
    "quantmux_torch": ROOT / "backends/torch/quantmux_torch",
    "quantmux_triton": ROOT / "backends/triton/quantmux_triton",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    # Without isolation: hatchling is in the environment, so that no network is needed.
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def wheel(built):
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.fixture(scope="module")
def info(wheel):
    """Name of the wheel's dist-info folder."""
    (name,) = {n.partition("/")[0] for n in wheel.namelist() if ".dist-info/" in n}
    return name


def test_wheel_has_these_top_level_names_and_no_other(wheel, info):
    # Hence neither tests nor docs, examples or benchmarks, whatever they are called.
    assert {name.partition("/")[0] for name in wheel.namelist()} == {*PACKAGES, info}


@pytest.mark.parametrize("package", PACKAGES)
def test_wheel_has_every_file_of_a_package(wheel, package):
    # All of them: kernels in .cu, evidence and tuning rows travel beside the modules.
    ours = {
        f"{package}/{path.relative_to(PACKAGES[package]).as_posix()}"
        for path in PACKAGES[package].rglob("*")
        # nor the locks that `--record package` leaves, which git does not know either
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".lock"
    }
    assert f"{package}/py.typed" in ours
    assert {n for n in wheel.namelist() if n.startswith(f"{package}/")} == ours


def test_plugins_toml_is_a_regular_file(wheel):
    # In the tree it is a link to the root's; a link in a wheel would be a file holding a path.
    entry = wheel.getinfo("quantmux/plugins.toml")
    assert not stat.S_ISLNK(entry.external_attr >> 16)
    assert wheel.read(entry) == (ROOT / "plugins.toml").read_bytes()
    assert "policy" in tomllib.loads(wheel.read(entry).decode())


def test_entry_points_lead_to_modules_in_the_wheel(wheel, info):
    points = configparser.ConfigParser()
    points.read_string(wheel.read(f"{info}/entry_points.txt").decode())
    assert dict(points["console_scripts"]) == {"quantmux": "quantmux.cli:main"}
    assert dict(points["quantmux.backends"]) == {
        "cutlass": "quantmux_cutlass.plugin",
        "flashinfer": "quantmux_flashinfer.plugin",
        "torch": "quantmux_torch.plugin",
        "triton": "quantmux_triton.plugin",
    }
    assert dict(points["pytest11"]) == {"quantmux": "quantmux.testing.plugin"}
    names = set(wheel.namelist())
    assert "quantmux/testing/plugin.py" in names
    assert "quantmux/testing/suite/test_conformance.py" in names
    assert "quantmux/cli/__init__.py" in names
    for module in points["quantmux.backends"].values():
        assert f"{module.replace('.', '/')}.py" in names


def test_metadata_names_version_licence_and_extras(wheel, info):
    meta = Parser().parsestr(wheel.read(f"{info}/METADATA").decode())
    version = (ROOT / "core/quantmux/_version.py").read_text(encoding="utf-8")
    assert f'__version__ = "{meta["Version"]}"' in version
    assert meta["License-Expression"] == "Apache-2.0"
    assert f"{info}/licenses/LICENSE" in wheel.namelist()
    assert set(meta.get_all("Provides-Extra")) == {"cutlass", "demo", "dev", "flashinfer"}


def test_sdist_has_what_a_build_needs(built):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "LICENSE", "README.md", "plugins.toml"} <= names
    assert "core/quantmux/plugins.toml" in names
